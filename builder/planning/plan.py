"""A build's price before anything is spent: rows, fit, waves, hours, disk and money, and what all of it rests on."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from cyclepref.builder.costs import measured
from cyclepref.builder.costs.gpus import Gpu
from cyclepref.builder.costs.rates import BANDWIDTH_REACHED, IMAGE_TOKENS, SMALL, STEP_S, UTILISATION, Rate, assumed
from cyclepref.builder.costs.spent import Spent, spent
from cyclepref.builder.engine.plan import Cluster
from cyclepref.builder.planning.facts import Known, known
from cyclepref.builder.planning.fit import Fit, fit, places
from cyclepref.builder.planning.hardware import Hardware
from cyclepref.builder.planning.rows import STAGES, Part, Role, There, parts, roles, there
from cyclepref.builder.planning.waves import Pool, waves
from cyclepref.builder.run.store import Store
from cyclepref.builder.sources.open import open_source
from cyclepref.builder.stages.ingest import list_items
from cyclepref.schemas.direct_specs import DirectSpec
from cyclepref.schemas.recipe import Recipe
from cyclepref.schemas.specs import CaptionerSpec, ModelSpec, PainterSpec

HOUR = 3600
# Bytes of a stored row: a painted PNG's by its pixels, a caption and a similarity with their ids, an input picture.
PNG_BYTES_A_PIXEL, CAPTION_BYTES, SIMILARITY_BYTES, PHOTO_BYTES = 1.5, 700, 150, 1.0e6


@dataclass(frozen=True)
class Line:
    """One model in one stage: its rows, what a row takes, and what all that are left take, in GPU hours (in hours of a
    machine without GPUs). `low` and `high` are those hours if what they rest on is off by its factor."""

    part: Part
    rate: Rate
    fit: Fit | None
    hours: float
    low: float
    high: float


@dataclass(frozen=True)
class Plan:
    """What a build will take. `hours` is how long it runs on all of its hardware, `gpu_hours` what that hardware's GPUs
    could do in this time: the bill. `busy_gpu_hours` is the part of it that models work (`low` to `high`)."""

    recipe: str
    inputs: int
    lines: list[Line]
    pools: list[Pool]
    gpu: Gpu | None
    cluster: Cluster
    hours: float
    ended: dict[str, float]
    disk_bytes: float
    assumptions: list[str]
    uncertainty: str | None
    faults: list[str]
    price_per_hour: float | None = None
    budget_hours: float | None = None
    inputs_in_budget: int | None = None

    @property
    def unit(self) -> str:
        """What its hours are."""
        return "GPU hours" if self.cluster.gpus else "hours"

    @property
    def billed(self) -> float:
        """GPU hours of the cluster, or hours of a machine without GPUs."""
        return self.hours * (self.cluster.gpus or 1)

    @property
    def busy(self) -> tuple[float, float, float]:
        """Hours of work of all models: about, at least and at most, in `unit`."""
        return tuple(sum(getattr(line, name) for line in self.lines) for name in ("hours", "low", "high"))

    @property
    def money(self) -> float | None:
        """What the billed hours cost at the price given."""
        return None if self.price_per_hour is None else self.billed * self.price_per_hour

    def of_stage(self, stage: str) -> list[Line]:
        """A stage's lines."""
        return [line for line in self.lines if line.part.stage == stage]

    def to_dict(self) -> dict[str, Any]:
        """What `cyclepref plan --json` prints."""
        rows = [
            {
                "stage": line.part.stage, "model": line.part.model, "rows": line.part.wanted, "there": line.part.there,
                "left": line.part.left, "row_seconds": line.rate.row_s, "load_seconds": line.rate.load_s,
                "known_from": line.rate.why, "factor": line.rate.factor, "hours": line.hours,
                "memory_gb": line.fit and line.fit.needed_gb, "fits": None if line.fit is None else not line.fit.wrong,
            }
            for line in self.lines
        ]  # fmt: skip
        about, low, high = self.busy
        return {
            "recipe": self.recipe, "inputs": self.inputs, "gpus": self.cluster.gpus,
            "gpu_type": self.gpu and self.gpu.name, "cpus": self.cluster.cpus, "unit": self.unit,
            "hours": self.hours, "billed_hours": self.billed, "busy_hours": about, "busy_hours_low": low,
            "busy_hours_high": high, "stages_ended_hours": self.ended, "models": rows,
            "pools": [
                {**{name: getattr(pool, name) for name in ("models", "num_gpus", "num_cpus", "hosts", "loads")},
                 "begins_hours": pool.begins / HOUR, "ends_hours": pool.ends / HOUR} for pool in self.pools
            ],
            "disk_bytes": self.disk_bytes, "money": self.money, "budget_hours": self.budget_hours,
            "inputs_in_budget": self.inputs_in_budget, "assumptions": self.assumptions,
            "largest_uncertainty": self.uncertainty, "faults": self.faults,
        }  # fmt: skip


