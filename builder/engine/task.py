"""What a host is asked to do: rows of one model, how their content is read, who works on it, how it is written.

Results and errors are data: what comes back is a receipt, or the trouble that concerns all rows alike.
"""

import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from cyclepref.builder.run.in_flight import Journal
from cyclepref.schemas.errors import CyclePrefError, visible
from cyclepref.schemas.ids import digest
from cyclepref.schemas.specs import Spec


class Worker(Protocol):
    """A loaded model on a host, made from its spec; called with a block at a time.

    It calls its model through `cyclepref.builder.engine.memory.Fitting`, so that every batch is seen to begin.
    """

    def __call__(self, rows: pa.Table, contents: Any) -> list[Any]:
        """One result for each row, in order: an output, or the exception that says why there is none. `contents` is
        what the task read."""

    def halvings(self) -> int:
        """How often the batch was halved for want of memory since the last time this was asked."""


@dataclass(frozen=True)
class Task:
    """The work of one stage with one model. All of it can be pickled.

    `read` turns rows of ids into the rows that `write` needs and their contents; `worker(spec)` loads the model;
    `write(rows, results, halvings)` puts the results into the store and returns a receipt. `key` is the column of the
    rows' ids, `attempt` counts the tries. `rows_per_part` is the most rows of a block, and so of a part of the store:
    what a kill can cost.
    """

    stage: str
    spec: Spec
    key: str
    worker: Callable[[Any], Worker]
    read: Callable[[pa.Table], tuple[pa.Table, Any]]
    write: Callable[[pa.Table, list[Any], int], pa.Table]
    journal: Journal
    rows_per_part: int

    @property
    def model(self) -> str:
        """The loaded model that this task needs: one that several stages use is loaded once."""
        worker = getattr(self.worker, "__qualname__", repr(self.worker))
        return digest("model", worker, type(self.spec).__name__, self.spec.model_dump_json())


class Ahead(Protocol):
    """Rows of a later stage, which become ready while those of a stage are made: hosts with nothing else to do begin
    them (see `cyclepref.builder.engine.engine.Engine.run`)."""

    @property
    def expected(self) -> Mapping[str, int]:
        """By the key of a model (see `key_of`), how many rows will probably become ready in all."""

    def made(self, rows: pa.Table) -> None:
        """Rows of the stage that runs are accounted for, be they made or failed."""

    def ready(self) -> list[tuple[Task, pa.Table]]:
        """The rows that have become ready since this was asked last. Their task is the same one each time."""

    def took(self, receipts: pa.Table) -> None:
        """Rows that were given out are accounted for."""


@dataclass(frozen=True)
class Done:
    """A block's receipts, how many of its rows are accounted for, how many seconds its model was busy with them, and
    how many it took to load before; the name of the device that it ran on."""

    receipts: pa.Table
    rows: int
    seconds: float
    loading_s: float = 0.0
    device: str = ""


@dataclass(frozen=True)
class Dropped:
    """A block that had not begun when the build was asked to stop."""


@dataclass(frozen=True)
class Trouble:
    """An error that concerns all rows alike, on its way to the driver: its message, trace and class."""

    message: str
    trace: str
    kind: str

    @classmethod
    def of(cls, error: BaseException) -> "Trouble":
        """The trouble that an exception is."""
        message = str(error) if isinstance(error, CyclePrefError) else f"{type(error).__name__}: {error}"
        # Visible, since half a surrogate pair from a server's answer is text that nothing can encode.
        return cls(visible(message), visible("".join(traceback.format_exception(error))), type(error).__name__)


def key_of(spec: Spec) -> str:
    """The name of a model among all of a build: a captioner and a metric may both be called "blip"."""
    return f"{type(spec).__name__}/{spec.name}"


def name_of(key: str) -> str:
    """The name that the recipe gives it."""
    return key.partition("/")[2]
