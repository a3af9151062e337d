"""`cyclepref status`, `failures`, `prune` and `merge`: commands for run directories."""

import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from rich.markup import escape
from rich.table import Table

from cyclepref import failures
from cyclepref.builder.run.lock import hold
from cyclepref.builder.run.record import LOADING
from cyclepref.builder.run.status import status
from cyclepref.builder.run.store import Store
from cyclepref.builder.run.upkeep import Unused, merge, prune, unused
from cyclepref.jobs.screen import console, size_text


def print_status(out: str, as_json: bool = False) -> None:
    """Print the status of a run, for people or as JSON."""
    found = status(Store(out))
    if as_json:
        print(json.dumps(found, indent=2, ensure_ascii=False))
        return
    holder = found["holder"]
    console.print(f"[bold]{_plain(found['run'])}[/bold]  recipe {_plain(found['recipe'])}: {found['state']}")
    if holder:
        console.print(
            f"held by `cyclepref {_plain(holder['command'])}` on {_plain(holder['host'])}, pid {holder['pid']}, since "
            f"{_plain(holder['since'])}; last sign of life {holder['silent_seconds']:.0f} s ago"
        )
    if found["error"]:
        console.print(f"ended by an error: {_plain(found['error'])}", style="red", soft_wrap=True)
    if found["stages"]:
        console.print(_stages(found["stages"]))
    if found["failures"]:
        table = _table("failures by reason", "stage", "model", "reason", "such as", rows=1)
        for reason in found["failures"]:
            text = f"{reason['error_class']}: {reason['message']}"
            such = ", ".join(reason["items"])
            table.add_row(*map(_plain, (reason["stage"], reason["model"], text, such)), f"{reason['count']:,}")
        console.print(table)
        console.print(f"`cyclepref failures {_plain(found['run'])}` lists every one of them")
    for notice in found["notices"]:
        console.print(f"warning: {_plain(notice)}", style="yellow", soft_wrap=True)
    if found["unused"]:
        console.print(_unused([Unused(**rows) for rows in found["unused"]]))
        console.print(f"`cyclepref prune {_plain(found['run'])}` removes what is unused")


def print_failures(out: str, stage: str | None, model: str | None, as_json: bool) -> None:
    """Print every failed row that is still wanted, for people or as JSON lines."""
    found = failures(out, stage=stage, model=model)
    if as_json:
        for row in found:
            print(json.dumps(row, ensure_ascii=False))
        return
    if not found:
        console.print("nothing that is wanted has failed")
        return
    table = Table(title=f"{len(found):,} rows failed", title_justify="left")
    for name in ("stage", "model", "input", "error", "tries"):
        table.add_column(name, overflow="fold")
    for row in found:
        error = f"{row['error']}: {row['message']}"
        table.add_row(*map(_plain, (row["stage"], row["model"], row["item"] or row["id"], error, row["attempt"])))
    console.print(table)
    console.print("mend the cause, then the same build with --retry-failed tries them again", soft_wrap=True)


def run_prune(out: str, yes: bool, ask: Callable[[str], str] = input) -> int:
    """Remove rows that the latest build did not use, after asking the user; returns the exit status."""
    store = Store(out)
    with hold(store, "prune"):
        found = unused(store)
        if not found:
            console.print("nothing is unused")
            return 0
        console.print(_unused(found))
        if not yes and not _agrees(ask):
            console.print("nothing was removed")
            return 1
        prune(store)
    rows, size = sum(each.rows for each in found), sum(each.bytes for each in found)
    console.print(f"removed {rows:,} rows, {size_text(size)}")
    return 0


def run_merge(first: str, second: str, into: str | None) -> int:
    """Merge two runs and print the next command; returns the exit status, 1 if parts were damaged."""
    target = Store(into or first)
    done = merge(Store(first), Store(second), target)
    sound = f"{done.copied:,} parts copied, {done.there:,} were there"
    if done.damaged:
        sound += f"; {done.damaged:,} of them damaged and set aside (`cyclepref verify` says more of either run)"
    console.print(f"{_plain(target.root)}: {sound}", soft_wrap=True)
    command = f"next: `cyclepref build RECIPE --out {_plain(target.root)}` makes the views"
    console.print(f"{command}; what is there is not made again", soft_wrap=True)
    return int(done.damaged > 0)


def _agrees(ask: Callable[[str], str]) -> bool:
    try:
        return ask("Remove these rows for good? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:  # no user to ask, as in a batch job
        return False


def _stages(stages: list[dict[str, Any]]) -> Table:
    table = _table("", "stage", "model", rows=4)
    for name in ("rows/s", "time left"):
        table.add_column(name, justify="right")
    for stage in stages:
        speed = "" if stage["rows_a_second"] is None else f"{stage['rows_a_second']:,.1f}"
        left = "" if stage["seconds_left"] is None else str(timedelta(seconds=round(stage["seconds_left"])))
        left = LOADING if stage["loading"] else left
        for model, count in stage["models"].items():
            numbers = (f"{count[name]:,}" for name in ("wanted", "ok", "failed", "left"))
            table.add_row(stage["stage"], _plain(model), *numbers, speed, left)
            speed = left = ""
    return table


def _unused(found: list[Unused]) -> Table:
    table = _table("unused: not asked for by the latest build", "table", "model", rows=1)
    table.add_column("size, about", justify="right")
    for each in found:
        table.add_row(each.table, _plain(each.model), f"{each.rows:,}", size_text(each.bytes))
    return table


def _table(title: str, *columns: str, rows: int) -> Table:
    table = Table(title=title or None, title_justify="left")
    for name in columns:
        table.add_column(name, overflow="fold")
    for name in ("wanted", "ok", "failed", "left") if rows == 4 else ("rows",):
        table.add_column(name, justify="right")
    return table


def _plain(text: Any) -> str:
    """Text from data, escaped so that it neither acts as markup nor controls the terminal."""
    return escape("".join(char if char.isprintable() else " " for char in str(text)))