def plan(
    recipe: Recipe,
    hardware: Hardware,
    out: Store | None = None,
    inputs: int | None = None,
    price_per_hour: float | None = None,
    budget_hours: float | None = None,
) -> Plan:
    """Reckon what a build of a recipe will take.

    `out` is a run directory that may have a part of it already, with what was measured there. `inputs` plans for so
    many, without looking at the recipe's own. `price_per_hour` is that of one GPU (of the machine, if it has none).

    Raises:
        RecipeError: if the recipe names a model that there is not, or its inputs cannot be listed.
        PlanError: from the schedule, if no node is large enough for a model.
    """
    source, listed, size = None, [], PHOTO_BYTES if recipe.shape.input == "image" else CAPTION_BYTES
    if inputs is None:
        source = open_source(recipe.inputs, recipe.shape.input)
        listed = list_items(source)[: recipe.inputs.limit]
        size = _input_bytes(source, listed) if recipe.shape.input == "image" else size
    found = there(recipe, out, source, listed) if out else There(unread=len(listed))
    count = found.inputs + found.unread if inputs is None else inputs
    roles_ = roles(recipe)
    facts = {role.spec.name: known(role.spec) for role in roles_}
    specs = {name: fact.spec for name, fact in facts.items()}
    rates = {name: assumed(spec, hardware.gpu, hardware.cpus) for name, spec in specs.items()}
    rates |= measured.rates(out, found.models, hardware.device) if out else {}
    lines = [_line(part, rates[part.model], hardware) for part in parts(roles_, count, found, specs)]
    misfit = places(specs, hardware.cluster)
    went = waves([line.part for line in lines if not misfit], rates, hardware.cluster)
    faults = [f"{line.part.model}: {line.fit.wrong}" for line in lines if line.fit and line.fit.wrong]
    made = Plan(
        recipe=recipe.name, inputs=count, lines=lines, pools=went.pools, gpu=hardware.gpu,
        cluster=hardware.cluster, hours=went.seconds / HOUR,
        ended={stage: went.ended[stage] / HOUR for stage in STAGES if stage in went.ended},
        disk_bytes=_disk(lines, recipe, count, size), assumptions=_assumptions(lines, facts, found, roles_, hardware),
        uncertainty=_uncertainty(lines, hardware), faults=list(dict.fromkeys([*misfit, *faults])),
        price_per_hour=price_per_hour, budget_hours=budget_hours,
    )  # fmt: skip
    if not budget_hours:
        return made
    taken = spent(out) if out else Spent()
    left = budget_hours - (taken.gpu_hours if hardware.gpus else taken.hours)
    return replace(made, inputs_in_budget=_enough(made, max(0.0, left), found.inputs))


def _line(part: Part, rate: Rate, hardware: Hardware) -> Line:
    share = part.spec.num_gpus if hardware.gpus else 1
    hours = part.left * rate.row_s * share / HOUR
    fits = fit(part.spec, hardware.gpu) if hardware.gpu and isinstance(part.spec, ModelSpec | DirectSpec) else None
    return Line(part, rate, fits, hours, hours / rate.factor, hours * rate.factor)


