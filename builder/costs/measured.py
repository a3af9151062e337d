"""What rows took in a run: kept in the run directory by model, device and settings, and used instead of assumptions.

OUT/costs.json    {"measured": [{model, fingerprint, device, batch_size, num_gpus, rows, seconds, loads, load_s}]}
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from cyclepref.builder.costs.gpus import gpu_named
from cyclepref.builder.costs.rates import IMPORTS_S, Rate
from cyclepref.builder.run.folder import Folder
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.run_files import CostsFile

FILE = "costs.json"
CPU = "CPU"
# What came before counts for so many rows at most, so that a machine that became slower or faster is noticed.
REMEMBERED = 5000
# From so many rows on, a measurement is good to a tenth; below, to its square root's share.
SURE_ROWS = 64


@dataclass(frozen=True)
class Measured:
    """Rows that a model made on a device with some settings, and the seconds that they and `loads` loads took. Rows of
    short batches, which are padded, count as whole ones."""

    model: str
    fingerprint: str
    device: str
    batch_size: int
    num_gpus: float
    rows: int
    seconds: float
    loads: int = 0
    load_s: float = 0.0

    @property
    def key(self) -> tuple[str, str, int, float]:
        """What it was measured for."""
        return self.fingerprint, self.device, self.batch_size, self.num_gpus

    @property
    def rate(self) -> Rate:
        """As what is assumed of a model."""
        factor = 1.1 if self.rows >= SURE_ROWS else 1.1 + 0.9 / max(1, self.rows) ** 0.5
        load_s = self.load_s / self.loads if self.loads else IMPORTS_S
        return Rate(self.seconds / self.rows, load_s, f"measured, {self.rows:,} rows on {self.device}", factor)

    def plus(self, other: "Measured") -> "Measured":
        """Both together, the earlier one (`self`) for REMEMBERED rows at most."""
        share = min(1.0, REMEMBERED / self.rows)
        return replace(
            other,
            rows=round(self.rows * share) + other.rows,
            seconds=self.seconds * share + other.seconds,
            loads=self.loads + other.loads,
            load_s=self.load_s + other.load_s,
        )


Kept = Mapping[tuple[str, str, int, float], Measured]


def device_named(name: str) -> str:
    """A device's name as costs are kept by: the type of GPU, if its figures are known."""
    try:
        return gpu_named(name).name
    except ValueError:
        return name


def kept(folder: Folder) -> Kept:
    """What a run directory has, by `Measured.key`."""
    content = folder.read_json(FILE, CostsFile) or {"measured": []}
    found = [Measured(**each) for each in content["measured"]]
    return {each.key: each for each in found}


def keep(folder: Folder, measured: Iterable[Measured]) -> None:
    """Add measurements to those of a run directory."""
    fresh, found = list(measured), dict(kept(folder))
    for each in fresh:
        before = found.get(each.key)
        found[each.key] = before.plus(each) if before else each
    if fresh:
        rows = [found[key] for key in sorted(found)]
        folder.write_json(FILE, {"measured": [{**asdict(each), "seconds": round(each.seconds, 4)} for each in rows]})


def rates(folder: Folder, models: Mapping[str, Resolved], device: str) -> dict[str, Rate]:
    """The measured rates of models by name, of those that were measured with their settings on this device."""
    found = kept(folder)
    mine = {name: found.get(key_of(model, device)) for name, model in models.items()}
    return {name: each.rate for name, each in mine.items() if each}


def rate_anywhere(kept_: Kept, model: Resolved) -> Rate | None:
    """What a model took with its batch size on whatever device was measured last by name: good for a first guess."""
    mine = [each for key, each in sorted(kept_.items()) if key[::2] == (model.fingerprint, model.spec.batch_size)]
    return mine[-1].rate if mine else None


def key_of(model: Resolved, device: str) -> tuple[str, str, int, float]:
    """What a model's costs are kept by. One that needs no GPU runs on none, whatever there is."""
    num_gpus = 0.0 if device == CPU else float(model.spec.num_gpus)
    device = device if num_gpus else CPU
    return model.fingerprint, device, model.spec.batch_size, num_gpus


def measured_of(model: Resolved, told: Mapping[str, Any]) -> Measured:
    """A measurement, from what an engine tells of a model: device, rows, seconds, loads, load_s."""
    fingerprint, device, batch_size, num_gpus = key_of(model, device_named(told["device"]))
    amounts = {name: told[name] for name in ("rows", "seconds", "loads", "load_s")}
    return Measured(model.name, fingerprint, device, batch_size, num_gpus, **amounts)
