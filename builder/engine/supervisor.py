"""Work on a host, and what becomes of rows when the process that runs their model dies or hangs.

A model can take its whole process with it: a segmentation fault, the kernel's out-of-memory killer, a CUDA call that
never returns. So a host does not run its models itself; it keeps a child process that does, sees how the child ends,
starts another and tries the rows again in smaller pieces: after one death batch by batch, after a second row by row,
and a row that was alone in flight at the third is given up. (A child also starts again without asking Ray, so that
nobody else takes its GPU meanwhile, and it alone can tell by which signal a model died.)
"""

import threading
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.engine.child import Child, WorkerDied
from cyclepref.builder.engine.task import Done, Dropped, Task, Trouble
from cyclepref.builder.run.in_flight import ALONE_AFTER

# Deaths in a row without one finished piece, and deaths before a model was loaded: then it is not the rows.
MAX_FRUITLESS = 20
MAX_LOADING = 3


class Supervised:
    """A child process with models, replaced when it dies. Several blocks may be in flight at a time, each in a thread
    of its own: while the model is busy with one, the next is read and the last is written.

    A block's rows are all of one model, and an error that concerns all of them alike is returned as Trouble. A column
    `attempt`, which every block has, counts from the tries before this one.
    """

    def __init__(self, imports: tuple[str, ...] = ()) -> None:
        self._sizes: dict[str, int] = {}
        self._lock = threading.Lock()
        self._turns = Turns()
        self._fruitless = 0
        self._notes: list[tuple[Task, str]] = []  # of the deaths since the last finished piece
        self._dropping = False
        self._child = Child(self._sizes, imports)

    def load(self, name: str, task: Task) -> float | Trouble:
        """Load a task's model; the seconds that it took, 0 if it was there."""
        with self._turns.take(alone=True):
            return self._loaded(name, task)

    def work(self, name: str, task: Task, block: pa.Table) -> Done | Dropped | Trouble:
        """Work on a block until every row is done, failed or given up. `name` stands for the task in this host."""
        ids = block[task.key].to_pylist()
        deaths = task.journal.deaths(ids)
        waiting = deque(self._pieces(task, block, deaths))
        done: list[Done] = []
        hopeless: list[tuple[pa.Table, WorkerDied]] = []
        reasons: dict[str, WorkerDied] = {}
        while waiting and not self._dropping:
            piece = waiting.popleft()
            mine = piece[task.key].to_pylist()
            if deaths[mine[0]] > ALONE_AFTER:
                hopeless.append((piece, reasons[mine[0]]))
                continue
            answer = self._tried(name, task, piece, ids, deaths[mine[0]])
            if isinstance(answer, WorkerDied):
                deaths.update(mine)
                reasons.update(dict.fromkeys(mine, answer))
                waiting.extendleft(reversed(list(self._pieces(task, piece, deaths))))
            elif isinstance(answer, Trouble):
                return answer
            elif isinstance(answer, Done):
                done.append(answer)
        # Last, since a process that dies whatever it is given is no row's fault.
        if hopeless:
            if not isinstance(answer := self._given_up(name, task, hopeless), Done):
                return answer
            done.append(answer)
        return _joined(done) if done else Dropped()

    def _tried(
        self, name: str, task: Task, piece: pa.Table, block: list[str], deaths: int
    ) -> Done | Dropped | Trouble | WorkerDied:
        """What the child makes of a piece of a block, or how it died of it; pieces after a death have it for
        themselves."""
        mine = piece[task.key].to_pylist()
        with self._turns.take(alone=deaths > 0 or not self._has(task)):
            # Before the note is written: a death while a model loads is no row's fault.
            if isinstance(loading_s := self._loaded(name, task), Trouble):
                return loading_s
            note = task.journal.begin(block, mine)
            child = self._child
            try:
                answer = child.ask("work", name, task, _at_attempt(piece, deaths)).result()
            except WorkerDied as death:
                return self._died(child, task, note, mine, death) or death
        task.journal.end(note)
        if isinstance(answer, Done):
            with self._lock:
                self._fruitless, self._notes = 0, []
            return replace(answer, loading_s=loading_s)
        return answer

    def _given_up(self, name: str, task: Task, hopeless: list[tuple[pa.Table, WorkerDied]]) -> Done | Trouble:
        """Have rows written as failures that were in flight at too many deaths."""
        seen = f"it was in flight at {ALONE_AFTER + 1} deaths of its worker, at the last one alone"
        errors = [WorkerDied(f"{seen}: {reason}") for _, reason in hopeless]
        rows = _at_attempt(pa.concat_tables([piece for piece, _ in hopeless]), ALONE_AFTER)
        for _ in range(MAX_LOADING):
            try:
                return self._living().ask("give up", name, task, rows, errors).result()
            except WorkerDied as death:
                last = death
        return Trouble.of(last)

    def drop(self) -> None:
        """Begin nothing more; what has begun is finished."""
        self._dropping = True
        self._child.drop()

    def kill(self) -> None:
        """End the child."""
        self._child.kill()

    # ---- pieces of a block ---------------------------------------------------------------------------------------

    def _pieces(self, task: Task, rows: pa.Table, deaths: Counter[str]) -> Iterable[pa.Table]:
        """Rows of one model: the untried together, then those of one death by batches, then the others alone."""
        size = self._sizes.get(task.spec.name, task.spec.batch_size)
        seen = [min(deaths[id_], ALONE_AFTER) for id_ in rows[task.key].to_pylist()]
        for level, most in enumerate((rows.num_rows, size, 1)):
            members = rows.filter(pa.array([value == level for value in seen]))
            for start in range(0, members.num_rows, most):
                yield members.slice(start, most)

    # ---- the child -----------------------------------------------------------------------------------------------

    def _has(self, task: Task) -> bool:
        return self._child.end is None and task.model in self._child.loaded

    def _loaded(self, name: str, task: Task) -> float | Trouble:
        """See to it that there is a child that has the task's model."""
        for _ in range(MAX_LOADING):
            child = self._living()
            if task.model in child.loaded:
                return 0.0
            try:
                return child.ask("load", name, task).result()
            except WorkerDied as death:
                last = death
        return Trouble.of(WorkerDied(f"{task.spec.name} could not be loaded: {MAX_LOADING} times in a row {last}"))

    def _living(self) -> Child:
        """The child; a new one, if it has ended."""
        with self._lock:
            if self._child.end is not None:
                self._child = Child(self._sizes)
            return self._child

    def _died(self, child: Child, task: Task, note: str, ids: list[str], death: WorkerDied) -> Trouble | None:
        """Write down a death. After too many that nothing explains, the rows are as if they had not been tried."""
        task.journal.died(note, ids, str(death))
        with self._lock:
            if self._child is child:  # the first of those that were in flight
                self._fruitless += 1
                self._child = Child(self._sizes)
            self._notes.append((task, note))
            if self._fruitless < MAX_FRUITLESS:
                return None
            for of, each in self._notes:
                of.journal.end(each)
        return Trouble.of(WorkerDied(f"{task.spec.name}: {self._fruitless} deaths in a row; {death}"))


