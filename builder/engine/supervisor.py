"""A worker in a process of its own, and what becomes of its rows when that process dies or hangs.

A model can take its whole process with it: a segmentation fault, the kernel's out-of-memory killer, a CUDA call that
never returns. So an actor does not run its model; it keeps a child process that does, sees how the child ends, starts
another and tries the rows again in smaller pieces: after one death batch by batch, after a second row by row, and a row
that was alone in flight at the third is given up.
"""

import multiprocessing as mp
import os
import queue
import signal
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Iterable
from contextlib import suppress
from multiprocessing import connection
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.engine.memory import Fitting
from cyclepref.builder.engine.signs_of_life import Signs
from cyclepref.builder.run.in_flight import ALONE_AFTER, Journal
from cyclepref.schemas.errors import CyclePrefError, visible
from cyclepref.schemas.specs import Spec

# Deaths in a row without one finished piece, and deaths before the models were loaded: then it is not the rows.
MAX_FRUITLESS = 20
MAX_LOADING = 3
# How often a process that loads is looked at for a sign of life.
LOOKING_S = 5.0
# How long a process that was killed may take to end; one that waits for a disk or a driver may never.
KILLING_S = 30

# What a child says before each batch: that it lives, and the batch size that the model has come down to.
BATCH = pa.schema([("model", pa.string()), ("batch_size", pa.int64())])
TROUBLE = pa.schema([("trouble", pa.string()), ("trace", pa.string()), ("kind", pa.string())])


class WorkerDied(RuntimeError):
    """The process that ran a model ended, or had to be ended, before it answered."""


class Worker(Protocol):
    """What is supervised: made from keyword arguments in the child, then called with a block at a time.

    It calls its models through `cyclepref.builder.engine.memory.Fitting`, so that every batch is seen to begin.
    """

    def __call__(self, block: pa.Table) -> pa.Table:
        """The block with what became of every row."""

    @staticmethod
    def give_up(block: pa.Table, error: Exception) -> pa.Table:
        """The block as if every row had failed with `error`; runs without a model."""


