"""What the driver derives without a model: what is wanted of each stage, and the views of what was made.

All of it is a function of one input's rows, so it is done a block of inputs at a time (builder/run/blocks.py): memory
does not grow with the run, but for 40 bytes a reconstruction.

    inputs -> wanted -> candidates -> wanted back -> reconstructions -> wanted similarities -> samples, scores, pairs
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.pairing.mix import add_mix, mix_of
from cyclepref.builder.pairing.pair import Direction, PairCount, pair
from cyclepref.builder.pairing.scores import SAMPLE, cycle_scores, of_metric, samples_of
from cyclepref.builder.run.blocks import Blocks, ByBlock, Scratch, block_of, side_by_side
from cyclepref.builder.run.ids import IdMap, firsts_of, pack
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages import compare
from cyclepref.builder.stages.wanted import (
    RECONSTRUCTION,
    WANTED,
    Truncated,
    Use,
    candidate_view,
    made_of,
    made_reconstructions,
    sources_of,
    wanted_generations,
)
from cyclepref.schemas import records
from cyclepref.schemas.id_columns import hex_of
from cyclepref.schemas.recipe import Recipe
from cyclepref.schemas.resolved import Resolved

# Candidates of a block: enough for numpy and Arrow to be fast, few enough for little memory.
CANDIDATES_PER_BLOCK = 32_768

SOURCES = pa.schema([("source_id", pa.string()), ("input_id", pa.string())])
CANDIDATE_COLUMNS = ["generation_id", "source_id", "seed", "draw", "content_id", "text", "truncated", "cut_by"]
BACK_COLUMNS = ["generation_id", "content_id", "truncated", "cut_by"]


@dataclass(frozen=True)
class Models:
    """The models of a build: those that make candidates, the one that turns them back, and what compares."""

    forward: list[Use]
    backward: Use
    metrics: list[Resolved]

    @property
    def reconstructs(self) -> bool:
        """Whether a metric compares reconstructions, so that they have to be made."""
        return any(metric.spec.compares == "reconstruction" for metric in self.metrics)


class Derivation:
    """Derives one build's tables, in the order of the methods; between them stages make what is wanted."""

    def __init__(
        self, store: Store, scratch: Scratch, recipe: Recipe, models: Models, inputs: pa.Table, blocks: int = 0
    ):
        """`inputs` has input_id. `blocks` is how many to work in; 0: as many as the run needs."""
        self._store, self._scratch, self._recipe, self._models = store, scratch, recipe, models
        self._inputs = inputs["input_id"].combine_chunks().sort()
        candidates = len(self._inputs) * sum(use.samples for use in models.forward)
        self._blocks = blocks or max(1, -(-candidates // CANDIDATES_PER_BLOCK))
        self.truncated = {"candidates": Truncated(models.forward), "reconstructions": Truncated([models.backward])}
        self.candidates = self.made = self.reconstructions = self.samples = Blocks(pa.schema([]), [])

    # ---- candidates --------------------------------------------------------------------------------------------

    def wanted_candidates(self) -> pa.Table:
        """The candidates that the recipe asks for."""
        seed, forward = self._recipe.seed, self._models.forward
        starts = np.searchsorted(block_of(self._inputs, self._blocks), np.arange(self._blocks + 1))
        ids = (self._inputs[start:end] for start, end in pairwise(starts))
        sources = (pa.table({"source_id": some, "input_id": some}, schema=SOURCES) for some in ids)
        wanted = side_by_side(lambda some: wanted_generations(some, forward, seed, "forward"), sources)
        self._wanted = self._scratch.table(WANTED, wanted)
        return self._wanted.table()

    def find_candidates(self) -> None:
        """Look up what became of the wanted candidates: `candidates` are the view, `made` those that were made."""
        prints = [use.model.fingerprint for use in self._models.forward]
        schema = pa.schema([records.GENERATION.field(name) for name in CANDIDATE_COLUMNS])
        made = self._scratch.by_block(schema, self._generations(CANDIDATE_COLUMNS, prints), "source_id", self._blocks)
        found = side_by_side(lambda block: self._found(*block, made), enumerate(self._wanted))
        self.candidates = self._scratch.table(records.CANDIDATE, map(self._candidates, found))
        self.made = self.candidates.where(lambda rows: rows.filter(pc.equal(rows["status"], "ok")))

    def _found(self, block: int, wanted: pa.Table, made: ByBlock) -> pa.Table:
        return made_of(wanted, made.of(block).drop_columns(["source_id"]))

    def _candidates(self, rows: pa.Table) -> pa.Table:
        self.truncated["candidates"].add(rows)
        return candidate_view(rows)

    # ---- reconstructions ---------------------------------------------------------------------------------------

    def wanted_reconstructions(self) -> pa.Table:
        """The reconstructions of the candidates that were made, each once; none if no metric compares them."""
        seed, backward = self._recipe.seed, self._models.backward
        uses = [backward] if self._models.reconstructs else []
        self._sources = self._scratch.table(SOURCES, side_by_side(sources_of, self.made))
        wanted = side_by_side(lambda some: wanted_generations(some, uses, seed, "backward"), self._sources)
        self._wanted_back = self._scratch.table(WANTED, wanted)
        rows = self._wanted_back.table()
        # Greedy reconstructions of one text that two inputs share are one row, wherever the inputs are.
        self._first = firsts_of(pack(rows["generation_id"])) if backward.model.spec.greedy else None
        return rows if self._first is None or self._first.all() else rows.filter(pa.array(self._first))

    def find_reconstructions(self) -> None:
        """Look up which of the wanted reconstructions were made: `reconstructions` are those."""
        codes: dict[tuple, int] = {}
        made = list(self._outputs(codes))
        index = IdMap((ids for ids, *_ in made), (contents for _, contents, _ in made), (cuts for *_, cuts in made))
        del made
        how = pa.Table.from_pylist(
            [{"truncated": truncated, "cut_by": list(cut)} for truncated, cut in codes],
            schema=pa.schema([records.GENERATION.field(name) for name in ("truncated", "cut_by")]),
        )
        found = self._reconstructions(index, how)
        schema = pa.schema([WANTED.field(n) if n in WANTED.names else (n, pa.string()) for n in RECONSTRUCTION])
        self.reconstructions = self._scratch.table(schema, found)

    def _outputs(self, codes: dict[tuple, int]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The packed ids and contents of the backward model's generations, and by what each was cut, as a number."""
        for rows in self._generations(BACK_COLUMNS, [self._models.backward.model.fingerprint]):
            cuts = np.zeros(rows.num_rows, dtype=np.uint16)
            codes.setdefault((False, ()), 0)
            told = np.flatnonzero(np.asarray(_is_cut(rows)))
            some = rows.select(["truncated", "cut_by"]).take(pa.array(told)).to_pylist()
            cuts[told] = [codes.setdefault((row["truncated"], tuple(row["cut_by"] or ())), len(codes)) for row in some]
            yield pack(rows["generation_id"]), pack(rows["content_id"]), cuts

    def _reconstructions(self, index: IdMap, how: pa.Table) -> Iterator[pa.Table]:
        greedy, start = self._models.backward.model.spec.greedy, 0
        for wanted, sources in zip(self._wanted_back, self._sources, strict=True):
            there, [contents, cuts] = index.find(wanted["generation_id"])
            at = pa.array(np.cumsum(there) - 1, pa.int64(), mask=~there)
            rows = wanted.append_column("content_id", _hex_of(contents).take(at))
            first = None if self._first is None else self._first[start : start + wanted.num_rows]
            once = rows.append_column("cut", pa.array(cuts, pa.int64()).take(at))
            once = once if first is None else once.filter(pa.array(first))
            told = how.take(once["cut"].combine_chunks())
            for name in how.column_names:
                once = once.append_column(name, told[name])
            self.truncated["reconstructions"].add(once)
            start += wanted.num_rows
            yield made_reconstructions(rows, sources, greedy)

    # ---- scores and pairs --------------------------------------------------------------------------------------

    def wanted_similarities(self) -> pa.Table:
        """The comparisons that are needed of the reconstructions that were made."""
        metrics, named = self._models.metrics, ["content_id", "input_id"]

        def of_block(made: tuple[pa.Table, pa.Table]) -> pa.Table:
            reconstructions, sources = made
            return compare.wanted_similarities(reconstructions, sources.rename_columns(named), metrics)

        wanted = side_by_side(of_block, zip(self.reconstructions, self._sources, strict=True))
        return self._scratch.table(compare.WANTED, wanted).table()

    def write_views(self, direction: Direction) -> PairCount:
        """Score and pair the candidates, and replace the three views together; returns what became of every two
        candidates. `samples` are the similarities behind the scores."""
        counts = np.zeros(len(fields(PairCount)), dtype=np.int64)
        self._similarities = self._similarity_values()
        # A block is written by a thread while the next one is derived.
        with self._store.new_views() as views, ThreadPoolExecutor(1) as thread:

            def write(tables: dict[str, pa.Table]) -> None:
                for view, rows in tables.items():
                    views[view].write(rows)

            def samples_of_blocks() -> Iterator[pa.Table]:
                writing = thread.submit(write, {})
                blocks = enumerate(zip(self.candidates, self.reconstructions, strict=True))
                for samples, tables, count in side_by_side(lambda block: self._scored(*block, direction), blocks):
                    writing.result()
                    writing = thread.submit(write, tables)
                    counts[:] += list(count.to_dict().values())
                    yield samples
                writing.result()

            self.samples = self._scratch.table(SAMPLE, samples_of_blocks())
        return PairCount(*counts.tolist())

    def _scored(
        self, block: int, made_of_block: tuple[pa.Table, pa.Table], direction: Direction
    ) -> tuple[pa.Table, dict[str, pa.Table], PairCount]:
        """A block's samples, its rows of the views, and what became of every two candidates. `made_of_block` are its
        candidates and reconstructions."""
        candidates, reconstructions = made_of_block
        recipe, metrics = self._recipe, self._models.metrics
        modality = recipe.shape.candidate
        made = candidates.filter(pc.equal(candidates["status"], "ok"))
        samples = samples_of(made, reconstructions, self._similarities.of(block), metrics)
        scores = cycle_scores(samples)
        mix = mix_of(recipe.pairs, metrics)
        if mix:
            samples, scores = add_mix(mix, samples, scores, made, modality)
        deciding = [of_metric(rows, direction.metric) for rows in (scores, samples)]
        pairs, count = pair(made, deciding[0], modality, direction, recipe.pairs, deciding[1])
        return samples, {"candidates": candidates, "scores": scores, "pairs": pairs}, count

    def _similarity_values(self) -> ByBlock:
        """The similarities by the recipe's metrics, by block."""
        names = ["input_id", "content_id", "fingerprint", "value"]
        prints = pa.array([metric.fingerprint for metric in self._models.metrics], pa.string())
        tables = self._store.scan("similarities", names)
        mine = (rows.filter(pc.is_in(rows["fingerprint"], value_set=prints)) for rows in tables)
        schema = pa.schema([records.SIMILARITY.field(name) for name in names])
        return self._scratch.by_block(schema, mine, "input_id", self._blocks)

    def _generations(self, columns: list[str], prints: list[str]) -> Iterator[pa.Table]:
        """Columns of the generations by some models, by their fingerprints."""
        values = pa.array(prints, pa.string())
        for rows in self._store.scan("generations", [*columns, "fingerprint"]):
            yield rows.filter(pc.is_in(rows["fingerprint"], value_set=values)).select(columns)


def _is_cut(rows: pa.Table) -> pa.ChunkedArray:
    by_something = pc.greater(pc.fill_null(pc.list_value_length(rows["cut_by"]), 0), 0)
    return pc.or_(pc.fill_null(rows["truncated"], False), by_something)


def _hex_of(packed: np.ndarray) -> pa.Array:
    """Packed ids, shape (n, 2), as strings."""
    return (
        hex_of(packed.astype(">u8").view(np.uint8).reshape(len(packed), 16))
        if len(packed)
        else pa.array([], pa.string())
    )
