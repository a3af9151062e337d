"""The functions of `import cyclepref` for runs and datasets."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclepref.schemas.recipe import Recipe, RecipeError, checked
from cyclepref.schemas.settings_file import Settings

if TYPE_CHECKING:
    from cyclepref.builder.dataset.publish import Outcome, Prepared
    from cyclepref.builder.engine.engine import Engine
    from cyclepref.builder.exports.export import Margin
    from cyclepref.builder.exports.writing import Exported
    from cyclepref.builder.preferences.filters import Filters
    from cyclepref.builder.run.findings import Report
    from cyclepref.builder.run.upkeep import Merged, Unused

# A path, the name of a shipped recipe, a mapping of what a recipe file says, or the recipe itself.
RecipeLike = str | Path | dict[str, Any] | Recipe


def recipes() -> dict[str, Path]:
    """The shipped recipes by name; those of reward models are called `rewards/NAME`.

    >>> cyclepref.recipes()["shapeworld_i2t2i"].name
    'shapeworld_i2t2i.yaml'
    """
    from cyclepref.jobs.recipe_names import shipped_recipes

    rewards = {f"rewards/{name}": path for name, path in shipped_recipes("reward").items()}
    return {**shipped_recipes("build"), **rewards}


def load_recipe(recipe: RecipeLike, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe, given as a path, the name of a shipped one, a mapping or a `Recipe`.

    `changes` ("inputs.limit": 20) replace settings of a file.

    Raises:
        RecipeError: one message with every problem: where, what was given, what is allowed.

    >>> cyclepref.load_recipe("shapeworld_i2t2i").cycle
    'i2t2i'
    >>> content = cyclepref.load_recipe("shapeworld_i2t2i").model_dump(exclude_unset=True)
    >>> cyclepref.load_recipe(content | {"seed": 7}).seed
    7
    """
    if isinstance(recipe, Recipe):
        return recipe
    if isinstance(recipe, dict):
        settings = Settings("recipe", recipe)
        settings.change(changes or {})
        return checked(settings)
    if not isinstance(recipe, (str, Path)):
        raise RecipeError(f"a recipe is a path, a name, a dict or a Recipe; got {type(recipe).__name__}")
    from cyclepref.builder.recipe_check import read_recipe
    from cyclepref.jobs.recipe_names import recipe_path

    return read_recipe(recipe_path(str(recipe), "build"), changes)


def build(
    recipe: RecipeLike,
    out: str | Path,
    *,
    retry_failed: bool = False,
    engine: "Engine | None" = None,
    budget_hours: float | None = None,
) -> dict[str, Any]:
    """Run a recipe in a run directory, making only what is missing there; returns the content of its run.json.

    `out` is a folder or an address such as s3://bucket/run. `retry_failed` tries the failed rows once more. A given
    `engine` is used and stays open. Without one, the build starts Ray on this machine, or joins the cluster that
    RAY_ADDRESS names. `budget_hours` (GPU hours; hours on a machine without GPUs) is for all builds of the directory
    together: the build ends with as many inputs as it is enough for, and what is there is a dataset of these.

    Raises:
        RecipeError: if the recipe is not valid, or names an unknown model, metric or source.
        BudgetError: if the budget is used up before a first dataset is there.
        StoreError: if `out` cannot be a run directory.
        LockError: if another build works in it.
        BuildError: if too many rows fail; finished rows are kept.
        EngineError: if a worker cannot start.

    >>> run = cyclepref.build(recipe, "runs/new")
    >>> run["counts"]["inputs"]["unique"]
    2
    """
    from cyclepref.builder.build import build

    if budget_hours is None:
        return build(load_recipe(recipe), out, retry_failed, engine)
    from cyclepref.builder.planning.budget import build_within

    return build_within(load_recipe(recipe), out, budget_hours, retry_failed, engine).dataset()


def demo(out: str | Path = "runs/demo", inputs: int | None = None) -> dict[str, Any]:
    """Build both cycles on the embedded world and train a reward model, in minutes on two cores; returns how often each
    agrees with the truth, which is known there. `inputs` is their number per cycle.

    >>> summary = cyclepref.demo("runs/demo", inputs=24)  # doctest: +SKIP
    """
    from cyclepref.jobs.demo import run_demo

    return run_demo(Path(out).expanduser(), inputs)


def status(place: str | Path) -> dict[str, Any]:
    """The status of a run: its state, the process that works in it, counts and speed of every stage, failures by
    reason, and unused rows.

    Raises:
        StoreError: if there is no run.

    >>> cyclepref.status("runs/mine")["failures"]
    []
    """
    from cyclepref.builder.run.status import status
    from cyclepref.builder.run.store import Store

    return status(Store(place))


def failures(place: str | Path, *, stage: str | None = None, model: str | None = None) -> list[dict[str, Any]]:
    """Every failed row of a run that is still wanted, with its input and reason; `stage` and `model` select some.

    Raises:
        StoreError: if there is no run.
        FailuresError: for a stage or model that the run does not have.

    >>> cyclepref.failures("runs/mine")
    []
    """
    from cyclepref.builder.run.failures import failures
    from cyclepref.builder.run.record import PROGRESS_FILE
    from cyclepref.builder.run.store import Store, StoreError

    store = Store(place)
    if not any(map(store.exists, ("run.json", PROGRESS_FILE))) and not store.parts("failures"):
        raise StoreError(f"{store.root} has no run: `cyclepref build RECIPE --out {store.root}` makes one")
    return failures(store, stage, model)


