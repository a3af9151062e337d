"""The catalog on the screen."""

import difflib
import json
import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from builder.models.catalog import CATALOG, WEIGHTS
from schemas.recipe import RecipeError
from schemas.specs import EndpointSpec, GeneratorSpec, MetricSpec


def print_models(name: str | None = None) -> None:
    """Print the whole catalog, or one entry with all its settings.

    Raises:
        RecipeError: for a name that the catalog does not have.
    """
    screen = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    if name is None:
        table = Table("name", "kind", "weights", "about", box=None, pad_edge=False)
        for spec in CATALOG.values():
            table.add_row(spec.name, spec.kind, _weights(spec), escape(spec.about))
        screen.print(table)
        return
    if name not in CATALOG:
        close = difflib.get_close_matches(name, CATALOG, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise RecipeError(f"unknown model {name!r}{hint}: choose from {', '.join(CATALOG)}")
    screen.print(json.dumps(CATALOG[name].model_dump(mode="json"), indent=2), markup=False)


def _weights(spec: GeneratorSpec | MetricSpec) -> str:
    """Where a model's weights are."""
    if isinstance(spec, EndpointSpec):
        return "on a server"
    shipped = (spec.repo or "").startswith(str(WEIGHTS))
    return "shipped here" if shipped else spec.repo or "the lpips package"
