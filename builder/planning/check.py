"""Everything that is wrong with a recipe on this machine, found at once and without a GPU.

Settings, names and paths as `read_recipe` finds them; inputs that can be listed; weights, gated repositories, packages,
credentials and servers' keys as a build asks for them before its first row; and whether each model fits its GPU.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclepref.builder.catalog.resolve import metric_spec, model_spec, resolve
from cyclepref.builder.planning.facts import known
from cyclepref.builder.planning.fit import misfits, places
from cyclepref.builder.planning.hardware import Hardware
from cyclepref.builder.recipe_check import examined
from cyclepref.builder.run.tracking import package_missing
from cyclepref.builder.sources.open import open_source
from cyclepref.builder.stages.ingest import list_items
from cyclepref.builder.stages.needs import needs
from cyclepref.builder.stages.safety import safety_spec
from cyclepref.schemas.cycle import CYCLES
from cyclepref.schemas.direct_specs import DirectSpec
from cyclepref.schemas.publishing import Safety
from cyclepref.schemas.recipe import MetricChoice, ModelChoice, RecipeError, recipe_settings
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.rules import Place, salvage
from cyclepref.schemas.specs import MetricSpec, Spec


@dataclass(frozen=True)
class Checked:
    """What became of a check: all `faults`, a line each with its way out; how many inputs there are, None if they
    cannot be listed; the names of the models that were looked at."""

    faults: list[str]
    inputs: int | None
    models: list[str]


def check_recipe(
    path: str | Path,
    changes: Mapping[str, Any] | None = None,
    on: Hardware | None = None,
) -> Checked:
    """Check a recipe file after `changes` ("inputs.limit": value). `on` is what it is to run on; without it, whether
    models fit is not looked at.

    Raises:
        RecipeError: if there is no such file, or it holds no settings.
    """
    settings = recipe_settings(path, changes)
    recipe, found = examined(settings.content)
    faults = settings.told(found)
    specs = list(_specs(settings.content))
    inputs = None
    if not any(fault.at[:1] == ("inputs",) for fault in found) and recipe:
        try:
            inputs = len(list_items(open_source(recipe.inputs, recipe.shape.input))[: recipe.inputs.limit])
            if not inputs:
                faults.append("inputs: the source is empty")
        except RecipeError as error:
            faults.append(str(error))
    faults += [*_weights(specs), *(package_missing(recipe.tracking) if recipe else [])]
    named = {spec.name: known(spec).spec for spec in specs}
    if on and on.gpu:
        faults += [*misfits(named.values(), on.gpu), *places(named, on.cluster)]
    return Checked(list(dict.fromkeys(faults)), inputs, list(named))


def _weights(specs: Iterable[Spec]) -> list[str]:
    """What models need from outside and do not have, and those that are one model twice."""
    faults: list[str] = []
    lock: dict[str, Any] = {}
    first: dict[tuple[type, str], str] = {}
    for spec in specs:
        try:
            model = resolve(spec, lock)
        except RecipeError as error:
            # What a metric lacks before its weights matter was told with its place in the file.
            if isinstance(spec, MetricSpec) and spec.repo is None and not isinstance(spec, DirectSpec):
                faults += needs([Resolved(spec, {})])
            else:
                faults.append(str(error))
            continue
        faults += needs([model])
        other = first.setdefault((type(spec), model.fingerprint), spec.name)
        if other != spec.name:
            faults.append(f"{spec.name}: is {other} with equal settings: drop one of them, or raise `samples` of one")
    return faults


def _specs(content: dict[str, Any]) -> Iterator[Spec]:
    """The models and metrics of a recipe that can be told, what is wrong with the others has been said."""
    cycle = content.get("cycle")
    shape = CYCLES.get(cycle) if isinstance(cycle, str) else None
    backward = salvage(ModelChoice, content.get("backward"))
    for at, kind, given in _choices(content):
        choice = salvage(kind, given)
        if choice is None or (shape is None and kind is not Safety):
            continue
        with suppress(RecipeError):
            if kind is Safety:
                yield safety_spec(choice)
            elif kind is MetricChoice:
                metric = metric_spec(choice, shape.input, backward)
                # One whose model is the backward one, which is no model: that was said.
                if not isinstance(metric, DirectSpec) or metric.model is not None:
                    yield metric
            else:
                yield model_spec(choice, shape.backward_kind if at == ("backward",) else shape.forward_kind)


def _choices(content: dict[str, Any]) -> Iterator[tuple[Place, type, Any]]:
    for name, kind in (("forward", ModelChoice), ("metrics", MetricChoice)):
        given = content.get(name)
        for at, each in enumerate(given if isinstance(given, list) else []):
            yield (name, at), kind, each
    for name, kind in (("backward", ModelChoice), ("metric", MetricChoice), ("safety", Safety)):
        if content.get(name) is not None:
            yield (name,), kind, content[name]