def prune(place: str | Path) -> "list[Unused]":
    """Remove rows that the latest build of a run directory did not ask for, without asking; returns what they were.

    Raises:
        UpkeepError: if the latest build has not finished.
        LockError: if a build works in it.

    >>> cyclepref.prune("runs/new")
    []
    """
    from cyclepref.builder.run.lock import hold
    from cyclepref.builder.run.store import Store
    from cyclepref.builder.run.upkeep import prune, unused

    store = Store(place)
    with hold(store, "prune"):
        found = unused(store)
        if found:
            prune(store)
    return found


def merge(first: str | Path, second: str | Path, into: str | Path | None = None) -> "Merged":
    """Copy the rows of two runs into one (`first`, unless `into` names another), where a build makes what neither has.

    Raises:
        UpkeepError: if they were made with different weights or settings of one model.
        LockError: if a build works in one of them.

    >>> cyclepref.merge("runs/mine", "runs/other", "runs/both").copied > 0
    True
    """
    from cyclepref.builder.run.store import Store
    from cyclepref.builder.run.upkeep import merge

    return merge(Store(first), Store(second), Store(into or first))


def verify(place: str | Path) -> "Report":
    """Read a whole run directory and report what is damaged; changes nothing. `damage` is empty if all is well.

    Raises:
        StoreError: if there is no run.

    >>> cyclepref.verify("runs/mine").read["dataset inputs"]
    40
    """
    from cyclepref.builder.dataset.verify import verify
    from cyclepref.builder.run.store import Store

    return verify(Store(place))


def stats(place: str | Path) -> dict[str, Any]:
    """Statistics of a dataset, for a look before training: splits, margins, biases, duplicates, and `warnings`.

    `place` is a run directory, or a folder with a dataset.

    Raises:
        DatasetError: if there is no dataset in it, or files of it are missing.

    >>> found = cyclepref.stats("runs/mine")
    >>> found["inputs"], found["candidates"], sorted(found["splits"])
    (40, 229, ['test', 'train', 'validation'])
    """
    from cyclepref.builder.dataset.reader import DatasetFolder
    from cyclepref.builder.dataset.statistics import statistics
    from cyclepref.builder.run.folder import Folder
    from cyclepref.builder.run.record import PROGRESS_FILE
    from cyclepref.builder.run.store import Store

    run = Store(place)
    is_run = run.exists("run.json") or run.exists(PROGRESS_FILE)
    return statistics(DatasetFolder.of(Folder(run.address("dataset")) if is_run else Folder(place)))


def export(
    place: str | Path,
    format_name: str,
    out: str | Path,
    *,
    split: str | None = None,
    filters: "Filters | None" = None,
    poor_chosen: Any = "as built",
    prompt: str | None = None,
    seed: int = 0,
    revision: str | None = None,
    margin: "Margin | None" = None,
) -> "list[Exported]":
    """Write the pairs of a place (as in `load_pairs`) in a layout that a trainer reads, to a new or empty folder.

    Returns the counts of each split. The arguments are those of `cyclepref.builder.exports.export.export`, which this
    calls; `poor_chosen` is a score, or None, which keeps pairs whose chosen candidate scores badly.

    Raises:
        ExportError: for an unknown format, one that the cycle cannot fill, or a folder that is not empty.
        LoadError: if the place has no readable dataset.
        FilterError: if a filter is outside its range, or no pair is left in any split.

    >>> done = cyclepref.export("runs/mine", "trl-dpo-vision", "exports/dpo", split="train")
    >>> done[0].split, done[0].pairs > 0
    ('train', True)
    """
    from cyclepref.builder.exports.export import export
    from cyclepref.builder.preferences.load import AS_BUILT

    options: dict[str, Any] = {"poor_chosen": AS_BUILT if poor_chosen == "as built" else poor_chosen}
    options |= {name: given for name, given in {"filters": filters, "prompt": prompt}.items() if given is not None}
    return export(place, format_name, out, split, seed=seed, revision=revision, margin=margin, **options)


def publish(
    place: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str | None = None,
    dry_run: bool = False,
    partial: bool = False,
) -> "Outcome | Prepared":
    """Upload a run's dataset to the Hugging Face Hub; safe to repeat. Returns where it is and at which commit.

    With `dry_run` nothing is sent: the result lists the files that would be, with sizes in bytes. `partial` publishes
    an unfinished run's dataset.

    Raises:
        PublishError: if the run is unfinished and `partial` is not set, or the repository cannot be written to.
        DatasetError: if there is no dataset in it.

    >>> prepared = cyclepref.publish("runs/mine", "org/name", dry_run=True)
    >>> list(prepared.files)[-1]
    'README.md'
    """
    from cyclepref.builder.dataset.publish import check_name, prepare, publish

    check_name(repo)
    prepared = prepare(str(place), partial)
    return prepared if dry_run else publish(prepared, repo, private, revision)


def models() -> dict[str, Any]:
    """Every captioner, text-to-image pipeline and metric that a recipe can name, with all its settings.

    >>> cyclepref.models()["shapeworld-sd3"].kind
    'text-to-image'
    """
    from cyclepref.builder.catalog.catalog import CATALOG

    return dict(CATALOG)
