"""Being asked to stop: the first Ctrl-C or SIGTERM lets what is in flight finish, the second ends the work at once."""

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from cyclepref.builder.common.progress import console

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """Raised by work that was asked to stop, after it has saved everything in flight in the store or a checkpoint."""


@contextmanager
def stop_requests(finish: Callable[[], None]) -> Iterator[None]:
    """While rows or steps are in flight, call `finish` at the first signal and raise KeyboardInterrupt at the second.

    `finish` runs in a thread of its own, since a signal may arrive in the middle of any call. Does nothing outside of
    the main thread, where Python allows no signal handlers.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked, process = False, os.getpid()

    def handle(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if os.getpid() != process:
            return  # a process forked from this one, which ends it
        if asked:
            raise KeyboardInterrupt
        asked = True
        console.print("stopping: what is in flight is being finished (again to stop at once)")
        threading.Thread(target=finish, daemon=True).start()

    before = {number: signal.signal(number, handle) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Restore the handlers of our signals after the block. Only the main thread can change them."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


class Gate:
    """Admits blocks to a stream until it is closed, and counts their rows. All processes share one."""

    def __init__(self) -> None:
        self.begun: dict[int, dict[str, int]] = {}
        self.closed: set[int] = set()

    def is_open(self, stream: int) -> bool:
        """Whether blocks may still begin."""
        return stream not in self.closed

    def admit(self, stream: int, block: str, rows: int) -> bool:
        """Whether a block may begin. A block that begins again after its actor died counts once."""
        begun = self.begun.setdefault(stream, {})
        if stream in self.closed and block not in begun:
            return False
        begun[block] = rows
        return True

    def close(self, stream: int) -> int:
        """Admit no more blocks; returns how many rows have begun."""
        self.closed.add(stream)
        return sum(self.begun.get(stream, {}).values())
