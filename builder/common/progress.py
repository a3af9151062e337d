"""Progress of long work: bars with counts and time left on a terminal, a line now and then in a log."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from cyclepref.builder.common.time_left import TimeLeft
from cyclepref.schemas.errors import visible

LOG_EVERY_S = 15
# The terminal width in columns from which a bar has room for its whole name.
WIDE = 110
Tick = Callable[[int], None]
# Shows the progress of work with a label and a total number of rows; yields a function that counts each step.
Stage = Callable[[str, int], AbstractContextManager[Tick]]

# A log has no width of its own.
console = Console(stderr=True, highlight=False, emoji=False, width=None if sys.stderr.isatty() else 120)


def plain(text: object) -> Text:
    """A text that is printed literally: neither `[bold]` nor a control character in it has an effect. (It is a rich
    Text, since rich's own escaping of markup fails at a backslash before a bracket.)"""
    return Text(visible(str(text), keep=""))


@contextmanager
def stage(label: str, total: int, left: TimeLeft | None = None, waiting: str = "") -> Iterator[Tick]:
    """Show the progress of `total` rows; call what it yields with the number of rows just done.

    `left` is an estimate that the caller tells of rows before it tells this of them; without one all rows are alike.
    `waiting` says what goes on until the first rows are done.
    """
    alike = None if left else TimeLeft({label: total})
    with (_bar if sys.stderr.isatty() else _lines)(label, total, left or alike, waiting) as tick:

        def told(done: int) -> None:
            if alike:
                alike.tick(time.monotonic(), label, done)
            tick(done)

        yield told


class Times(ProgressColumn):
    """How long a stage has run and how much longer it will; at the end how long it took."""

    def render(self, task: Task) -> Text:
        """The text of one bar."""
        elapsed = _clock(task.finished_time if task.finished else task.elapsed)
        if task.finished:
            return Text(f"took {elapsed}")
        left, waiting = task.fields["left"], task.fields["waiting"]
        if waiting and not left.begun:
            return Text(f"{elapsed} so far, {waiting}")
        return Text(f"{elapsed} so far, {'?' if left.seconds_left is None else _clock(left.seconds_left)} left")


def _clock(seconds: float | None) -> str:
    """Seconds as a person reads them: 0:07, 12:30, 3:05:00."""
    minutes, rest = divmod(round(seconds or 0), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@contextmanager
def _bar(label: str, total: int, left: TimeLeft, waiting: str) -> Iterator[Tick]:
    # Counts and times matter most: on a narrow terminal the name and the bar are shortened first.
    name, bar = (34, 30) if console.width >= WIDE else (17, 10)
    label_column = TextColumn("{task.description}", table_column=Column(width=name, no_wrap=True, overflow="ellipsis"))
    with Progress(label_column, BarColumn(bar), MofNCompleteColumn(), Times(), console=console) as bars:
        task = bars.add_task(label, total=total, left=left, waiting=waiting)
        yield lambda done: bars.advance(task, done)


@contextmanager
def _lines(label: str, total: int, left: TimeLeft, waiting: str) -> Iterator[Tick]:
    begin = said = time.monotonic()
    done = 0
    if waiting:
        console.print(f"{label}: {total} rows to do, {waiting}")

    def tick(count: int) -> None:
        nonlocal done, said
        done += count
        now = time.monotonic()
        if now - said >= LOG_EVERY_S and done:
            said = now
            console.print(f"{label}: {done}/{total} rows{_speed(left)}")

    yield tick
    console.print(f"{label}: {done}/{total} rows in {time.monotonic() - begin:.1f} s")


def _speed(left: TimeLeft) -> str:
    """How fast it goes and how long it has yet to go, where that can be told."""
    rate, seconds = left.rows_a_second, left.seconds_left
    return "" if rate is None or seconds is None else f", {rate:.1f} a second, {seconds:.0f} s left"


@contextmanager
def silent_stderr() -> Iterator[None]:
    """Silence file descriptor 2, where Ray's C++ core prints messages that no user can act on. Failures still raise."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)
