"""Pairs -> a Hugging Face dataset on disk, which plain `datasets.load_dataset(path)` opens.

Two configs: `rankings`, one row per input with its candidates, where each image is stored once; and `pairs`, which
names inputs and candidates by id; a third, `reconstructions`, where the recipe asks for it. An input's split is a
function of its group alone, which is its own id unless it is a near-duplicate (builder/groups.py).

What is held in memory is the views, which are ids and numbers (1 to 2 kB a candidate); content is read and written some
inputs at a time (tests/benchmarks/bench_dataset.py).
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from builder import layout, progress
from builder.layout import SCORE_FIELDS, SPLITS
from builder.pair import distinct_outputs
from builder.score import of_metric
from builder.shards import in_batches, write_shards
from builder.stage import locate
from builder.store import Store, flat
from schemas.cycle import Cycle
from schemas.ids import digest
from schemas.recipe import Splits

PAIRS_PER_BATCH = 100_000
Rows = list[dict[str, Any]]

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
    similarity by every metric (builder/score.py).
    """

    cycle: Cycle
    inputs: pa.Table
    candidates: pa.Table
    scores: pa.Table
    pairs: pa.Table
    metric: str
    reconstructions: pa.Table
    samples: pa.Table

    def edition(self, *settings: str) -> str:
        """Id of a dataset's content. It is in the names of its files, since the datasets library takes two local
        folders of one name whose cards are equal for one dataset, and serves the first one's rows for both (5.2)."""
        columns = [self.inputs[name] for name in ("input_id", "source")]
        columns += [self.pairs["pair_id"], self.reconstructions["generation_id"]]
        columns += [self.scores[name] for name in ("generation_id", "metric", "value")]
        hashed = hashlib.blake2b("\0".join(settings).encode(), digest_size=16)
        for column in columns:
            for start in range(0, len(column), PAIRS_PER_BATCH):
                hashed.update(repr(column.slice(start, PAIRS_PER_BATCH).to_pylist()).encode())
            hashed.update(b"|")
        return hashed.hexdigest()[:12]


@dataclass(frozen=True)
class Layout:
    """How the views become files: shares of the splits, the groups of near-duplicates (input_id -> group; an input
    that is not there is its own), the names of the forward models, and whether reconstructions are published."""

    splits: Splits
    models: list[str]
    groups: dict[str, str] = field(default_factory=dict)
    reconstructions: bool = False

    @property
    def configs(self) -> tuple[str, ...]:
        """The configs that are written."""
        return layout.CONFIGS if self.reconstructions else layout.CONFIGS[:2]

    def key(self) -> str:
        """All of it as a text, for the edition."""
        joined = sorted((id_, group) for id_, group in self.groups.items() if id_ != group)
        return f"{self.splits.model_dump_json()}{self.models}{joined}{self.configs}"


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


def write_splits(store: Store, views: Views, plan: Layout, edition: str) -> tuple[dict[str, dict[str, int]], set[str]]:
    """Write the data files of RUN/dataset; returns {split: {"inputs": n, "pairs": n, ...}} and the files' names.

    Only inputs with a scored candidate are in it. A split without inputs has no files, since the datasets library
    cannot open one without rows.
    """
    tables = _Tables.of(store, views)
    schemas = layout.schemas(views.cycle, plan.models)
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for input_id in tables.ranked.ids.astype(str).tolist():
        by_split[split_of(plan.groups.get(input_id, input_id), plan.splits)].append(input_id)
    counts: dict[str, dict[str, int]] = {}
    written: set[str] = set()
    with progress.stage("dataset", len(tables.ranked.ids)) as tick:
        for split, members in by_split.items():
            if not members:
                continue
            batches: dict[str, Iterator[pa.Table]] = {
                "rankings": _ticking(_ranking_batches(store, views.cycle, tables, plan, members), tick),
                "pairs": _pair_batches(tables, members),
            }
            if plan.reconstructions:
                batches["reconstructions"] = _reconstruction_batches(store, views.cycle, tables, members)
            rows = {}
            for config, made in batches.items():
                names, rows[config] = write_shards(store, f"dataset/{config}/{split}-{edition}", schemas[config], made)
                written |= names
            counts[split] = {layout.ROWS[config]: count for config, count in rows.items()}
    return counts, written


