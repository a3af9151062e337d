"""A first small build of a recipe, in the run directory of the large one, so that rows have been measured."""

from pathlib import Path

from cyclepref.builder.build import build
from cyclepref.builder.costs.measured import CPU, kept
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.run.store import Store
from cyclepref.builder.sources.open import open_source
from cyclepref.builder.stages.ingest import list_items
from cyclepref.schemas.recipe import Recipe
from cyclepref.schemas.run_files import RunJson


def calibrate(recipe: Recipe, out: str | Path, inputs: int, engine: Engine | None = None) -> str | None:
    """Build the first `inputs` inputs of a recipe, and some more where all rows of these were made before anything was
    measured. A dataset that is there does not become smaller.

    Returns the type of GPU that models ran on, None for a CPU: that of the last one measured.

    Raises:
        RecipeError, StoreError, LockError, BuildError, EngineError: as `build`.
    """
    if engine is None:
        with Engine() as own:
            return calibrate(recipe, out, inputs, own)
    store = Store(out)
    total = len(list_items(open_source(recipe.inputs, recipe.shape.input))[: recipe.inputs.limit])
    before = inputs_done(store, recipe)
    run = build(first_inputs(recipe, max(inputs, before), total), out, engine=engine)
    if not _measured(store, run) and before >= inputs and before < total:
        run = build(first_inputs(recipe, before + inputs, total), out, engine=engine)
    devices = [key[1] for key in kept(store) if key[1] != CPU]
    return devices[-1] if devices else None


def inputs_done(store: Store, recipe: Recipe) -> int:
    """How many of a recipe's inputs the dataset of a run directory has; 0 if its inputs were others."""
    run = store.read_json("run.json", RunJson) or {}
    before = (run.get("recipe") or {}).get("inputs") or {}
    same = {**before, "limit": None} == {**recipe.inputs.model_dump(mode="json"), "limit": None}
    return run["counts"]["inputs"]["read"] if same and "counts" in run else 0


def first_inputs(recipe: Recipe, count: int, total: int) -> Recipe:
    """The recipe of the first inputs; itself if these are all."""
    if count >= total:
        return recipe
    return recipe.model_copy(update={"inputs": recipe.inputs.model_copy(update={"limit": count})})


def _measured(store: Store, run: dict) -> bool:
    known = {key[0] for key in kept(store)}
    return all(model["fingerprint"] in known for model in run["models"].values())
