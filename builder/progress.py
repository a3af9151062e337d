"""Progress of long work: bars with counts and time left on a terminal, a line now and then in a log."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.text import Text

from schemas.errors import visible

LOG_EVERY_S = 15
Tick = Callable[[int], None]
# What shows the progress of a label's total; it is told of each step.
Stage = Callable[[str, int], AbstractContextManager[Tick]]

# A log has no width of its own.
console = Console(stderr=True, highlight=False, emoji=False, width=None if sys.stderr.isatty() else 120)


def plain(text: object) -> Text:
    """A name, a path or a line with one, to be printed as just that: neither `[bold]` nor a control character in it
    has an effect. (A Text, since rich's own escaping of markup goes wrong at a backslash before a bracket.)"""
    return Text(visible(str(text), keep=""))


@contextmanager
def stage(label: str, total: int) -> Iterator[Tick]:
    """Show the progress of `total` rows; call what it yields with the number of rows just done."""
    with (_bar if sys.stderr.isatty() else _lines)(label, total) as tick:
        yield tick


@contextmanager
def _bar(label: str, total: int) -> Iterator[Tick]:
    columns = (TextColumn("{task.description:<34}"), BarColumn(30), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console) as bars:
        task = bars.add_task(label, total=total)
        yield lambda done: bars.advance(task, done)


@contextmanager
def _lines(label: str, total: int) -> Iterator[Tick]:
    begin = said = time.monotonic()
    done = 0

    def tick(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= LOG_EVERY_S and done:
            said = now
            left = (now - begin) / done * (total - done)
            console.print(f"{label}: {done}/{total} rows, {done / (now - begin):.1f} a second, {left:.0f} s left")

    yield tick
    console.print(f"{label}: {done}/{total} rows in {time.monotonic() - begin:.1f} s")


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Nothing on file descriptor 2, where Ray's C++ core and its threads tell what nobody can act on; what fails still
    raises."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