def _ticking(batches: Iterator[pa.Table], tick: progress.Tick) -> Iterator[pa.Table]:
    for batch in batches:
        yield batch
        tick(batch.num_rows)


@dataclass(frozen=True)
class _Tables:
    """The views in the order in which they are written, with where the content is."""

    ranked: ByInput
    scores: ByInput
    pairs: ByInput
    reconstructions: ByInput
    samples: ByInput

    @classmethod
    def of(cls, store: Store, views: Views) -> "_Tables":
        def sorted_by(rows: pa.Table, *names: str) -> ByInput:
            return ByInput(rows.sort_by([(name, "ascending") for name in ("input_id", *names)]))

        return cls(
            ByInput(_ranked(store, views)),
            sorted_by(views.scores, "generation_id", "metric"),
            sorted_by(views.pairs, "pair_id"),
            sorted_by(views.reconstructions, "source_id", "sample_index"),
            sorted_by(views.samples, "generation_id", "metric", "sample_index"),
        )


def _ranked(store: Store, views: Views) -> pa.Table:
    """Every distinct scored candidate with what the views know of it, and where its content is."""
    deciding = of_metric(views.scores, views.metric).select(["generation_id", "value", "spread", "n"])
    scored = views.candidates.join(deciding, keys="generation_id", join_type="inner")
    distinct = distinct_outputs(scored, views.cycle.candidate).select(["generation_id", "models"])
    rows = scored.filter(pc.is_in(scored["generation_id"], value_set=flat(distinct["generation_id"])))
    rows = rows.join(views.inputs, keys="input_id", join_type="inner")
    made = store.rows("generations", ["generation_id", "code_version"])
    rows = rows.join(made.select(["generation_id", "code_version"]), keys="generation_id", join_type="inner")
    rows = locate(rows, "candidate", "generation_id", made, "generation_id")
    rows = locate(rows, "input", "input_id", store.rows("inputs", ["input_id"]), "input_id")
    rows = rows.sort_by([("input_id", "ascending"), ("value", "descending"), ("generation_id", "ascending")])
    # A join cannot carry lists.
    places = pc.index_in(rows["generation_id"], value_set=flat(distinct["generation_id"]))
    return rows.append_column("models", flat(distinct["models"]).take(flat(places)))


def _ranking_batches(
    store: Store, cycle: Cycle, tables: _Tables, plan: Layout, members: list[str]
) -> Iterator[pa.Table]:
    """Rows of the rankings config, some inputs at a time."""
    schema = layout.schemas(cycle, plan.models)["rankings"]

    def read(ids: list[str]) -> pa.Table:
        rows = tables.ranked.of(ids)
        groups = _grouped(rows.to_pylist(), "input_id")
        if cycle.candidate == "image":
            for row, image in zip(
                chain(*groups.values()), _content(store, "generations", rows, "candidate"), strict=True
            ):
                row["image"] = image["image"]
        firsts = pa.table({n: [g[0][n] for g in groups.values()] for n in ("input_part", "input_row")})
        inputs = _content(store, "inputs", firsts, "input")
        scores = _grouped(tables.scores.of(ids).to_pylist(), "generation_id")
        back = _grouped(tables.reconstructions.of(ids).to_pylist(), "input_id", "source_id")
        made = [
            _ranking(cycle, plan, group, content, scores, back)
            for group, content in zip(groups.values(), inputs, strict=True)
        ]
        return pa.Table.from_pylist(made, schema=schema)

    return in_batches(members, read)


