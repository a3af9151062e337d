"""How many rows each model of a recipe has to make, and how many of them a run directory has already."""

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.catalog.resolve import metric_spec, model_spec, resolve
from cyclepref.builder.run.blocks import Scratch
from cyclepref.builder.run.lock import holders
from cyclepref.builder.run.store import Store, first_of_each, flat
from cyclepref.builder.stages.derive import Derivation, Models
from cyclepref.builder.stages.ingest import item_rows
from cyclepref.builder.stages.safety import safety_spec
from cyclepref.builder.stages.wanted import Use
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.recipe import Recipe, RecipeError
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.run_files import LockFile
from cyclepref.schemas.specs import Spec

STAGES = ("candidates", "reconstructions", "scores", "safety")
# With so many candidates in the store, the share of them that say the same is taken for that of all.
ENOUGH = 100


@dataclass(frozen=True)
class Role:
    """A model in a stage: what makes its rows, and how many rows of it there are for each input."""

    stage: str
    spec: Any
    each: float


def roles(recipe: Recipe) -> list[Role]:
    """Every model of a recipe in its stage, with the most rows that an input needs of it.

    Raises:
        RecipeError: for a name or setting that there is not.
    """
    cycle = recipe.shape
    forward = [Role("candidates", model_spec(c, cycle.forward_kind), c.samples) for c in recipe.forward]
    candidates = sum(choice.samples for choice in recipe.forward)
    back = candidates * recipe.backward.samples
    found = [*forward, Role("reconstructions", model_spec(recipe.backward, cycle.backward_kind), back)]
    found += [Role("scores", metric_spec(c, cycle.input), back) for c in recipe.all_metrics]
    if recipe.safety:
        pictures = 1 if cycle.input == "image" else candidates
        shown = back if recipe.dataset.reconstructions and cycle.input == "image" else 0
        found.append(Role("safety", safety_spec(recipe.safety), pictures + shown))
    return found


@dataclass
class There:
    """What a run directory has of a recipe: rows by (stage, model), those that failed among them, since they are left
    alone; the models as they are settled, by name; the share of candidates that another one's reconstruction serves;
    and why nothing was counted, if so."""

    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    models: dict[str, Resolved] = field(default_factory=dict)
    shared: float = 0.0
    inputs: int = 0
    not_counted: str | None = None


def there(recipe: Recipe, store: Store, source: Any, listed: list[tuple[str, str]]) -> There:
    """Count what a run directory has of the rows that a recipe asks for, of the `listed` items of its `source`."""
    lock = store.read_json("lock.json", LockFile)
    if lock is None:
        return There()
    try:
        uses, unknown = _settled(recipe, dict(lock))
    except RecipeError as error:
        return There(not_counted=f"the run directory was not looked at: {error}")
    named = {model.name: model for model in (*(use.model for use in uses.forward), uses.backward.model, *uses.metrics)}
    if not all(each.dead(time.time()) for each in holders(store)):
        return There(models=named, not_counted="a build is at work in the run directory: `cyclepref status` counts it")
    found = There(models=named, not_counted=unknown)
    inputs = _inputs(store, source, listed, recipe.shape.input)
    found.inputs = inputs.num_rows
    if inputs.num_rows:
        with Scratch() as scratch:
            _count(found, Derivation(store, scratch, recipe, uses, inputs), store, uses)
    return found


def _settled(recipe: Recipe, lock: dict[str, Any]) -> tuple[Models, str | None]:
    """A recipe's models as the run has settled them. Of a forward model that cannot be settled here, nothing is there:
    the second value says so."""
    cycle, forward, unknown = recipe.shape, [], None
    for choice in recipe.forward:
        try:
            forward.append(Use(resolve(model_spec(choice, cycle.forward_kind), lock), choice.samples))
        except RecipeError as error:
            unknown = f"rows of {choice.label} in the run directory are not counted: {error}"
    backward = Use(resolve(model_spec(recipe.backward, cycle.backward_kind), lock), recipe.backward.samples)
    return Models(forward, backward, [resolve(metric_spec(c, cycle.input), lock) for c in recipe.all_metrics]), unknown


def _inputs(store: Store, source: Any, listed: list[tuple[str, str]], modality: Modality) -> pa.Table:
    """The distinct inputs among the listed items that the store has read."""
    known = store.rows("sources")
    keys = item_rows(source, listed, modality)["source_key"] if listed else pa.chunked_array([[]], pa.string())
    known = known.filter(pc.is_in(known["source_key"], value_set=flat(keys)))
    return first_of_each(known.sort_by("source"), "input_id").select(["input_id", "source"])


def _count(found: There, derived: Derivation, store: Store, uses: Models) -> None:
    candidates = derived.wanted_candidates()
    found.rows |= dict(_by_model("candidates", candidates, "generation_id", "generations", store))
    derived.find_candidates()
    made = sum(rows.num_rows for rows in derived.made)
    back = derived.wanted_reconstructions()
    found.rows |= dict(_by_model("reconstructions", back, "generation_id", "generations", store))
    if made >= ENOUGH:
        found.shared = 1 - back.num_rows / (made * uses.backward.samples)
    derived.find_reconstructions()
    scores = derived.wanted_similarities()
    found.rows |= dict(_by_model("scores", scores, "similarity_id", "similarities", store))


def _by_model(
    stage: str, wanted: pa.Table, key: str, table: str, store: Store
) -> Iterator[tuple[tuple[str, str], int]]:
    ids = wanted[key]
    done = pc.or_(store.ids(table).holds(ids), store.ids("failures").holds(ids))
    counted = pa.table({"model": wanted["model"].cast(pa.string()), "done": done}).group_by("model")
    for row in counted.aggregate([("done", "sum")]).to_pylist():
        yield (stage, row["model"]), row["done_sum"] or 0


@dataclass(frozen=True)
class Part:
    """What one model does in one stage of a build: rows wanted, and those of them that are there."""

    stage: str
    model: str
    spec: Spec
    wanted: int
    there: int

    @property
    def left(self) -> int:
        """Rows to make."""
        return max(0, self.wanted - self.there)


def parts(roles_: list[Role], inputs: int, there_: There, specs: Mapping[str, Spec]) -> list[Part]:
    """The work of so many inputs. `specs` are the models' with all that is known of them, by name."""
    return [
        Part(
            role.stage,
            role.spec.name,
            specs[role.spec.name],
            round(role.each * inputs * (1 - there_.shared if role.stage in ("reconstructions", "scores") else 1)),
            there_.rows.get((role.stage, role.spec.name), 0),
        )
        for role in roles_
    ]
