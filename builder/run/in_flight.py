"""Notes on disk of the rows that are being worked on, by which a row that kills its worker is found.

Before rows are given to a model, a note with their ids is written beside the store's tables; it is removed when their
outputs are back. A note that remains names rows whose worker died, alone, with its node or with the whole build. There
is one small file for each piece of work, not for each row.

Notes only make a row run alone, since most builds end for reasons that have nothing to do with a row. A row is given up
only by the worker that saw it kill its process while it ran alone (see builder/engine/supervisor.py).
"""

import threading
import uuid
from collections import Counter

from cyclepref.builder.run.store import Store
from cyclepref.schemas.ids import digest
from cyclepref.schemas.run_files import InFlight

# A row that was in flight at this many deaths runs alone; if it is in flight at one more, it is a failure.
ALONE_AFTER = 2


class Journal:
    """The notes of one stage of a run, as one process sees them.

    Notes of earlier work are read once, for the first block; later only the current block's notes are read, which
    another worker may just have left.
    """

    def __init__(self, store: Store, stage: str):
        self.store, self.stage = store, stage
        self.folder = f"store/attempts/{stage}"
        self._notes: dict[str, list[str]] = {}
        self._asked = False
        self._lock = threading.Lock()  # a host asks for several blocks at a time

    def __reduce__(self) -> tuple:
        return Journal, (self.store, self.stage)

    def deaths(self, ids: list[str]) -> Counter[str]:
        """How often each row of a block was in flight when its worker went away, from 0 to ALONE_AFTER."""
        with self._lock:
            for name in self.store.names(self.folder):
                if name not in self._notes and (name.startswith(_block(ids)) or not self._asked):
                    # A note that has disappeared belonged to another worker, which has finished the piece.
                    self._notes[name] = (self.store.read_json(f"{self.folder}/{name}", InFlight) or {"ids": []})["ids"]
            self._asked = True
            found = Counter(id_ for note in self._notes.values() for id_ in note)
        return Counter({id_: min(found[id_], ALONE_AFTER) for id_ in ids})

    def begin(self, block: list[str], ids: list[str]) -> str:
        """Note that `ids`, a piece of a block, are about to be worked on; returns the note's name."""
        name = f"{_block(block)}-{uuid.uuid4().hex}.json"
        self.store.write_json(f"{self.folder}/{name}", {"ids": ids})
        return name

    def died(self, name: str, ids: list[str], reason: str) -> None:
        """Write the reason of the worker's death into its note, so that `forgive` keeps it."""
        self.store.write_json(f"{self.folder}/{name}", {"ids": ids, "reason": reason})

    def end(self, name: str) -> None:
        """Remove the note of a piece that is done."""
        self.store.remove(f"{self.folder}/{name}")

    def forgive(self) -> None:
        """Remove the notes of work that was stopped on purpose: those without a death."""
        for name in self.store.names(self.folder):
            if "reason" not in (self.store.read_json(f"{self.folder}/{name}", InFlight) or {}):
                self.end(name)

    def clear(self) -> None:
        """Remove all notes of the stage: every row is accounted for."""
        for name in self.store.names(self.folder):
            self.end(name)


def _block(ids: list[str]) -> str:
    return digest("block", *ids)
