"""Workers that do to their own process what a row says, and a supervised process around them."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pyarrow as pa

from cyclepref.builder.engine.memory import Fitting
from cyclepref.builder.engine.supervisor import Supervised
from cyclepref.builder.engine.task import Done, Task, Trouble
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.store import Store
from cyclepref.schemas.specs import Spec

SPEC = Spec(name="m", batch_size=4, num_gpus=0, timeout_s=60)


class Fragile:
    """A worker that does to its own process what a row says; `log` has a line for each block that it was given."""

    def __init__(self, spec: Spec, log: str, on_load: str = ""):
        self.spec, self.log = spec, Path(log)
        self.do(on_load)

    def do(self, what: str) -> None:
        if what == "segfault":
            os.kill(os.getpid(), signal.SIGSEGV)
        if what == "exit":
            os._exit(3)
        if what == "hang":
            time.sleep(3600)
        if what == "download slowly":
            for _ in range(16):
                time.sleep(0.5)
                self.log.with_suffix(".weights").write_bytes(bytes(2**21))
        if what == "slow":
            time.sleep(3)
        if what == "once a process":
            with self.log.with_suffix(".loads").open("a") as loads:
                loads.write("loaded\n")
        if what == "raise":
            raise OSError("no such weights")
        if what == "look for notes":
            time.sleep(1)  # as long as a model takes to load; nobody who is killed now leaves a note of rows
            if noted := os.listdir(self.log.with_name("run") / "store/attempts/candidates"):
                raise OSError(f"in flight before the model was loaded: {noted}")
        if what == "once" and not self.log.with_suffix(".once").exists():
            self.log.with_suffix(".once").touch()
            os.kill(os.getpid(), signal.SIGKILL)

    def __call__(self, rows: pa.Table, texts: list[str]) -> list[str]:
        with self.log.open("a") as log:
            log.write(" ".join(rows["id"].to_pylist()) + "\n")
        for text in texts:
            self.do(text)
        return texts

    def halvings(self) -> int:
        return 0


class Tight(Fragile):
    """A worker whose model has room for one row at a time and takes half a second; `log` has the size of each batch."""

    def __init__(self, spec: Spec, log: str):
        super().__init__(spec, log)
        self.run = Fitting(self, self.batch)

    def batch(self, texts: list[str]) -> list[None]:
        with self.log.open("a") as log:
            log.write(f"{len(texts)}\n")
        if len(texts) > 1:
            raise MemoryError
        time.sleep(0.5)
        self.do(texts[0])
        return texts

    def __call__(self, rows: pa.Table, texts: list[str]) -> list[str]:
        return self.run(texts)


def texts_of(block: pa.Table) -> tuple[pa.Table, list[str]]:
    """What is read of a block; a row that says so cannot be."""
    texts = block["text"].to_pylist()
    if "unreadable" in texts:
        raise OSError("Input/output error")
    return block.select(["id", "model", "attempt"]), texts


def told(rows: pa.Table, results: list, halved: int) -> pa.Table:
    """What became of every row, in the place of a receipt."""
    errors = [f"{type(it).__name__}: {it}" if isinstance(it, Exception) else None for it in results]
    return rows.select(["id", "attempt"]).append_column("error", pa.array(errors, pa.string()))


def block(*texts: str) -> pa.Table:
    columns = {"id": [f"r{at}" for at in range(len(texts))], "model": ["m"] * len(texts), "text": list(texts)}
    return pa.table({**columns, "attempt": [1] * len(texts)})


class Hosted:
    """A supervised process, and a task for it: called with a block, it gives what became of every row."""

    def __init__(self, run: Path, log: Path, spec: Spec, worker: type, **kwargs):
        self.host = Supervised()
        self.task = Task("candidates", spec, "id", partial(worker, log=str(log), **kwargs), texts_of, told,
                         Journal(Store(run), "candidates"), 64)  # fmt: skip

    def __call__(self, block: pa.Table) -> pa.Table | Trouble:
        answer = self.host.work("task", self.task, block)
        return answer.receipts if isinstance(answer, Done) else answer
