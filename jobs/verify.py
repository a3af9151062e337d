"""`cyclepref verify`: read and check a whole run directory without changing it."""

import json

from rich.table import Table

from cyclepref.builder.common.progress import plain
from cyclepref.builder.dataset.verify import verify
from cyclepref.builder.run.findings import Report
from cyclepref.builder.run.store import Store
from cyclepref.jobs.screen import console


def run_verify(out: str, as_json: bool = False) -> int:
    """Verify a run directory and print what was read and found, for people or as JSON; returns the exit status: 1 if
    anything is wrong."""
    report = verify(Store(out))
    if as_json:
        found = {**vars(report), "damage": [vars(each) for each in report.damage], "sound": not report.damage}
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        _print(report)
    return int(bool(report.damage))


def _print(report: Report) -> None:
    console.print(plain(f"{report.run}: read {', '.join(f'{n:,} {name}' for name, n in report.read.items() if n)}"))
    for note in report.notes:
        console.print(plain(f"note: {note}"), soft_wrap=True)
    if not report.damage:
        console.print("nothing is wrong")
        return
    table = Table(title="what is wrong", title_justify="left", show_lines=True)
    for name in ("file", "what", "places", "way out"):
        table.add_column(name, overflow="fold", justify="right" if name == "places" else "left")
    for each in report.damage:
        table.add_row(plain(each.file), plain(each.what), f"{each.count:,}", plain(each.way_out))
    console.print(table)
