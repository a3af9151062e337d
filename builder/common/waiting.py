"""Waiting for what may never answer: a network mount that is gone, a file that is no file.

Such a read blocks in the kernel, where nothing ends it. So it runs in a thread of its own, and whoever waits for it can
stop waiting; the thread stays behind, and keeps nothing from ending.
"""

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

# Far more than the largest file takes from a slow disk.
READING_S = 300.0


class TooSlow(OSError):
    """What was read took longer than anything that is there."""


class Beside:
    """An iterator that runs in a thread of its own, at most `ahead` items before the one that is asked for."""

    def __init__(self, items: Iterator[Any], ahead: int = 0):
        self._asked: SimpleQueue[bool] = SimpleQueue()
        self._made: SimpleQueue[tuple[Any, BaseException | None]] = SimpleQueue()
        threading.Thread(target=_serve, args=(items, self._asked, self._made), daemon=True).start()
        for _ in range(ahead):
            self._asked.put(True)

    def next(self, seconds: float) -> Any:
        """The next item.

        Raises:
            TooSlow: if it is not there after so many seconds. Nothing more can be had from this iterator then.
            StopIteration: after the last one.
            Exception: whatever the iterator raises.
        """
        self._asked.put(True)
        try:
            item, error = self._made.get(timeout=seconds)
        except Empty:
            self.close()
            raise TooSlow(f"not read within {seconds:g} s: does the disk or network mount still answer?") from None
        if error is not None:
            raise error
        return item

    def close(self) -> None:
        """Let the thread end as soon as it can."""
        self._asked.put(False)


def _serve(items: Iterator[Any], asked: "SimpleQueue[bool]", made: "SimpleQueue[tuple]") -> None:
    while asked.get():
        try:
            made.put((next(items), None))
        except BaseException as error:
            made.put((None, error))
            return


def each_in_time(
    read: Callable[[list[str]], Iterator[Any]], names: list[str], ahead: int = 0, seconds: float | None = None
) -> Iterator[Any]:
    """What `read(names)` yields, with a TooSlow in place of each item that takes longer than `seconds` (READING_S).

    After each of those the next one has half the time, down to a 64th, until one is read: a mount that is gone does
    not answer for any of its files, and a block of them must not take days.
    """
    patience = seconds = seconds or READING_S
    reader = None
    try:
        for at in range(len(names)):
            reader = reader or Beside(read(names[at:]), ahead)
            try:
                item, patience = reader.next(patience), seconds
            except TooSlow as late:
                item, patience, reader = late, max(patience / 2, seconds / 64), None
            yield item
    finally:
        if reader is not None:
            reader.close()
