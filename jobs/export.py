"""`cyclepref export`: pairs in a layout that a trainer reads."""

from typing import Any

import datasets
from rich.console import Console
from rich.table import Table

from cyclepref.builder.common.progress import plain
from cyclepref.builder.exports.export import export
from cyclepref.builder.preferences.filters import Filters
from cyclepref.builder.preferences.load import AS_BUILT, Poor

console = Console(highlight=False)


def run_export(
    place: str, format_name: str, out: str, filters: dict[str, Any], poor_chosen: str | None = None, **options: Any
) -> None:
    """Write an export and print how many pairs each split has; `options` go to `cyclepref.builder.exports.export`."""
    datasets.disable_progress_bars()  # our own bars count pairs
    poor: Poor = AS_BUILT if poor_chosen is None else None if poor_chosen == "none" else float(poor_chosen)
    done = export(place, format_name, out, filters=Filters(**filters), poor_chosen=poor, **options)
    table = Table()
    for name in ("split", "pairs", "removed"):
        table.add_column(name, justify="right" if name == "pairs" else "left")
    for each in done:
        removed = ", ".join(f"{name} {count:,}" for name, count in each.removed.items())
        table.add_row(plain(each.split), f"{each.pairs:,}", removed)
    console.print(table)
    console.print(plain(f"{out}: {format_name}, {sum(each.pairs for each in done):,} pairs"), soft_wrap=True)
