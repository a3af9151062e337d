"""The catalog on the screen."""

import difflib
import json
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from builder.models.catalog import CATALOG, WEIGHTS
from schemas.recipe import RecipeError
from schemas.specs import EndpointSpec, GeneratorSpec, MetricSpec, ModelSpec

# `memory` is an estimate (schemas.specs.ModelSpec.memory_gb); `evidence` is explained by ModelSpec too.
COLUMNS = ("name", "kind", "weights", "revision", "parameters", "memory", "licence", "prompt", "evidence")
SHIPPED = "shipped here"


def print_models(name: str | None = None) -> None:
    """Print the whole catalog, or one entry with all its settings.

    Raises:
        RecipeError: for a name that the catalog does not have.
    """
    screen = Console(highlight=False, width=None if sys.stdout.isatty() else 220)
    if name is None:
        table = Table(*COLUMNS, box=None, pad_edge=False)
        for spec in CATALOG.values():
            table.add_row(*map(escape, _row(spec)))
        screen.print(table)
        return
    if name not in CATALOG:
        close = difflib.get_close_matches(name, CATALOG, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise RecipeError(f"unknown model {name!r}{hint}: choose from {', '.join(CATALOG)}")
    spec = CATALOG[name]
    estimate = {"memory_gb": spec.memory_gb} if isinstance(spec, ModelSpec) else {}
    screen.print(json.dumps({**spec.model_dump(mode="json"), **estimate}, indent=2), markup=False)


def _row(spec: GeneratorSpec | MetricSpec) -> list[str]:
    """A line of the table; "-" where a column means nothing for this kind, or is not known."""
    weights = _weights(spec)
    if not isinstance(spec, ModelSpec):
        return [spec.name, spec.kind, weights, *["-"] * 6]
    revision = "-" if weights == SHIPPED else (spec.revision or "at first run")
    parameters = "-" if spec.parameters is None else f"{spec.parameters / 1e9:.2f}B"
    memory = "-" if spec.memory_gb is None else f"{spec.memory_gb:.0f} GB"
    style = getattr(spec, "prompt_style", "-")
    return [spec.name, spec.kind, weights, revision, parameters, memory, spec.licence, style, spec.evidence]


def _weights(spec: GeneratorSpec | MetricSpec) -> str:
    """Where a model's weights are."""
    if isinstance(spec, EndpointSpec):
        return "on a server"
    if (spec.repo or "").startswith(str(WEIGHTS)):
        return SHIPPED
    return spec.repo or f"the {spec.kind} package"
