"""The protocol of a source of inputs: it lists items, and reads each of them."""

from collections.abc import Iterator
from typing import Protocol

Items = list[tuple[str, str]]


class Source(Protocol):
    """A source of inputs; picklable, since the cluster's workers read its items."""

    @property
    def place(self) -> str:
        """A text that differs between sources whose items may have the same names."""

    def items(self) -> Items:
        """(name, stamp) of every item, in the source's own order."""

    def read(self, names: list[str]) -> Iterator[bytes | str | Exception]:
        """The named items, in order; for an item that cannot be read, the exception."""
