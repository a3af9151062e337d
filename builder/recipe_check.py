"""A recipe file, with everything that is wrong with it in one error: settings, names of models and metrics, paths."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.catalog.resolve import metric_spec, model_spec
from cyclepref.builder.common.files import path_fault
from cyclepref.builder.dataset.licences import inputs_licence
from cyclepref.builder.metrics.requirements import check_metric
from cyclepref.builder.stages.safety import safety_spec
from cyclepref.schemas.cycle import CYCLES, Cycle
from cyclepref.schemas.publishing import Safety
from cyclepref.schemas.recipe import VALID, MetricChoice, ModelChoice, Recipe, RecipeError, recipe_settings
from cyclepref.schemas.rules import Fault, Place, check, salvage
from cyclepref.schemas.sources import SOURCES, modality_fault

# What `inputs.path` must be. A dataset's may be more than a path: its source says what is wrong.
PATHS = {"images": "folder", "prompts": "file", "parquet": "file or folder", "dci": "folder", "tsv": "file"}


def read_recipe(path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read a recipe and look up what it names; `changes` ("inputs.limit": value) replace what the file says.

    Raises:
        RecipeError: one message with every fault of the settings, the names and the paths, each with its line and
            column, the value, the rule and the way out.
    """
    settings = recipe_settings(path, changes)
    recipe, faults = examined(settings.content)
    settings.refuse(faults, RecipeError, VALID)
    return recipe


def examined(content: dict[str, Any]) -> tuple[Recipe | None, list[Fault]]:
    """The recipe that a file's content is, None if it is none; and all that is wrong with it and what it names."""
    recipe, faults = check(Recipe, content)
    told = {fault.at for fault in faults}
    # A setting of the wrong kind is told once.
    return recipe, [*faults, *(fault for fault in names_and_paths(content) if fault.at not in told)]


def names_and_paths(content: dict[str, Any]) -> Iterator[Fault]:
    """What a recipe names and there is not, as far as its settings are valid."""
    cycle = content.get("cycle")
    shape = CYCLES.get(cycle) if isinstance(cycle, str) else None
    yield from _models(content, shape)
    yield from _metrics(content, shape)
    yield from _inputs(content.get("inputs"), shape)
    if safety := salvage(Safety, content.get("safety")):
        yield from _of_choice(("safety",), lambda: safety_spec(safety))
    options = content.get("dataset")
    licence = options.get("inputs_licence") if isinstance(options, dict) else None
    if isinstance(licence, str):
        yield from _of_choice(("dataset", "inputs_licence"), lambda: inputs_licence(licence, ""))


def _models(content: dict[str, Any], shape: Cycle | None) -> Iterator[Fault]:
    forward = content.get("forward")
    places: list[tuple[Place, Any]] = [(("forward", at), each) for at, each in enumerate(_list(forward))]
    for at, given in [*places, (("backward",), content.get("backward"))]:
        choice = salvage(ModelChoice, given)
        if choice and shape:
            kind = shape.backward_kind if at == ("backward",) else shape.forward_kind
            yield from _of_choice(at, lambda choice=choice, kind=kind: model_spec(choice, kind))
        elif choice and "/" not in choice.model and choice.model not in CATALOG:
            yield from _of_choice(at, lambda choice=choice: model_spec(choice, "model"))


def _metrics(content: dict[str, Any], shape: Cycle | None) -> Iterator[Fault]:
    places: list[tuple[Place, Any]] = [(("metrics", at), each) for at, each in enumerate(_list(content.get("metrics")))]
    # Faults of the backward model are told at its own place.
    backward = salvage(ModelChoice, content.get("backward"))
    if not shape or (backward and any(_of_choice((), lambda: model_spec(backward, shape.backward_kind)))):
        backward = None
    for at, given in [*places, (("metric",), content.get("metric"))]:
        choice = salvage(MetricChoice, given)
        if shape and choice:
            yield from _of_choice(at, lambda choice=choice: check_metric(metric_spec(choice, shape.input, backward)))


def _inputs(given: Any, shape: Cycle | None) -> Iterator[Fault]:
    source, path = (given.get("source"), given.get("path")) if isinstance(given, dict) else (None, None)
    if not isinstance(source, str) or source not in SOURCES:
        return
    if shape and (told := modality_fault(source, shape.input)):
        yield Fault(("inputs", "source"), told)
    if source in PATHS and isinstance(path, str) and (told := path_fault(path, PATHS[source])):
        yield Fault(("inputs", "path"), told)


def _of_choice(at: Place, look_up: Any) -> Iterator[Fault]:
    """The faults of one choice, at their places in the recipe."""
    try:
        look_up()
    except RecipeError as error:
        for fault in error.faults or (Fault((), str(error)),):
            yield Fault((*at, *fault.at), fault.message)


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []
