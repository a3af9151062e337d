"""Pages of runs: `cyclepref report`, `watch` and `audit`."""

import os
import webbrowser
from pathlib import Path
from typing import Any

from rich.table import Table

from cyclepref import audit, report, watch
from cyclepref.builder.common.progress import plain
from cyclepref.jobs.screen import console, size_text

# The niceness of a process whose page can wait a moment: a build on the same machine comes first.
POLITE = 10


def run_report(place: str, other: str | None, out: Path, show: bool, options: dict[str, Any]) -> None:
    """Write a page of a run, or of two, and say where it is."""
    written = report(place, other, out=out, **options)
    beside = f", with its pictures in {written.folder}: keep the two together" if written.folder else ""
    size = size_text(written.file.stat().st_size)
    console.print(plain(f"{written.file}  {size}, {written.inputs:,} inputs{beside}"), soft_wrap=True)
    if written.inputs < written.total:
        console.print(f"{written.total:,} inputs in all; --inputs shows more of them")
    if show:
        webbrowser.open(written.file.resolve().as_uri())


def run_watch(place: str, port: int, show: bool) -> None:
    """Serve a run's page until Ctrl-C, out of the way of the build that it looks at."""
    os.nice(POLITE)
    watch(place, port=port, open_browser=show, tell=_tell)


def run_audit(place: str, pairs: int | None, *, serve: bool, annotator: str | None, **options: Any) -> None:
    """Let people label pairs, and print what they said."""
    found = audit(place, pairs, serve=serve, annotator=annotator, tell=_tell, **options)
    for key, done in (("export", "written to"), ("table", "taken in from")):
        if options[key]:
            console.print(plain(f"{done} {options[key]}"), soft_wrap=True)
    for table in (_people(found), _scorers(found)):
        if table.row_count:
            console.print(table)
    console.print(f"{found['answered']:,} of {found['pairs']:,} pairs answered; all figures are in audit.json")


def _tell(address: str) -> None:
    console.print(plain(f"open {address}"), soft_wrap=True)
    console.print("it is served on this machine alone (over ssh: ssh -L PORT:127.0.0.1:PORT HOST); Ctrl-C ends it")


def _people(found: dict[str, Any]) -> Table:
    table = Table(title="people", title_justify="left")
    for name, justify in (("annotator", "left"), ("answers", "right"), ("ties", "right"), ("skips", "right")):
        table.add_column(name, justify=justify)
    for name, of in found["annotators"].items():
        table.add_row(plain(name), *(f"{of[key]:,}" for key in ("answers", "ties", "skips")))
    for each in found["people"]["kappa"]:
        known = "no chance to disagree" if each["kappa"] is None else f"kappa {each['kappa']:.2f}"
        table.add_row(plain(" / ".join(each["annotators"])), f"{each['pairs']:,} shared", "", known)
    alpha = found["people"]["alpha"]
    if alpha and alpha["alpha"] is not None:
        table.add_row("Krippendorff's alpha", f"{alpha['pairs']:,} shared", "", f"{alpha['alpha']:.2f}")
    return table


def _scorers(found: dict[str, Any]) -> Table:
    table = Table(title="agreement with people", title_justify="left")
    for name in ("scorer", "share", "95% interval", "pairs", "by margin, smallest quarter to largest"):
        table.add_column(name, justify="left" if name == "scorer" else "right")
    for name, of in found["scorers"].items():
        span = "one input" if of["low"] is None else f"{of['low']:.1%} to {of['high']:.1%}"
        parts = " ".join(f"{part['share']:.0%}" for part in of["by_margin"])
        table.add_row(plain(name), f"{of['share']:.1%}", span, f"{of['pairs']:,}", parts)
    return table