def _ranking(
    cycle: Cycle, plan: Layout, group: Rows, content: dict[str, Any], scores: dict[Any, Rows], back: dict[Any, Rows]
) -> dict[str, Any]:
    """One row of the rankings config: an input and its candidates."""
    input_id = group[0]["input_id"]
    input_ = {"image": _image(content["image"])} if cycle.input == "image" else {"prompt": content["text"]}
    candidates = [
        {
            "generation_id": row["generation_id"],
            **({"text": row["text"]} if cycle.candidate == "text" else {"image": _image(row["image"])}),
            "model": plan.models.index(row["model"]),
            "models": row["models"],
            "sample_index": row["sample_index"],
            "seed": row["seed"],
            "fingerprint": row["fingerprint"],
            "score": row["value"],
            "spread": row["spread"],
            "n": row["n"],
            "scores": [{name: score[name] for name in SCORE_FIELDS} for score in scores[row["generation_id"],]],
            "reconstruction_ids": [made["generation_id"] for made in back.get((input_id, row["content_id"]), ())],
            "truncated": row["truncated"],
            "code_version": row["code_version"],
        }
        for row in group
    ]
    group_id = plan.groups.get(input_id, input_id)
    return {"input_id": input_id, "source": group[0]["source"], "group": group_id, **input_, "candidates": candidates}


def _pair_batches(tables: _Tables, members: list[str]) -> Iterator[pa.Table]:
    """Rows of the pairs config, those of some inputs at a time."""
    for start in range(0, len(members), PAIRS_PER_BATCH // 32):
        rows = tables.pairs.of(members[start : start + PAIRS_PER_BATCH // 32])
        if rows.num_rows:
            yield rows


def _reconstruction_batches(store: Store, cycle: Cycle, tables: _Tables, members: list[str]) -> Iterator[pa.Table]:
    """Rows of the reconstructions config: those of the published candidates, in the order of the inputs."""
    schema = layout.schemas(cycle, [])["reconstructions"]
    made = store.rows("generations", ["generation_id", "truncated", "code_version"])

    def read(ids: list[str]) -> pa.Table:
        candidates = tables.ranked.of(ids).select(["generation_id", "input_id", "content_id"])
        candidates = candidates.rename_columns(["candidate_id", "input_id", "source_id"])
        rows = tables.reconstructions.of(ids).drop_columns(["content_id"])
        rows = rows.join(candidates, keys=["input_id", "source_id"], join_type="inner")
        known = made.filter(pc.is_in(made["generation_id"], value_set=flat(rows["generation_id"])))
        rows = rows.join(known, keys="generation_id", join_type="inner")
        rows = rows.sort_by([(name, "ascending") for name in ("input_id", "candidate_id", "sample_index")])
        values = _grouped(tables.samples.of(ids).to_pylist(), "generation_id", "sample_index")
        contents = _content(store, "generations", rows.rename_columns({"part": "it_part", "row": "it_row"}), "it")
        records = zip(rows.to_pylist(), contents, strict=True)
        return pa.Table.from_pylist([_reconstruction(cycle, *record, values) for record in records], schema=schema)

    return in_batches(members, read)


def _reconstruction(
    cycle: Cycle, row: dict[str, Any], content: dict[str, Any], values: dict[Any, Rows]
) -> dict[str, Any]:
    """One row of the reconstructions config."""
    kept = ("input_id", "candidate_id", "model", "sample_index", "seed", "fingerprint", "truncated", "code_version")
    scores = values.get((row["candidate_id"], row["sample_index"]), ())
    return {
        "reconstruction_id": row["generation_id"],
        **({"text": content["text"]} if cycle.input == "text" else {"image": _image(content["image"])}),
        **{name: row[name] for name in kept},
        "scores": [{"metric": score["metric"], "value": score["value"]} for score in scores],
    }


def _grouped(rows: Rows, *by: str) -> dict[Any, Rows]:
    """Rows by the values of some columns (as a tuple), in order of their first appearance."""
    found: dict[Any, Rows] = {}
    for row in rows:
        found.setdefault(tuple(row[name] for name in by), []).append(row)
    return found


def _content(store: Store, table: str, rows: pa.Table, role: str) -> Rows:
    """Text and image bytes of rows, in order, from where `{role}_part` and `{role}_row` say."""
    if not rows.num_rows:
        return []
    places = rows[f"{role}_part"].to_pylist(), rows[f"{role}_row"].to_pylist()
    return store.fetch(table, *places, columns=["text", "image"]).to_pylist()


def _image(data: bytes) -> dict[str, bytes | None]:
    """An image as the datasets library stores it."""
    return {"bytes": data, "path": None}
