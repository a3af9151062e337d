"""How many rows each model of a recipe has to make, and how many of them a run directory has already."""

import time
from collections.abc import Mapping
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
    metrics = [metric_spec(choice, cycle.input, recipe.backward) for choice in recipe.all_metrics]
    found = list(forward)
    # As `cyclepref.builder.stages.derive.Models.reconstructs`: metrics of candidates themselves need none.
    if any(spec.compares == "reconstruction" for spec in metrics):
        found.append(Role("reconstructions", model_spec(recipe.backward, cycle.backward_kind), back))
    found += [Role("scores", spec, back if spec.compares == "reconstruction" else candidates) for spec in metrics]
    if recipe.safety:
        pictures = 1 if cycle.input == "image" else candidates
        shown = back if recipe.dataset.reconstructions and cycle.input == "image" else 0
        found.append(Role("safety", safety_spec(recipe.safety), pictures + shown))
    return found


@dataclass
class There:
    """What a run directory has of a recipe.

    `rows` by (stage, model), those that failed among them, since they are left alone. `wanted` of reconstructions and
    scores by the same: those of what has been made, where candidates that say the same share one. `models` as they are
    settled, by name. `inputs` are distinct ones that have been read, `unread` items that have not. `shared` is the
    share of candidates that another one's reconstruction serves. `not_counted` says why something is not in it.
    """

    rows: dict[tuple[str, str], int] = field(default_factory=dict)
    wanted: dict[tuple[str, str], int] = field(default_factory=dict)
    models: dict[str, Resolved] = field(default_factory=dict)
    inputs: int = 0
    unread: int = 0
    shared: float = 0.0
    not_counted: str | None = None

    def of(self, stage: str, counts: dict[tuple[str, str], int]) -> int:
        """All rows of a stage in `rows` or `wanted`."""
        return sum(count for (each, _), count in counts.items() if each == stage)


def there(recipe: Recipe, store: Store, source: Any, listed: list[tuple[str, str]]) -> There:
    """Count what a run directory has of the rows that a recipe asks for, of the `listed` items of its `source`."""
    lock = store.read_json("lock.json", LockFile)
    if lock is None:
        return There(unread=len(listed))
    try:
        uses, unknown = _settled(recipe, dict(lock))
    except RecipeError as error:
        return There(unread=len(listed), not_counted=f"the run directory was not looked at: {error}")
    named = {model.name: model for model in (*(use.model for use in uses.forward), uses.backward.model, *uses.metrics)}
    if not all(each.dead(time.time()) for each in holders(store)):
        told = "a build is at work in the run directory: `cyclepref status` counts it"
        return There(models=named, unread=len(listed), not_counted=told)
    inputs, unread = _inputs(store, source, listed, recipe.shape.input)
    found = There(models=named, inputs=inputs.num_rows, unread=unread, not_counted=unknown)
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
    metrics = [resolve(metric_spec(c, cycle.input, recipe.backward), lock) for c in recipe.all_metrics]
    return Models(forward, backward, metrics), unknown


def _inputs(store: Store, source: Any, listed: list[tuple[str, str]], modality: Modality) -> tuple[pa.Table, int]:
    """The distinct inputs among the listed items that the store has read, and how many items it has not."""
    known = store.rows("sources")
    if not listed:
        return known.slice(0, 0), 0
    keys = item_rows(source, listed, modality)["source_key"]
    known = known.filter(pc.is_in(known["source_key"], value_set=flat(keys)))
    read = pc.or_(store.ids("sources").holds(keys), store.ids("failures").holds(keys))
    distinct = first_of_each(known.sort_by("source"), "input_id").select(["input_id", "source"])
    return distinct, len(listed) - (pc.sum(read).as_py() or 0)


def _count(found: There, derived: Derivation, store: Store, uses: Models) -> None:
    _add(found, "candidates", derived.wanted_candidates(), "generation_id", "generations", store)
    derived.find_candidates()
    made = sum(rows.num_rows for rows in derived.made)
    back = derived.wanted_reconstructions()
    _add(found, "reconstructions", back, "generation_id", "generations", store)
    if made >= ENOUGH:
        found.shared = 1 - back.num_rows / (made * uses.backward.samples)
    derived.find_reconstructions()
    _add(found, "scores", derived.wanted_similarities(), "similarity_id", "similarities", store)


def _add(found: There, stage: str, wanted: pa.Table, key: str, table: str, store: Store) -> None:
    """Count a stage's rows that are wanted of what is there, and those of them that are done or have failed."""
    ids = wanted[key]
    done = pc.or_(store.ids(table).holds(ids), store.ids("failures").holds(ids))
    counted = pa.table({"model": wanted["model"].cast(pa.string()), "done": done}).group_by("model")
    for row in counted.aggregate([("done", "count"), ("done", "sum")]).to_pylist():
        found.wanted[stage, row["model"]] = row["done_count"]
        found.rows[stage, row["model"]] = row["done_sum"] or 0


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
    """The work of so many distinct inputs. `specs` are the models' with all that is known of them, by name."""
    candidates = sum(role.each for role in roles_ if role.stage == "candidates")
    # What is wanted of candidates that are there is known; of each of the others, as much as of any.
    coming = max(0.0, candidates * inputs - there_.of("candidates", there_.rows)) / max(1, candidates)
    left = 0.0  # reconstructions to make
    found = []
    for role in sorted(roles_, key=lambda role: STAGES.index(role.stage)):
        key = (role.stage, role.spec.name)
        if role.stage == "reconstructions":
            wanted = there_.wanted.get(key, 0) + role.each * coming * (1 - there_.shared)
            left = wanted - there_.rows.get(key, 0)
        elif role.stage == "scores":
            more = role.each * coming if role.spec.compares == "candidate" else left
            wanted = there_.wanted.get(key, 0) + more
        else:
            wanted = role.each * inputs
        found.append(Part(*key, specs[role.spec.name], round(wanted), there_.rows.get(key, 0)))
    return found