def _enough(made: Plan, left_hours: float, there_: int) -> int:
    """For how many inputs the rest of a budget is enough, those that the run directory has among them."""
    new = made.inputs - there_
    return made.inputs if made.billed <= left_hours else there_ + int(new * left_hours / made.billed)


# ---- disk ------------------------------------------------------------------------------------------------------


def _input_bytes(source: Any, listed: list[tuple[str, str]]) -> float:
    """The mean size of a few input pictures as they are stored."""
    some = [name for name, _ in listed[:: max(1, len(listed) // 16)][:16]]
    sizes = [len(content) for content in source.read(some) if isinstance(content, bytes)]
    return sum(sizes) / len(sizes) if sizes else PHOTO_BYTES


def _disk(lines: Iterable[Line], recipe: Recipe, inputs: int, input_bytes: float) -> float:
    """Bytes of the store and of the dataset, which holds each input and candidate once more."""
    total = 2 * inputs * input_bytes
    for line in lines:
        copies = 2 if line.part.stage == "candidates" or recipe.dataset.reconstructions else 1
        total += line.part.wanted * _row_bytes(line.part.spec) * copies
    return total


def _row_bytes(spec: Any) -> float:
    if isinstance(spec, PainterSpec):
        return spec.width * spec.height * PNG_BYTES_A_PIXEL
    return CAPTION_BYTES if getattr(spec, "kind", "") == "captioner" else SIMILARITY_BYTES


# ---- what it rests on ------------------------------------------------------------------------------------------


def _assumptions(
    lines: list[Line], facts: Mapping[str, Known], found: There, roles_: list[Role], hardware: Hardware
) -> list[str]:
    told = [found.not_counted] if found.not_counted else []
    why = {line.rate.why for line in lines}
    specs = [line.part.spec for line in lines if not line.rate.why.startswith(("measured", "stated"))]
    if hardware.gpu and specs:
        gpu = hardware.gpu
        told.append(
            f"one {gpu.name} does {gpu.tflops:g} TFLOPS in half precision and {gpu.tbytes:g} TB/s; models reach "
            f"{UTILISATION:.0%} and {BANDWIDTH_REACHED:.0%} of it"
        )
    if any(isinstance(spec, CaptionerSpec) for spec in specs):
        told.append("every caption is as long as max_new_tokens allows")
    if any(isinstance(spec, CaptionerSpec) and (spec.parameters or 0) > SMALL for spec in specs):
        step = f", and a step of a batch takes {STEP_S * 1000:g} ms at least" if hardware.gpu else ""
        told.append(f"a picture and its question are {IMAGE_TOKENS:,} tokens{step}")
    if any("operations" in each for each in why):
        told.append("a denoising step takes the operations counted from its architecture (`step_tflop`)")
    told += [fact.assumption for fact in facts.values() if fact.assumption]
    if any(role.stage == "reconstructions" for role in roles_):
        shared = f"{found.shared:.0%} of the candidates share" if found.shared else "no two candidates share"
        told.append(f"{shared} a reconstruction, and all inputs are different")
    told.append("reading inputs, deriving pairs and writing the dataset come on top: minutes for thousands of inputs")
    return told


def _uncertainty(lines: list[Line], hardware: Hardware) -> str | None:
    """The model whose assumed speed matters most, and what would settle it."""
    if not any(line.hours for line in lines):
        return None
    worst = max(lines, key=lambda line: line.high - line.low)
    total = sum(line.hours for line in lines)
    unit = "GPU hours" if hardware.gpus else "hours"
    told = (
        f"{worst.part.model} ({worst.part.stage}): {_short(worst.hours)} of {_short(total)} {unit} rest on "
        f"{worst.rate.row_s:.2g} s a row, known from {worst.rate.why} and so {worst.rate.factor:g} times more or less"
    )
    settled = worst.rate.why.startswith("measured")
    return told if settled else f"{told}; --calibrate 32 --out DIR measures it"


def _short(hours: float) -> str:
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.2g}"