class Turns:
    """Lets many in at a time, or one that asks to be alone: whoever comes while that one waits, waits behind it."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._inside = 0
        self._alone = False
        self._waiting = 0

    @contextmanager
    def take(self, alone: bool) -> Iterator[None]:
        """A turn, for the time of a block."""
        with self._changed:
            if alone:
                self._waiting += 1
                self._changed.wait_for(lambda: not self._inside and not self._alone)
                self._waiting -= 1
                self._alone = True
            else:
                self._changed.wait_for(lambda: not self._alone and not self._waiting)
                self._inside += 1
        try:
            yield
        finally:
            with self._changed:
                if alone:
                    self._alone = False
                else:
                    self._inside -= 1
                self._changed.notify_all()


def _joined(done: list[Done]) -> Done:
    """What became of a block, of what became of its pieces."""
    sums = (sum(getattr(each, name) for each in done) for name in ("rows", "seconds", "loading_s"))
    return Done(pa.concat_tables([each.receipts for each in done]), *sums, device=done[-1].device)


def _at_attempt(piece: pa.Table, deaths: int) -> pa.Table:
    """The piece with the number of this try in its column `attempt`."""
    at = piece.column_names.index("attempt")
    return piece.set_column(at, "attempt", pc.add(piece["attempt"], min(deaths, ALONE_AFTER)))
