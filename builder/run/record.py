"""A build's notes for `status` and `prune`: the ids that each stage wants, and its progress.

`wanted/STAGE.parquet` holds the ids that the latest build wants from a stage: together with the store it shows which
rows are done and which are unused. `progress.json` lists the stages and their speed. Both are replaced as a whole, at
most a few times a minute; no file is written per row.
"""

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal

import pyarrow as pa

from cyclepref.builder.common.time_left import TimeLeft
from cyclepref.builder.run.folder import StoreError
from cyclepref.builder.run.lock import LockError
from cyclepref.builder.run.seal import UNREADABLE, in_a_line, read_sealed, write_sealed
from cyclepref.builder.run.store import Store

PROGRESS_FILE = "progress.json"
NOTE_EVERY_S = 5.0
# Characters of an error that are kept, since it may quote long output of a model or server.
MAX_ERROR = 4000
# What is said of a stage that runs models until its first rows are done.
LOADING = "loading models"
State = Literal["running", "finished", "stopped"]


class Notes:
    """The notes of one build. `check` is called from time to time and may raise; it is the lock's, which raises if the
    lock was lost. `tell` is given the note of the stage at work whenever notes are written."""

    def __init__(
        self,
        store: Store,
        check: Callable[[], object] = lambda: None,
        tell: Callable[[dict[str, Any]], object] = lambda note: None,
    ):
        self.store, self.check, self.tell = store, check, tell
        self._content: dict[str, Any] = {"state": "running", "recipe": None, "began": time.time(), "stages": []}
        self._written = 0.0

    @contextmanager
    def of(self, recipe: str) -> Iterator["Notes"]:
        """Keep notes of a build of the recipe with this name, from its first stage to its end, successful or not.

        A build that reaches no stage has changed nothing, and the notes of the build before it stay.
        """
        self._content["recipe"] = recipe
        try:
            yield self
        except LockError:  # the notes now belong to the build that took over
            raise
        except BaseException as error:
            # `status` shows an error later; a Ctrl-C, a SIGTERM or an exit is not an error.
            if isinstance(error, Exception):
                self._content["error"] = str(error)[:MAX_ERROR] or type(error).__name__
            if self._content["stages"]:
                self._write("stopped")
            raise
        self._write("finished")

    def begin(self, stage: str, table: str, ids: pa.ChunkedArray, models: pa.ChunkedArray, todo: int) -> None:
        """Begin a stage, which wants these ids of a table of the store, for these models; `todo` of them are to be
        made."""
        self.check()
        name = re.sub(r"[^A-Za-z0-9]+", "-", stage)
        before = sum(note["stage"] == stage for note in self._content["stages"])
        name = f"wanted/{name}-{before + 1}.parquet" if before else f"wanted/{name}.parquet"
        wanted = pa.table({"id": ids, "model": models})
        options = {"compression": "zstd", "use_dictionary": ["model"]}
        self.store.write_file(name, lambda sink: write_sealed(wanted, name, sink, **options))
        note = {"stage": stage, "table": table, "wanted": name, "rows": len(ids), "todo": todo, "done": 0, "failed": 0}
        speed = {"rows_a_second": None, "seconds_left": None}
        self._content["stages"].append({**note, **speed, "began": time.time(), "ended": None})
        self._write("running")

    def tick(self, done: int, failed: int, left: TimeLeft) -> None:
        """Rows of the stage were finished, some of them as failures; `left` has been told of them."""
        self.check()
        note = self._content["stages"][-1]
        note["done"], note["failed"] = note["done"] + done, note["failed"] + failed
        note["rows_a_second"], note["seconds_left"] = left.rows_a_second, left.seconds_left
        if time.monotonic() - self._written >= NOTE_EVERY_S:
            self._write("running")

    def end(self) -> None:
        """End the stage."""
        self._content["stages"][-1]["ended"] = time.time()
        self._write("running")

    def _write(self, state: State) -> None:
        self._content.update(state=state, updated=time.time())
        self.store.write_json(PROGRESS_FILE, self._content)
        self._written = time.monotonic()
        if state == "running":
            self.tell(self._content["stages"][-1])


def runs_models(table: str) -> bool:
    """Whether a stage that fills this table of the store runs models, and so has to load them before its first rows."""
    return table in ("generations", "similarities", "verdicts")


def wanted_of(store: Store, note: dict[str, Any]) -> pa.Table:
    """The ids (`id`) that a stage of the latest build asked for, and the `model` under which each is counted.

    Raises:
        StoreError: if the file is missing or damaged, so that unused rows cannot be determined.
    """
    name = note["wanted"]
    try:
        return store.read_file(name, lambda file: read_sealed(file, name)).select(["id", "model"])
    except (*UNREADABLE, KeyError) as error:
        raise StoreError(
            f"{store.address(name)} is missing or damaged ({in_a_line(error)}): run `cyclepref build "
            f"RECIPE --out {store.root}` again, which writes it anew"
        ) from error
