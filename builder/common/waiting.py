"""Reading with a time limit, since a network mount that is gone or a pipe may never answer.

Such a read blocks in the kernel and cannot be ended. So it runs in a daemon thread: the caller can stop waiting, and
the thread that stays behind does not keep the process from ending.
"""

import threading
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any

# Far longer than reading the largest allowed file from a slow disk.
READING_S = 300.0


class TooSlow(OSError):
    """A read took longer than any working disk or network mount."""


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
            TooSlow: if the item has not come after so many seconds. The iterator gives nothing more after that.
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

    After each timeout the next item has half the time, down to a 64th, until one is read: a mount that is gone answers
    for none of its files, and a block of them must not take days.
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
