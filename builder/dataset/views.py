"""The views of a dataset a block of inputs at a time, joined and in the order in which they are written.

What a block's inputs have in the views is read from there (builder/run/blocks.py), and only that is joined: so what a
join takes does not grow with the dataset.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.dataset import format as dataset_format
from cyclepref.builder.pairing.pair import distinct_outputs
from cyclepref.builder.pairing.scores import SAMPLE, of_metric
from cyclepref.builder.run.blocks import Blocks
from cyclepref.builder.run.content import locate
from cyclepref.builder.run.ids import HEX
from cyclepref.builder.run.store import Store, flat
from cyclepref.schemas.cycle import Cycle
from cyclepref.schemas.id_columns import letters_of
from cyclepref.schemas.ids import digest
from cyclepref.schemas.recipe import Splits


def among(rows: pa.Table, column: str, ids: pa.ChunkedArray) -> pa.Table:
    """The rows whose `column` is one of these ids."""
    return rows.filter(pc.is_in(rows[column], value_set=flat(ids)))


def not_among(rows: pa.Table, column: str, ids: list[str]) -> pa.Table:
    """The rows whose `column` is none of these ids."""
    return rows.filter(pc.invert(pc.is_in(rows[column], value_set=pa.array(ids, pa.string()))))


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
        views, candidates = self.views, self.views.candidates.of_inputs(self.ids)
        scores = among(views.scores.of_inputs(self.ids), "generation_id", candidates["generation_id"])
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

    def _sorted(self, rows: Blocks, *names: str) -> ByInput:
        mine = rows.of_inputs(self.ids)
        return ByInput(mine.sort_by([(name, "ascending") for name in ("input_id", *names)]))

    def _mine(self, rows: pa.Table) -> pa.Table:
        return among(rows, "input_id", pa.chunked_array([self.ids], pa.string()))


PAIRS_PER_BATCH = 100_000

# What the views say of a reconstruction.
RECONSTRUCTION = pa.schema(
    [(name, pa.string()) for name in ("generation_id", "source_id", "input_id", "content_id", "model", "fingerprint")]
    + [("sample_index", pa.int64()), ("seed", pa.int64())]
)


def split_of(input_id: str, splits: Splits) -> str:
    """The split of an input or a group: its id's hash against the shares, so that it never moves when others come."""
    place = int(digest("split", input_id)[:13], 16) / 16**13
    if place < splits.test:
        return "test"
    return "validation" if place < splits.test + splits.validation else "train"


@dataclass(frozen=True)
class Views:
    """What a dataset is made from: inputs (input_id, source), made candidates, their scores, and the pairs that
    `metric`, one of those in the scores, decided.

    `reconstructions` is as RECONSTRUCTION says, where source_id is a candidate's content; `samples` has each one's
    similarity by every metric (builder/stages/derive.py). All but the inputs are read a block at a time.
    """

    cycle: Cycle
    inputs: pa.Table
    candidates: Blocks
    scores: Blocks
    pairs: Blocks
    metric: str
    reconstructions: Blocks
    samples: Blocks

    @classmethod
    def of_tables(
        cls,
        cycle: Cycle,
        inputs: pa.Table,
        candidates: pa.Table,
        scores: pa.Table,
        pairs: pa.Table,
        metric: str,
        reconstructions: pa.Table | None = None,
        samples: pa.Table | None = None,
    ) -> Views:
        """Views that are in memory; without reconstructions and samples there are none."""
        back = RECONSTRUCTION.empty_table() if reconstructions is None else reconstructions
        values = SAMPLE.empty_table() if samples is None else samples
        blocks = [Blocks.of(rows) for rows in (candidates, scores, pairs)]
        return cls(cycle, inputs, *blocks, metric, Blocks.of(back), Blocks.of(values))

    def edition(self, *settings: str) -> str:
        """Id of a dataset's content. It is in the names of its files, since the datasets library takes two local
        folders of one name whose cards are equal for one dataset, and serves the first one's rows for both (5.2)."""
        inputs = Blocks.of(self.inputs)
        columns = [(inputs, "input_id"), (inputs, "source"), (self.pairs, "pair_id")]
        columns += [(self.reconstructions, "generation_id")]
        columns += [(self.scores, name) for name in ("generation_id", "metric", "value")]
        hashed = hashlib.blake2b("\0".join(settings).encode(), digest_size=16)
        for rows, name in columns:
            for some in rows.column(name, PAIRS_PER_BATCH):
                hashed.update(_listed(some))
            hashed.update(b"|")
        return hashed.hexdigest()[:12]


def _listed(values: pa.Array) -> bytes:
    """Values as Python writes a list of them; ids, which need no escapes, without a Python object for each."""
    letters = letters_of(values)
    if letters is None or letters.tobytes().translate(None, HEX):
        return repr(values.to_pylist()).encode()
    between = np.broadcast_to(np.frombuffer(b"', '", dtype=np.uint8), (len(letters), 4))
    return b"['" + np.concatenate([letters, between], axis=1).tobytes()[:-4] + b"']"


@dataclass(frozen=True)
class WritePlan:
    """How the views become files: shares of the splits, the groups of near-duplicates (input_id -> group; an input
    that is not there is its own), the names of the forward models, and whether reconstructions are published."""

    splits: Splits
    models: list[str]
    groups: dict[str, str] = field(default_factory=dict)
    reconstructions: bool = False

    @property
    def configs(self) -> tuple[str, ...]:
        """The configs that are written."""
        return dataset_format.CONFIGS if self.reconstructions else dataset_format.CONFIGS[:2]

    def key(self) -> str:
        """All of it as a text, for the edition."""
        joined = sorted((id_, group) for id_, group in self.groups.items() if id_ != group)
        return f"{dataset_format.VERSION}{self.splits.model_dump_json()}{self.models}{joined}{self.configs}"
