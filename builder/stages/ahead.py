"""Reconstructions of inputs whose candidates are done, while other candidates are still made.

A host that has nothing to do asks for them (builder/engine/engine.py). They are the rows that the stage of
reconstructions will want, with the same ids: what is made ahead it finds in the store.
"""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.engine.task import Task, key_of
from cyclepref.builder.run.content import locate
from cyclepref.builder.run.ids import IdMap, pack
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.store import Store, flat, without
from cyclepref.builder.stages.generate import generation_stage
from cyclepref.builder.stages.wanted import Use, sources_of, wanted_generations

RECONSTRUCTIONS, CONTENT = "reconstructions", ("generations", "content_id")
FOUND = pa.schema([("content_id", pa.string()), ("input_id", pa.string()), ("part", pa.string()), ("row", pa.int64())])


class ReconstructionsAhead:
    """Finds the reconstructions that can be made already. `wanted` are the candidates that the recipe asks for, by
    generation_id and input_id; `seed` is the recipe's.

    It reads each part of the store once, and keeps 40 bytes for each wanted candidate.
    """

    def __init__(self, store: Store, wanted: pa.Table, backward: Use, seed: int):
        self._store, self._wanted_candidates, self._backward, self._seed = store, wanted, backward, seed
        self.before = store.ids("generations")
        self.receipts: list[pa.Table] = []
        self._parts: set[str] = set()
        self._found = FOUND.empty_table()
        self._given_ids: set[str] = set()
        stage = generation_stage(RECONSTRUCTIONS, CONTENT)
        self._in_order = stage.in_order
        self._task = stage.task(backward.model.spec, store, Journal(store, RECONSTRUCTIONS))

    @cached_property
    def expected(self) -> Mapping[str, int]:
        """About how many reconstructions will become ready. This begins the bookkeeping: a build that has no candidate
        to make is spared it."""
        wanted = self._wanted_candidates
        self._inputs = flat(wanted["input_id"]).unique()
        of_input = self._numbers(wanted)
        self._candidates = IdMap([pack(wanted["generation_id"])], [of_input])
        there = np.asarray(self.before.holds(wanted["generation_id"]))
        # Failures of earlier builds are left alone, or tried again: nobody waits for them.
        tried = np.asarray(self._store.ids("failures").holds(wanted["generation_id"]))
        self._open = np.bincount(of_input[~there & ~tried], minlength=len(self._inputs))
        self._given = np.zeros(len(self._inputs), dtype=bool)
        made_back = len(self.before) - int(there.sum())  # or by other models: it is a guess
        return {key_of(self._backward.model.spec): max(0, wanted.num_rows * self._backward.samples - made_back)}

    def made(self, rows: pa.Table) -> None:
        """Candidates are accounted for."""
        np.subtract.at(self._open, self._numbers(rows), 1)

    def ready(self) -> list[tuple[Task, pa.Table]]:
        """The reconstructions of the inputs that have become complete."""
        self._read()
        complete = (self._open <= 0) & ~self._given
        self._given |= complete
        mine = pc.is_in(self._found["input_id"], value_set=self._inputs.filter(pa.array(complete)))
        found, self._found = self._found.filter(mine), self._found.filter(pc.invert(mine))
        rows = self._wanted(found)
        return [(self._task, rows)] if rows.num_rows else []

    def took(self, receipts: pa.Table) -> None:
        """Reconstructions are accounted for."""
        self.receipts.append(receipts)

    def _wanted(self, found: pa.Table) -> pa.Table:
        """The reconstructions of candidates that nobody has made or tried, with the places of their sources."""
        wanted = wanted_generations(sources_of(found), [self._backward], self._seed, "backward")
        wanted = without(wanted, "generation_id", self.before)
        wanted = without(wanted, "generation_id", self._store.ids("failures"))
        if self._backward.model.spec.greedy:  # two inputs may share a text
            fresh = [id_ not in self._given_ids for id_ in wanted["generation_id"].to_pylist()]
            wanted = wanted.filter(pa.array(fresh, pa.bool_()))
            self._given_ids.update(wanted["generation_id"].to_pylist())
        rows = locate(wanted, "source", "source_id", found, "content_id")
        rows = rows.append_column("attempt", pa.repeat(pa.scalar(1, pa.int64()), rows.num_rows))
        return self._in_order(rows)

    def _read(self) -> None:
        """Read the parts that are new, and keep what became of the wanted candidates."""
        for part in self._store.parts("generations"):
            if part in self._parts:
                continue
            self._parts.add(part)
            rows = self._store.read_part("generations", part, ["generation_id", "content_id"])
            there, [inputs] = self._candidates.find(rows["generation_id"])
            at = pa.array(np.flatnonzero(there))
            columns = {
                "content_id": flat(rows["content_id"]).take(at),
                "input_id": self._inputs.take(pa.array(inputs.astype(np.int64))),
                "part": pa.repeat(part, len(at)),
                "row": at.cast(pa.int64()),
            }
            self._found = pa.concat_tables([self._found, pa.table(columns, schema=FOUND)])
        self._found = self._found.combine_chunks()

    def _numbers(self, rows: pa.Table) -> np.ndarray:
        """The number of each row's input, shape (n,), int64."""
        return np.asarray(pc.index_in(flat(rows["input_id"]), value_set=self._inputs), dtype=np.int64)
