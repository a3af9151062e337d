"""What a source of inputs is: something that lists items, and reads each of them."""

from collections.abc import Iterator
from typing import Protocol

Items = list[tuple[str, str]]


class Source(Protocol):
    """A place that inputs come from; picklable, since its items are read on the cluster."""

    @property
    def place(self) -> str:
        """What tells this source from another whose items have the same names."""

    def items(self) -> Items:
        """(name, stamp) of every item, in the source's own order."""

    def read(self, names: list[str]) -> Iterator[bytes | str | Exception]:
        """The named items, in order; an item that cannot be read is the exception that says why."""
