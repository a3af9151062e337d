"""Steps on the cluster: their errors travel as data, and they ask at a gate before they begin, so that a build can be
stopped between two blocks."""

from collections.abc import Callable
from typing import Any, Protocol

import pyarrow as pa

from cyclepref.builder.engine.supervisor import Supervised, is_trouble, trouble

Step = Callable[[pa.Table], pa.Table]


class Door(Protocol):
    """One stream's door, of which `cyclepref.builder.common.stopping.Gate` knows whether it is open."""

    def is_open(self) -> bool:
        """Whether anything may begin."""

    def admit(self, block: str, rows: int) -> bool:
        """Whether a block, named by its first row, may begin."""


def guarded(block: pa.Table, step: Step) -> pa.Table:
    """A step that turns an exception into a table of trouble, and hands on what is no block of rows."""
    if not block.num_rows or is_trouble(block):
        return block
    try:
        return step(block)
    except Exception as error:
        return trouble(error)


def admitted(block: pa.Table, stream: Door, step: Step) -> pa.Table:
    """A step that is all the work there is: once the gate is closed, what has not begun passes as nothing."""
    first = str(block.slice(0, 1).to_pylist())
    return step(block) if stream.admit(first, block.num_rows) else block.slice(0, 0)


def while_open(block: pa.Table, stream: Door, step: Step) -> pa.Table:
    """A step before the work. It runs far ahead of the models, so what it has done is not yet in flight."""
    return step(block) if stream.is_open() else block.slice(0, 0)


class Gated(Supervised):
    """A supervised worker that asks at the gate before it begins a block."""

    def __init__(self, stream: Door, **supervised: Any):
        self.stream = stream
        super().__init__(**supervised)

    def __call__(self, block: pa.Table) -> pa.Table:
        """As of `Supervised`; a block that comes too late passes as nothing, and a journal that cannot be kept (a full
        disk, an object store that is away) is trouble."""
        if not block.num_rows or is_trouble(block):
            return block
        if not self.stream.admit(block[self.key][0].as_py(), block.num_rows):
            return block.slice(0, 0)
        try:
            return super().__call__(block)
        except Exception as error:
            return trouble(error)
