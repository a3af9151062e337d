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
