"""What models took on their hosts while a build runs, from which costs are kept (builder/costs/measured.py)."""

import math
from dataclasses import dataclass, field

from cyclepref.builder.engine.task import Done


@dataclass
class _Taken:
    """Rows (short batches as whole ones, since they are padded) and seconds; those of each host's first block apart."""

    device: str = ""
    rows: int = 0
    seconds: float = 0.0
    first_rows: int = 0
    first_seconds: float = 0.0
    loads: int = 0
    load_s: float = 0.0
    hosts: set[str] = field(default_factory=set)


class Tally:
    """By model, what its blocks and loads took."""

    def __init__(self) -> None:
        self._of: dict[str, _Taken] = {}

    def took(self, host: str, model: str, batch: int, done: Done) -> None:
        """A host has done a block of a model; one that only gives rows up takes no time, and does not count."""
        if not done.seconds:
            return
        taken = self._of.setdefault(model, _Taken())
        rows = math.ceil(done.rows / batch) * batch
        # A model's first block on a host waits for caches, kernels and compilers too.
        if host in taken.hosts:
            taken.rows, taken.seconds = taken.rows + rows, taken.seconds + done.seconds
        else:
            taken.hosts.add(host)
            taken.first_rows, taken.first_seconds = taken.first_rows + rows, taken.first_seconds + done.seconds
        taken.device = done.device or taken.device

    def loaded(self, model: str, seconds: float) -> None:
        """A host has loaded a model."""
        taken = self._of.setdefault(model, _Taken())
        taken.loads, taken.load_s = taken.loads + 1, taken.load_s + seconds

    def take(self, model: str) -> dict[str, str | int | float] | None:
        """What a model took since it was last asked for; None for nothing. Hosts' first blocks count only where there
        are no others."""
        taken = self._of.get(model)
        if taken is None or not taken.device:
            return None
        rows, seconds = (taken.rows, taken.seconds) if taken.rows else (taken.first_rows, taken.first_seconds)
        told = {"device": taken.device, "rows": rows, "seconds": seconds, "loads": taken.loads, "load_s": taken.load_s}
        self._of[model] = _Taken(hosts=taken.hosts)
        return told
