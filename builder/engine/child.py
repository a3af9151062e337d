"""A host's process as its parent sees it: it answers requests, gives signs of life, dies, or hangs and is killed."""

import multiprocessing as mp
import queue
import signal
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from multiprocessing.reduction import ForkingPickler

import pyarrow as pa

from cyclepref.builder.engine.host import Asked, Said, serve
from cyclepref.builder.engine.signs_of_life import Signs
from cyclepref.builder.engine.task import Task
from cyclepref.schemas.specs import Spec

# How often a process that is silent is looked at.
LOOKING_S = 1.0
# How long a process that was killed may take to end; one that waits for a disk or a driver may never.
KILLING_S = 30


class WorkerDied(RuntimeError):
    """The process that ran a model ended, or had to be ended, before it answered."""


class Child:
    """One process with models. Requests are answered through futures; when the process ends, those that are open get
    a WorkerDied that says how.

    It is killed if it gives no sign (content read, a batch begun, an answer) for the `patience_s` of the models that it
    works for, or, while it loads one, if nothing is read or written for that model's `load_patience_s`.
    `sizes` are the batch sizes that models have come down to, by name; kept up to date. `imports` are modules that it
    imports while nobody waits for it yet.
    """

    def __init__(self, sizes: dict[str, int], imports: tuple[str, ...] = ()):
        self._sizes = sizes
        self._open: dict[int, tuple[Future, Spec, str]] = {}
        self._lock = threading.Lock()
        self._number = 0
        self._sent: set[str] = set()
        self.loaded: set[str] = set()
        self.end: WorkerDied | None = None
        self._loading: tuple[Spec, Signs] | None = None
        self._quiet_since = time.monotonic()
        # A fresh interpreter, since a fork would share the threads and the GPU of this one.
        context = mp.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs, dict(sizes), imports), daemon=True)
        self.process.start()
        theirs.close()
        self._to_send: queue.SimpleQueue[object] = queue.SimpleQueue()
        for loop in (self._send, self._listen):
            threading.Thread(target=loop, daemon=True).start()

    def ask(
        self,
        what: str,
        name: str,
        task: Task,
        rows: pa.Table | None = None,
        errors: list[WorkerDied] | None = None,
    ) -> Future:
        """The answer to come: a Done, Dropped or Trouble; of "load" the seconds that it took, or Trouble.

        Raises:
            WorkerDied: from the future, or at once, if the process has ended.
        """
        with self._lock:
            if self.end is not None:
                raise self.end
            if not self._open:
                self._quiet_since = time.monotonic()
            if what == "load":  # from now on, since it may still be importing what every model needs
                self._loading = task.spec, Signs(self.process.pid, [task.spec])
            self._number += 1
            future: Future = Future()
            self._open[self._number] = (future, task.spec, what)
            if name not in self._sent:
                self._sent.add(name)
                self._to_send.put(ForkingPickler.dumps(("task", (name, task))))
            self._to_send.put(ForkingPickler.dumps(Asked(self._number, what, name, rows, errors)))
        return future

    def drop(self) -> None:
        """Answer what has not begun with Dropped from now on."""
        self._to_send.put(ForkingPickler.dumps(("drop", None)))

    def kill(self) -> None:
        """End the process."""
        self.process.kill()

    # ---- threads -------------------------------------------------------------------------------------------------

    def _send(self) -> None:
        """In a thread, since a process that hangs does not read either."""
        with suppress(OSError):  # the process has ended, which `_listen` tells
            while (what := self._to_send.get()) is not None:
                self._pipe.send_bytes(what)

    def _listen(self) -> None:
        why = None
        with suppress(EOFError, OSError):
            while why is None:
                if self._pipe.poll(self._look_s()):
                    self._heard(self._pipe.recv())
                else:
                    why = self._silent_too_long()
        if why is not None:
            self.process.kill()
        self.process.join(KILLING_S)
        with self._lock:
            self.end = WorkerDied(why or self._how_it_ended())
            left, self._open = self._open, {}
        self._to_send.put(None)
        for future, *_ in left.values():
            future.set_exception(self.end)

    def _heard(self, said: Said) -> None:
        self._quiet_since = time.monotonic()
        if said.what == "loading":
            self._loading = (said.content, Signs(self.process.pid, [said.content])) if said.content else None
        elif said.what == "loaded":
            self.loaded.add(said.content)
        elif said.what == "batch":
            name, size = said.content
            self._sizes[name] = size
        elif said.what == "answer":
            with self._lock:
                future, _, what = self._open.pop(said.number)
                if what == "load":
                    self._loading = None
            future.set_result(said.content)

    def _look_s(self) -> float:
        return min(LOOKING_S, self._patience_s() / 4)

    def _patience_s(self) -> float:
        with self._lock:
            if self._loading:
                return self._loading[0].load_patience_s
            return max((spec.patience_s for _, spec, _ in self._open.values()), default=LOOKING_S * 4)

    def _silent_too_long(self) -> str | None:
        """Why the process has to be ended, if it has."""
        if self._loading and self._loading[1].moved_on():
            self._quiet_since = time.monotonic()
        patience = self._patience_s()
        if not self._open or time.monotonic() - self._quiet_since < patience:
            return None
        if self._loading:
            return (
                f"nothing read or written for {patience:g} s while it loaded, so it was killed (see load_timeout_s in "
                "the model's settings)"
            )
        return f"no answer in {patience:g} s, so it was killed (see timeout_s in the model's settings)"

    def _how_it_ended(self) -> str:
        code = self.process.exitcode
        if code is None or code >= 0:
            return f"the process that ran the model ended with exit status {code}"
        name = signal.Signals(-code).name if -code in list(signal.Signals) else f"signal {-code}"
        hint = "; the out-of-memory killer sends this" if -code == signal.SIGKILL else ""
        return f"the process that ran the model was ended by {name}{hint}"
