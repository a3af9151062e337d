"""The views of a dataset a block of inputs at a time, joined and in the order in which they are written.

A block is looked up in all of the views, which are in memory, and only what was found is joined: so what a join takes
does not grow with the dataset.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builder.pairing.pair import distinct_outputs
from builder.run.store import Store, flat
from builder.stages.accounting import locate
from builder.stages.compare import of_metric

if TYPE_CHECKING:
    from builder.dataset.write import Views


def among(rows: pa.Table, column: str, ids: pa.ChunkedArray) -> pa.Table:
    """The rows whose `column` is one of these ids."""
    return rows.filter(pc.is_in(rows[column], value_set=flat(ids)))


class ByInput:
    """Rows in order of input_id, to be taken by input without looking at all of them."""

    def __init__(self, rows: pa.Table):
        self.rows = rows
        ids = flat(rows["input_id"])
        runs = pc.run_end_encode(ids) if len(ids) else None
        self.ids = np.array(runs.values.to_pylist() if runs else [], dtype="S32")
        ends = np.asarray(runs.run_ends) if runs else np.empty(0, dtype=np.int64)
        self.starts, self.ends = np.concatenate([[0], ends[:-1]]).astype(int), ends.astype(int)

    def of(self, ids: list[str]) -> pa.Table:
        """The rows of some inputs, those of one input together and in order."""
        wanted = np.array(ids, dtype="S32")
        places = np.searchsorted(self.ids, wanted)
        there = [at for at, id_ in zip(places, wanted, strict=True) if at < len(self.ids) and self.ids[at] == id_]
        slices = [self.rows.slice(self.starts[at], self.ends[at] - self.starts[at]) for at in there]
        return pa.concat_tables([self.rows.schema.empty_table(), *slices])


@dataclass(frozen=True)
class Block:
    """The views of some inputs, in the order in which they are written, each made when it is first asked for.

    `views`, and `generations` and `inputs`, which say where the content is, are those of all inputs. `first` is the row
    of the first of them among the rankings of their split.
    """

    ids: list[str]
    first: int
    store: Store
    views: Views
    generations: pa.Table
    inputs: pa.Table

    @cached_property
    def ranked(self) -> ByInput:
        """Every distinct scored candidate with what the views know of it, and where its content is."""
        views, candidates = self.views, self._mine(self.views.candidates)
        scores = among(views.scores, "generation_id", candidates["generation_id"])
        deciding = of_metric(scores, views.metric).select(["generation_id", "value", "spread", "n"])
        scored = candidates.join(deciding, keys="generation_id", join_type="inner")
        distinct = distinct_outputs(scored, views.cycle.candidate).select(["generation_id", "models"])
        rows = among(scored, "generation_id", distinct["generation_id"])
        rows = rows.join(self._mine(views.inputs), keys="input_id", join_type="inner")
        made = self.made(rows["generation_id"])
        rows = rows.join(made.select(["generation_id", "code_version"]), keys="generation_id", join_type="inner")
        rows = locate(rows, "candidate", "generation_id", made, "generation_id")
        rows = locate(rows, "input", "input_id", self._mine(self.inputs), "input_id")
        rows = rows.sort_by([("input_id", "ascending"), ("value", "descending"), ("generation_id", "ascending")])
        # A join cannot carry lists.
        places = pc.index_in(rows["generation_id"], value_set=flat(distinct["generation_id"]))
        return ByInput(rows.append_column("models", flat(distinct["models"]).take(flat(places))))

    @cached_property
    def scores(self) -> ByInput:
        """Every metric's scores of the candidates."""
        return self._sorted(self.views.scores, "generation_id", "metric")

    @cached_property
    def pairs(self) -> ByInput:
        """The pairs."""
        return self._sorted(self.views.pairs, "pair_id")

    @cached_property
    def reconstructions(self) -> ByInput:
        """What was made of the candidates."""
        return self._sorted(self.views.reconstructions, "source_id", "sample_index")

    @cached_property
    def samples(self) -> ByInput:
        """Each reconstruction's similarities."""
        return self._sorted(self.views.samples, "generation_id", "metric", "sample_index")

    def made(self, ids: pa.ChunkedArray) -> pa.Table:
        """Some rows of `generations`."""
        return among(self.generations, "generation_id", ids)

    def _sorted(self, rows: pa.Table, *names: str) -> ByInput:
        return ByInput(self._mine(rows).sort_by([(name, "ascending") for name in ("input_id", *names)]))

    def _mine(self, rows: pa.Table) -> pa.Table:
        return among(rows, "input_id", pa.chunked_array([self.ids], pa.string()))
