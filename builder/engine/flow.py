"""The rows of a piece of work that are not done yet: those that wait, by model, and those that hosts have."""

import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import ray

from cyclepref.builder.engine.schedule import Schedule
from cyclepref.builder.engine.task import Ahead, Task, key_of
from cyclepref.builder.run.in_flight import Journal

# How often at most the driver looks for rows of the next stage while a host has nothing to do: in seconds, and in times
# of what looking took.
AHEAD_EVERY_S, AHEAD_EVERY = 5.0, 20.0


class Lane:
    """A task and its rows; no rows where its model is only to be loaded. Those of a lane that runs `ahead` belong to a
    later stage: nobody waits for them. `ref` is where hosts find the task, if it has been put there."""

    def __init__(self, task: Task, rows: pa.Table | None, ahead: bool = False, ref: ray.ObjectRef | None = None):
        self.task, self.ahead, self._rows, self._at = task, ahead, rows, 0
        self.total = 1 if rows is None else rows.num_rows
        self.ref = ref or ray.put(task)
        self.name = self.ref.hex()

    @property
    def left(self) -> int:
        """Rows that have not been taken."""
        return self.total - self._at

    def take(self, count: int) -> pa.Table | None:
        """The next rows."""
        begin, self._at = self._at, self._at + count
        return None if self._rows is None else self._rows.slice(begin, count).combine_chunks()


@dataclass(frozen=True)
class Block:
    """Rows of one lane that a host is given; None for those that only load the model."""

    lane: Lane
    rows: pa.Table | None
    size: int

    @property
    def model(self) -> str:
        """The model's key in the schedule."""
        return key_of(self.lane.task.spec)


class Flow:
    """Lanes until every row is done. `looked` is when the driver last looked for new nodes."""

    def __init__(self, lanes: list[Lane]):
        self._journals: dict[str, Journal] = {}
        self._ahead: dict[str, ray.ObjectRef] = {}  # by model, where the task of its rows ahead is
        self._waiting: dict[str, deque[Lane | Block]] = {}
        self._left = self._lost = 0
        self.looked = time.monotonic()
        for lane in lanes:
            self._add(lane)

    def _add(self, lane: Lane) -> None:
        self._journals[lane.task.stage] = lane.task.journal
        self._waiting.setdefault(key_of(lane.task.spec), deque()).append(lane)
        self._left += 0 if lane.ahead else lane.total

    def go_ahead(self, task: Task, rows: pa.Table) -> None:
        """Rows of a later stage may be begun."""
        lane = Lane(task, rows, ahead=True, ref=self._ahead.get(task.model))
        self._ahead[task.model] = lane.ref
        self._add(lane)

    def left(self) -> int:
        """Rows that are waited for and not done, in flight or not."""
        return self._left

    def offered(self) -> dict[str, int]:
        """Rows by model."""
        return {model: sum(lane.total for lane in lanes) for model, lanes in self._waiting.items()}

    def rows_per_part(self, model: str) -> int | None:
        """The most rows of a block, if the model has any."""
        return min((lane.task.rows_per_part for lane in self._waiting.get(model, ())), default=None)

    def take(self, model: str, count: int) -> Block:
        """The next rows of a model, `count` or fewer; those that a lost host had come first, as they were."""
        waiting = self._waiting[model]
        if isinstance(waiting[0], Block):
            return waiting.popleft()
        lane = waiting[0]
        size = min(count, lane.left)
        block = Block(lane, lane.take(size), size)
        if not lane.left:
            waiting.popleft()
        return block

    def back(self, block: Block) -> None:
        """A block that a lost host had waits again."""
        self._waiting[block.model].appendleft(block)

    def settled(self, block: Block, rows: int) -> None:
        """So many rows of a block are accounted for."""
        self._left -= 0 if block.lane.ahead else rows
        self._lost = 0

    def count_loss(self) -> int:
        """One more host was lost; how many since the last block that was done."""
        self._lost += 1
        return self._lost

    def forgive(self) -> None:
        """Remove the notes of work that was ended on purpose (see `cyclepref.builder.run.in_flight.Journal`)."""
        for journal in self._journals.values():
            journal.forgive()


class AheadLooks:
    """Looks for rows of the next stage, now and then."""

    def __init__(self, ahead: Ahead | None):
        self.ahead = ahead
        self._next = time.monotonic() + AHEAD_EVERY_S if ahead else math.inf

    def due(self) -> bool:
        """Whether it is time to look."""
        return time.monotonic() >= self._next

    def look(self, schedule: Schedule, flow: Flow) -> None:
        """Offer the rows that have become ready."""
        began = time.monotonic()
        for task, rows in self.ahead.ready():
            flow.go_ahead(task, rows)
            schedule.offer(key_of(task.spec), rows.num_rows)
        now = time.monotonic()
        self._next = now + max(AHEAD_EVERY_S, AHEAD_EVERY * (now - began))

    def waited_for(self, answers: Iterable[tuple[Block, Any]]) -> Iterator[Any]:
        """The answers to blocks that are waited for; those to rows of the next stage are kept for it."""
        for block, answer in answers:
            if block.lane.ahead:
                self.ahead.took(answer.receipts)
                continue
            if self.ahead and block.rows is not None:
                self.ahead.made(block.rows)
            yield answer
