"""What builds of a run directory have taken so far: hours of the clock, and of the GPUs that were there meanwhile.

OUT/spent.json    {"hours": 3.2, "gpu_hours": 25.6}
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from cyclepref.builder.run.folder import Folder
from cyclepref.schemas.run_files import SpentFile

FILE = "spent.json"
# What a build that is killed may have taken uncounted.
WRITE_EVERY_S = 30.0


@dataclass(frozen=True)
class Spent:
    """Hours, and GPU hours: a GPU counts from when the build finds it until the build ends, busy or not."""

    hours: float = 0.0
    gpu_hours: float = 0.0

    def __add__(self, other: "Spent") -> "Spent":
        return Spent(self.hours + other.hours, self.gpu_hours + other.gpu_hours)

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.hours - other.hours, self.gpu_hours - other.gpu_hours)


class Meter:
    """Counts a cluster's hours while a build has it."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._at, self._gpus = clock, None, 0.0
        self._total = Spent()
        self.each_tick: Callable[[], None] = lambda: None

    def tick(self, gpus: float) -> None:
        """There are so many GPUs from now on; the first call begins the count."""
        self._total, self._at, self._gpus = self.read(), self._clock(), gpus
        self.each_tick()

    def read(self) -> Spent:
        """What was taken so far."""
        if self._at is None:
            return self._total
        hours = (self._clock() - self._at) / 3600
        return self._total + Spent(hours, hours * self._gpus)


def spent(folder: Folder) -> Spent:
    """What all builds of a run directory have taken."""
    content = folder.read_json(FILE, SpentFile)
    return Spent(content["hours"], content["gpu_hours"]) if content else Spent()


@contextmanager
def counted(folder: Folder, meter: Meter) -> Iterator[None]:
    """Add what a build takes to its run directory's count, from time to time and at its end, whatever ends it. One
    that starts nothing writes nothing."""
    before, at_first, written = spent(folder), meter.read(), time.monotonic()

    def write() -> None:
        took = meter.read() - at_first
        if took.hours > 0:
            total = before + took
            folder.write_json(FILE, {"hours": round(total.hours, 6), "gpu_hours": round(total.gpu_hours, 6)})

    def now_and_then() -> None:
        nonlocal written
        if time.monotonic() - written >= WRITE_EVERY_S:
            written = time.monotonic()
            write()

    meter.each_tick = now_and_then
    try:
        yield
    finally:
        meter.each_tick = lambda: None
        write()