class Supervised:
    """A worker in a child process: called with a block, it returns what the worker makes of it.

    `specs` has, by the name in a block's column `model`, the batch size and the seconds that one batch may take: from
    any of its signs to the next (a block sent, a batch begun, the answer whole), be it running, reading or writing.
    `key` is the column of the rows' ids; `attempt`, where a block has it, counts from the tries before this one.
    An error that concerns all rows alike, as of a model that cannot load, is returned as a table of TROUBLE.
    """

    def __init__(self, worker: type, kwargs: dict[str, Any], specs: dict[str, Spec], key: str, journal: Journal):
        self.worker, self.kwargs, self.specs, self.key, self.journal = worker, kwargs, specs, key, journal
        self._sizes = {name: spec.batch_size for name, spec in specs.items()}
        self._fruitless: list[str] = []  # notes of the deaths since the last finished piece
        self._start()

    def __call__(self, block: pa.Table) -> pa.Table:
        """A block's outputs, in any order of rows."""
        if not block.num_rows or is_trouble(block):
            return block
        ids = block[self.key].to_pylist()
        deaths = self.journal.deaths(ids)
        waiting, done = deque(self._pieces(block, deaths)), []
        reasons: dict[str, str] = {}
        while waiting:
            piece = waiting.popleft()
            mine = piece[self.key].to_pylist()
            if deaths[mine[0]] > ALONE_AFTER:
                done.append(self._given_up(piece, reasons[mine[0]]))
                continue
            # Before the note is written: a death while models load is no row's.
            if is_trouble(answer := self._loaded()):
                return answer
            note = self.journal.begin(ids, mine)
            try:
                answer = self._ask(_at_attempt(piece, deaths[mine[0]]))
            except WorkerDied as death:
                self.journal.died(note, mine, str(death))
                deaths.update(mine)
                reasons.update(dict.fromkeys(mine, str(death)))
                self._start()
                self._fruitless.append(note)
                if len(self._fruitless) >= MAX_FRUITLESS:
                    return self._acquitted(death)
                waiting.extendleft(reversed(list(self._pieces(piece, deaths))))
                continue
            self.journal.end(note)
            if is_trouble(answer):
                return answer
            self._fruitless = []
            done.append(answer)
        return pa.concat_tables(done)

    def _pieces(self, rows: pa.Table, deaths: Counter[str]) -> Iterable[pa.Table]:
        """Rows of one model: the untried together, then those of one death by batches, then the others alone."""
        size = self._sizes[rows["model"][0].as_py()]
        seen = [min(deaths[id_], ALONE_AFTER) for id_ in rows[self.key].to_pylist()]
        for level, most in enumerate((rows.num_rows, size, 1)):
            members = rows.filter(pa.array([value == level for value in seen]))
            for start in range(0, members.num_rows, most):
                yield members.slice(start, most)

    def _given_up(self, piece: pa.Table, reason: str) -> pa.Table:
        """One row that was in flight at too many deaths."""
        seen = f"it was in flight at {ALONE_AFTER + 1} deaths of its worker, at the last one alone"
        return self.worker.give_up(_at_attempt(piece, ALONE_AFTER), WorkerDied(f"{seen}: {reason}"))

    def _acquitted(self, death: WorkerDied) -> pa.Table:
        """The trouble of a worker that dies whatever it is given; its rows are as if they had not been tried."""
        for note in self._fruitless:
            self.journal.end(note)
        return trouble(WorkerDied(f"{self._names()}: {len(self._fruitless)} deaths in a row; {death}"))

    def _ask(self, piece: pa.Table) -> pa.Table:
        """What the child makes of a piece."""
        # Sent in a thread, since a child that hangs does not read either.
        threading.Thread(target=_send, args=(self._pipe, _packed(piece)), daemon=True).start()
        return self._answer(self.specs[piece["model"][0].as_py()].patience_s)

    def _loaded(self) -> pa.Table:
        """Wait until there is a child that has its models; the trouble that kept it from loading them, or no rows."""
        if self._ready and not self._process.is_alive():
            self._start()  # it ended while it had nothing to do
        if self._ready:
            return TROUBLE.empty_table()
        for _ in range(MAX_LOADING):
            try:
                answer = self._answer_of_loading()
            except WorkerDied as death:
                last = death
                self._start()
            else:
                self._ready = not is_trouble(answer)
                return answer
        return trouble(WorkerDied(f"{self._names()} could not be loaded: {MAX_LOADING} times in a row {last}"))

    def _answer_of_loading(self) -> pa.Table:
        """The first answer of a child: that its models are loaded, or why not.

        Raises:
            WorkerDied: if the child ends first, or has to be ended since it moved nothing for as long as the models
                that it loads may take together.
        """
        limit = sum(spec.load_patience_s for spec in self.specs.values())
        signs, since = Signs(self._process.pid, self.specs.values()), time.monotonic()
        while True:
            try:
                return self._heard(self._said.get(timeout=min(LOOKING_S, limit / 4)))
            except queue.Empty:
                if signs.moved_on():
                    since = time.monotonic()
            if time.monotonic() - since >= limit:
                raise self._ended(
                    f"nothing read or written for {limit:g} s while it loaded, so it was killed (see load_timeout_s in "
                    "the model's settings)"
                )

    def _answer(self, timeout_s: float) -> pa.Table:
        """The child's next answer.

        Raises:
            WorkerDied: if the child ends first, or has to be ended since it gave no sign for `timeout_s` seconds.
        """
        while True:
            try:
                said = self._heard(self._said.get(timeout=timeout_s))
            except queue.Empty:
                rule = "see timeout_s in the model's settings"
                raise self._ended(f"no answer in {timeout_s:g} s, so it was killed ({rule})") from None
            if said.schema != BATCH:
                return said
            [batch] = said.to_pylist()
            self._sizes[batch["model"]] = batch["batch_size"]

    def _heard(self, said: pa.Table | None) -> pa.Table:
        if said is None:
            raise self._death()
        return said

    def _ended(self, why: str) -> WorkerDied:
        """End the child."""
        self._process.kill()
        self._process.join(KILLING_S)
        return WorkerDied(why)

    def _death(self) -> WorkerDied:
        self._process.join(10)
        code = self._process.exitcode
        if code is None or code >= 0:
            return WorkerDied(f"the process that ran the model ended with exit status {code}")
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        hint = "; the out-of-memory killer sends this" if -code == signal.SIGKILL else ""
        return WorkerDied(f"the process that ran the model was ended by {name}{hint}")

    def _start(self) -> None:
        """Start a child. A fresh interpreter, since a fork would share the threads and the GPU of this one."""
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        what = (theirs, self.worker, self.kwargs, self._sizes)
        self._process = context.Process(target=serve, args=what, daemon=True)
        self._process.start()
        theirs.close()
        self._said: queue.Queue[pa.Table | None] = queue.Queue()
        threading.Thread(target=_listen, args=(self._pipe, self._said), daemon=True).start()
        self._ready = False

    def _names(self) -> str:
        return ", ".join(self.specs)


