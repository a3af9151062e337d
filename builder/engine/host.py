"""The process that runs models: one for each host. It reads the content of the next block in one thread and writes the
results of the last one in another, while its main thread runs the model: so a GPU waits for neither a disk nor a PNG.

    pipe -> reader: content of the rows -> main thread: the model -> writer: parts of the store -> receipt -> pipe

Its parent (builder/engine/supervisor.py) sees it live, die and hang.
"""

import importlib
import multiprocessing as mp
import os
import queue
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from multiprocessing.connection import Connection
from typing import Any, NamedTuple

import pyarrow as pa

from cyclepref.builder.engine.memory import Fitting
from cyclepref.builder.engine.task import Done, Dropped, Task, Trouble, Worker


class Asked(NamedTuple):
    """One thing that the parent asks for, answered once: `what` is "load", "work" or "give up"."""

    number: int
    what: str
    task: str
    rows: pa.Table | None = None
    errors: list[Exception] | None = None


class Said(NamedTuple):
    """One thing that this process tells its parent: `what` is "answer" (to the request `number`), "loading" (a spec, or
    nothing when that is over), "loaded", "batch" (a model's name and batch size) or "alive"."""

    what: str
    number: int = 0
    content: Any = None


def serve(pipe: Connection, sizes: dict[str, int], imports: tuple[str, ...]) -> None:
    """Answer requests until the parent is gone. `sizes` are the batch sizes, by name, that models of an earlier
    process came down to; `imports` are modules that the first model will need."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # interrupting is the parent's business
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    host = _Host(pipe)
    Fitting.reached = sizes
    Fitting.before_batch = staticmethod(lambda name, size: host.say(Said("batch", content=(name, size))))
    for name in imports:
        with suppress(ImportError):  # told by the model that needs it
            importlib.import_module(name)
    host.run()


class _Host:
    """The three threads and what they hand to one another."""

    def __init__(self, pipe: Connection):
        self._pipe, self._pipe_free = pipe, threading.Lock()
        self._tasks: dict[str, Task] = {}
        self._unreadable: Exception = LookupError("a task that was never sent")
        self._workers: dict[str, Worker] = {}
        self._to_run: queue.SimpleQueue[tuple[Asked, Any] | None] = queue.SimpleQueue()
        self._to_write: queue.SimpleQueue[tuple[Asked, Callable[[], Any]]] = queue.SimpleQueue()
        self._dropping = False

    def run(self) -> None:
        """Run models in the main thread, where their libraries expect it, until the pipe is closed."""
        for loop in (self._read, self._write):
            threading.Thread(target=loop, daemon=True).start()
        while (given := self._to_run.get()) is not None:
            asked, read = given
            self._answered_by(asked, lambda asked=asked, read=read: self._worked(asked, read))

    def say(self, said: Said) -> None:
        """Tell the parent."""
        with self._pipe_free, suppress(OSError):  # the parent is gone, and soon this process
            self._pipe.send(said)

    def _answered_by(self, asked: Asked, work: Callable[[], Any]) -> None:
        """Do a part of a request; an answer that it returns goes out, and so does what it raises."""
        try:
            answer = work()
        except Exception as error:
            answer = Trouble.of(error)
        if answer is not None:
            self.say(Said("answer", asked.number, answer))

    # ---- the three threads ---------------------------------------------------------------------------------------

    def _read(self) -> None:
        """Take what the parent sends; read the content of rows as soon as they are here."""
        while True:
            try:
                asked = self._pipe.recv()
            except (EOFError, OSError):
                break
            except Exception as error:  # a task whose code is not on this node
                self._unreadable = error
                continue
            if isinstance(asked, Asked):
                self._answered_by(asked, lambda asked=asked: self._to_run.put((asked, self._content(asked))))
            else:
                self._told(*asked)
        self._to_run.put(None)

    def _content(self, asked: Asked) -> Any:
        if asked.what != "work" or self._dropping:
            return None
        read = self._task(asked).read(asked.rows)
        self.say(Said("alive"))
        return read

    def _worked(self, asked: Asked, read: tuple[pa.Table, Any] | None) -> Any:
        """Load or run a model; results are handed to the writer."""
        task = self._task(asked)
        if asked.what == "load":
            return self._loaded(task)
        if asked.what == "give up":
            self._to_write.put((asked, partial(_written, task, asked.rows, asked.errors)))
            return None
        if read is None or self._dropping:
            return Dropped()
        self._loaded(task)
        worker, begin = self._workers[task.model], time.monotonic()
        rows, contents = read
        results = worker(rows, contents)
        halved, seconds = worker.halvings(), time.monotonic() - begin
        self._to_write.put((asked, partial(_written, task, rows, results, halved, seconds)))
        return None

    def _write(self) -> None:
        while True:
            asked, write = self._to_write.get()
            self._answered_by(asked, write)

    # ---- tasks and models ----------------------------------------------------------------------------------------

    def _told(self, what: str, content: Any) -> None:
        """What needs no answer."""
        if what == "task":
            name, task = content
            self._tasks[name] = task
        elif what == "drop":
            self._dropping = True

    def _task(self, asked: Asked) -> Task:
        if asked.task not in self._tasks:
            raise self._unreadable
        return self._tasks[asked.task]

    def _loaded(self, task: Task) -> float:
        """Load a task's model if it is not there; returns the seconds that it took."""
        if task.model in self._workers:
            return 0.0
        self.say(Said("loading", content=task.spec))
        begin = time.monotonic()
        try:
            self._workers[task.model] = task.worker(task.spec)
            self.say(Said("loaded", content=task.model))
        finally:
            self.say(Said("loading"))
        return time.monotonic() - begin


def _written(task: Task, rows: pa.Table, results: list[Any], halved: int = 0, seconds: float = 0.0) -> Done:
    return Done(task.write(rows, results, halved), len(results), seconds, device=_device())


def _device() -> str:
    """The GPU that this process has, by its driver's name; "CPU" if it has none or uses none."""
    torch = sys.modules.get("torch")
    return torch.cuda.get_device_name() if torch and torch.cuda.is_initialized() else "CPU"


def _leave_with_parent() -> None:
    """End this process when the parent ends, even in the middle of a call that never returns."""
    parent = mp.parent_process()
    if parent is not None:
        parent.join()
        os.kill(os.getpid(), signal.SIGKILL)
