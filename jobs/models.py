"""The catalog on the screen."""

import json
import sys
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from cyclepref.builder.catalog.catalog import CATALOG, WEIGHTS
from cyclepref.schemas.direct_specs import DirectSpec
from cyclepref.schemas.nearest import did_you_mean
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.specs import EndpointSpec, GeneratorSpec, MetricSpec, ModelSpec

# `memory` is an estimate (cyclepref.schemas.specs.ModelSpec.memory_gb); `evidence` is explained by ModelSpec too.
COLUMNS = ("name", "kind", "weights", "revision", "parameters", "memory", "licence", "prompt", "evidence")
# The columns that a narrow terminal shows.
FIRST_TO_SHOW = ("name", "kind", "memory", "licence", "weights", "parameters", "evidence", "prompt", "revision")
GAP = 1
SHIPPED = "shipped here"


def print_models(name: str | None = None, kind: str | None = None, as_json: bool = False) -> None:
    """Print the catalog, its entries of one kind ("captioner", "text-to-image" or "metric"), or one entry with all its
    settings.

    Raises:
        RecipeError: if the catalog does not have the name.
    """
    of_kind = [spec for spec in CATALOG.values() if kind in (None, _kind(spec))]
    if name is not None:
        if name not in CATALOG:
            raise RecipeError(f"unknown model {name!r}{did_you_mean(name, CATALOG)}: `cyclepref models` lists all")
        print(json.dumps(_settings(CATALOG[name]), indent=2, ensure_ascii=False))
    elif as_json:
        print(json.dumps([_settings(spec) for spec in of_kind], indent=2, ensure_ascii=False))
    else:
        _print_table([_row(spec) for spec in of_kind])


def _print_table(rows: list[list[str]]) -> None:
    """Print the columns that fit at full width, since a shortened name is of no use."""
    screen = Console(highlight=False, width=None if sys.stdout.isatty() else 220)
    widths = [max(len(row[at]) for row in [list(COLUMNS), *rows]) for at in range(len(COLUMNS))]
    shown: list[str] = []
    for column in FIRST_TO_SHOW:
        fitting = [widths[COLUMNS.index(each)] + GAP for each in [*shown, column]]
        if not shown or sum(fitting) - GAP <= screen.width:
            shown.append(column)
    places = [at for at, column in enumerate(COLUMNS) if column in shown]
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0))
    for at in places:
        table.add_column(COLUMNS[at], no_wrap=True, overflow="ignore")
    for row in rows:
        table.add_row(*(escape(row[at]) for at in places))
    screen.print(table, crop=False, no_wrap=True)
    if left := [column for column in COLUMNS if column not in shown]:
        told = f"a wider terminal shows {', '.join(left)} too; `cyclepref models NAME` and --json show everything"
        screen.print(f"\n{told}", soft_wrap=True)


def _kind(spec: GeneratorSpec | MetricSpec) -> str:
    return "metric" if isinstance(spec, MetricSpec) else spec.kind


def _settings(spec: GeneratorSpec | MetricSpec) -> dict[str, Any]:
    estimate = {"memory_gb": spec.memory_gb} if isinstance(spec, ModelSpec) else {}
    return {**spec.model_dump(mode="json"), **estimate}


def _row(spec: GeneratorSpec | MetricSpec) -> list[str]:
    """A line of the table, with "-" for columns that do not apply to this kind or are not known."""
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
    if isinstance(spec, DirectSpec):
        return "of the backward model"
    return spec.repo or f"the {spec.kind} package"
