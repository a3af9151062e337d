"""The functions of `import cyclepref` for what comes before a build."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cyclepref._data import RecipeLike, load_recipe
from cyclepref.schemas.recipe import load_recipe as load_settings

if TYPE_CHECKING:
    from cyclepref.builder.planning.check import Checked
    from cyclepref.builder.planning.plan import Plan


def plan(
    recipe: RecipeLike,
    out: str | Path | None = None,
    *,
    gpus: int | None = None,
    gpu_type: str | None = None,
    inputs: int | None = None,
    price_per_hour: float | None = None,
    budget_hours: float | None = None,
    changes: Mapping[str, Any] | None = None,
) -> "Plan":
    """What a build will take before anything is spent: rows by stage and model, hours, disk and money, with all that is
    assumed. It starts nothing.

    `out` is a run directory that may have a part of it. `gpus` of a type (default: those of this machine; 0: its CPU
    cores) are what it is to run on. `inputs` plans for so many, without looking at the recipe's own. `price_per_hour`
    is that of one GPU; `budget_hours`, in GPU hours, asks for how many inputs they are enough.

    Raises:
        RecipeError: if the recipe is not valid, or its inputs cannot be listed.
        UnknownGpu: for a type of GPU whose figures are not known.

    >>> plan = cyclepref.plan("better_i2t", gpus=8, gpu_type="H100", inputs=7600)
    >>> plan.of_stage("reconstructions")[0].part.wanted
    152000
    """
    from cyclepref.builder.planning.hardware import hardware
    from cyclepref.builder.planning.plan import plan
    from cyclepref.builder.run.store import Store
    from cyclepref.jobs.recipe_names import recipe_path

    # Where inputs are not looked at, they need not be here.
    named = isinstance(recipe, str | Path) and inputs is not None
    found = load_settings(recipe_path(str(recipe), "build"), changes) if named else load_recipe(recipe, changes)
    store = Store(out) if out is not None else None
    return plan(found, hardware(gpus, gpu_type), store, inputs, price_per_hour, budget_hours)


def check(
    recipe: str | Path,
    *,
    gpus: int | None = None,
    gpu_type: str | None = None,
    changes: Mapping[str, Any] | None = None,
) -> "Checked":
    """All that is wrong with a recipe file on this machine, at once and without a GPU: settings, names, paths, weights,
    gated repositories, packages, credentials, and models that do not fit the GPUs (`gpus` of a type; default: those of
    this machine).

    Raises:
        RecipeError: if there is no such file, or it holds no settings.
        UnknownGpu: for a type of GPU whose figures are not known.

    >>> cyclepref.check("shapeworld_i2t2i").faults
    []
    """
    from cyclepref.builder.planning.check import check_recipe
    from cyclepref.builder.planning.hardware import hardware
    from cyclepref.jobs.recipe_names import recipe_path

    return check_recipe(recipe_path(str(recipe), "build"), changes, hardware(gpus, gpu_type))


def init(
    inputs: str | Path,
    file: str | Path,
    *,
    column: str | None = None,
    name: str | None = None,
    limit: int | None = None,
    gpus: int | None = None,
    gpu_type: str | None = None,
) -> Path:
    """Write a first recipe for inputs (a folder of pictures, a file of prompts, parquet, a saved dataset), with models
    that fit this machine (or `gpus` of a type) and can be loaded here, and a comment for each part; returns its path.

    Raises:
        RecipeError: if there are no such inputs, or there is such a file already.
        UnknownGpu: for a type of GPU whose figures are not known.

    >>> cyclepref.init("photos", "photos.yaml", limit=100)  # doctest: +SKIP
    PosixPath('photos.yaml')
    """
    from cyclepref.builder.planning.hardware import hardware
    from cyclepref.builder.planning.new_recipe import new_recipe

    new_recipe(Path(inputs), Path(file), hardware(gpus, gpu_type), column, name, limit)
    return Path(file)