def _send(pipe: connection.Connection, block: pa.Buffer) -> None:
    with suppress(OSError):  # the child has ended, which `_listen` tells
        pipe.send_bytes(block)


def _listen(pipe: connection.Connection, said: queue.Queue[pa.Table | None]) -> None:
    """Queue what a child sends, and None at its end: its end of the pipe closes then, whatever the reason."""
    try:
        with suppress(EOFError, OSError):
            while True:
                said.put(pa.ipc.open_stream(pipe.recv_bytes()).read_all())
    finally:
        said.put(None)


def serve(pipe: connection.Connection, worker: type, kwargs: dict[str, Any], sizes: dict[str, int]) -> None:
    """The child: make the worker, say so, and answer blocks until the parent is gone. `sizes` are the batch sizes that
    the models of an earlier child came down to."""
    # Interrupting is the parent's business.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_leave_with_parent, daemon=True).start()

    def say_batch(name: str, size: int) -> None:
        pipe.send_bytes(_packed(pa.table({"model": [name], "batch_size": [size]}, schema=BATCH)))

    Fitting.reached, Fitting.before_batch = sizes, staticmethod(say_batch)
    try:
        run = worker(**kwargs)
    except Exception as error:
        pipe.send_bytes(_packed(trouble(error)))
        return
    pipe.send_bytes(_packed(TROUBLE.empty_table()))
    while True:
        try:
            block = pa.ipc.open_stream(pipe.recv_bytes()).read_all()
        except EOFError:
            return
        try:
            answer = run(block)
        except Exception as error:
            answer = trouble(error)
        pipe.send_bytes(_packed(answer))


def _leave_with_parent() -> None:
    """End this process when the parent ends, even in the middle of a call that never returns."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)


def trouble(error: Exception) -> pa.Table:
    """An error that concerns all rows, as a table that steps hand on until it reaches the driver."""
    message = str(error) if isinstance(error, CyclePrefError) else f"{type(error).__name__}: {error}"
    # Visible, since half a surrogate pair from a server's answer is text that no table can hold.
    told = {"trouble": [visible(message)], "trace": [visible("".join(traceback.format_exception(error)))]}
    told["kind"] = [type(error).__name__]
    return pa.table(told, schema=TROUBLE)


def is_trouble(table: pa.Table) -> bool:
    """Whether a table tells of an error instead of rows."""
    return table.num_rows > 0 and "trouble" in table.column_names


def _at_attempt(piece: pa.Table, deaths: int) -> pa.Table:
    """The piece with the number of this try in its column `attempt`."""
    at = piece.column_names.index("attempt")
    return piece.set_column(at, "attempt", pc.add(piece["attempt"], min(deaths, ALONE_AFTER)))


def _packed(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()
