"""Pairs -> a Hugging Face dataset on disk, which plain `datasets.load_dataset(path)` opens.

Two configs: `rankings`, one row per input with its candidates, where each image is stored once; and `pairs`, which has
their texts and says where in the rankings their images are; a third, `reconstructions`, where the recipe asks for it.
An input's split is a function of its group alone: its own id unless it is a near-duplicate
(builder/dataset/grouping.py).

What is held in memory for all inputs is where each content is in the store. The views are read and joined for a block
of inputs at a time, and content is read and written for some inputs of it at a time
(tests/benchmarks/bench_dataset.py).
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.common import progress
from cyclepref.builder.dataset import format as dataset_format
from cyclepref.builder.dataset.format import SCORE_FIELDS, SPLITS
from cyclepref.builder.dataset.shards import in_batches, write_shards
from cyclepref.builder.dataset.views import PAIRS_PER_BATCH, Block, Views, WritePlan, among, split_of
from cyclepref.builder.pairing.scores import of_metric
from cyclepref.builder.run.store import Store, flat
from cyclepref.schemas.cycle import Cycle

# Inputs whose views are joined together: each block is looked up in all of the views, so few blocks, and small ones.
INPUTS_PER_BLOCK = 20_000
Rows = list[dict[str, Any]]


def write_splits(
    store: Store, views: Views, plan: WritePlan, edition: str
) -> tuple[dict[str, dict[str, int]], set[str]]:
    """Write the data files of RUN/dataset; returns {split: {"inputs": n, "pairs": n, ...}} and the files' names.

    Only inputs with a scored candidate are in it. A split without inputs has no files, since the datasets library
    cannot open one without rows.
    """
    generations = store.rows("generations", ["generation_id", "truncated", "code_version"])
    inputs = store.rows("inputs", ["input_id"])
    schemas = dataset_format.schemas(views.cycle, plan.models)
    makers = {"rankings": _ranking_batches, "pairs": _pair_batches, "reconstructions": _reconstruction_batches}
    ranked = _ranked_inputs(views)
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for input_id in ranked:
        by_split[split_of(plan.groups.get(input_id, input_id), plan.splits)].append(input_id)
    counts: dict[str, dict[str, int]] = {}
    written: set[str] = set()
    with progress.stage("dataset", len(ranked)) as tick:
        for split, members in by_split.items():
            if not members:
                continue
            rows = {}
            for config in plan.configs:
                blocks = (
                    Block(members[start : start + INPUTS_PER_BLOCK], start, store, views, generations, inputs)
                    for start in range(0, len(members), INPUTS_PER_BLOCK)
                )
                made = chain.from_iterable(makers[config](block, plan) for block in blocks)
                made = _ticking(made, tick) if config == "rankings" else made
                names, rows[config] = write_shards(store, f"dataset/{config}/{split}-{edition}", schemas[config], made)
                written |= names
            counts[split] = {dataset_format.ROWS[config]: count for config, count in rows.items()}
    return counts, written


def _ranked_inputs(views: Views) -> list[str]:
    """The ids of inputs with a scored candidate, in order."""
    found: set[str] = set()
    for candidates in views.candidates:
        if candidates.num_rows:
            ids = candidates["input_id"]
            deciding = of_metric(views.scores.between(ids[0].as_py(), ids[-1].as_py()), views.metric)
            found |= set(
                pc.unique(among(candidates, "generation_id", deciding["generation_id"])["input_id"]).to_pylist()
            )
    return sorted(found & set(views.inputs["input_id"].to_pylist()))


def _ticking(batches: Iterator[pa.Table], tick: progress.Tick) -> Iterator[pa.Table]:
    for batch in batches:
        yield batch
        tick(batch.num_rows)


def _ranking_batches(block: Block, plan: WritePlan) -> Iterator[pa.Table]:
    """Rows of the rankings config, some inputs at a time."""
    store, cycle = block.store, block.views.cycle
    schema = dataset_format.schemas(cycle, plan.models)["rankings"]

    def read(ids: list[str]) -> pa.Table:
        rows = block.ranked.of(ids)
        groups = _grouped(rows.to_pylist(), "input_id")
        if cycle.candidate == "image":
            for row, image in zip(
                chain(*groups.values()), _content(store, "generations", rows, "candidate"), strict=True
            ):
                row["image"] = image["image"]
        firsts = pa.table({n: [g[0][n] for g in groups.values()] for n in ("input_part", "input_row")})
        inputs = _content(store, "inputs", firsts, "input")
        scores = _grouped(block.scores.of(ids).to_pylist(), "generation_id")
        back = _grouped(block.reconstructions.of(ids).to_pylist(), "input_id", "source_id")
        made = [
            _ranking(cycle, plan, group, content, scores, back)
            for group, content in zip(groups.values(), inputs, strict=True)
        ]
        return pa.Table.from_pylist(made, schema=schema)

    return in_batches(block.ids, read)


def _ranking(
    cycle: Cycle, plan: WritePlan, group: Rows, content: dict[str, Any], scores: dict[Any, Rows], back: dict[Any, Rows]
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


def _pair_batches(block: Block, plan: WritePlan) -> Iterator[pa.Table]:
    """Rows of the pairs config, those of some inputs at a time."""
    names = dataset_format.schemas(block.views.cycle, plan.models)["pairs"].names
    for start in range(0, len(block.ids), PAIRS_PER_BATCH // 32):
        ids = block.ids[start : start + PAIRS_PER_BATCH // 32]
        pairs = block.pairs.of(ids)
        if pairs.num_rows:
            yield _with_contents(block, ids, block.first + start, pairs).select(names)


def _with_contents(block: Block, ids: list[str], first: int, pairs: pa.Table) -> pa.Table:
    """Pairs of the inputs `ids` with their texts, and with places in the rankings, where the first input is `first`."""
    ranked, inputs = block.ranked.of(ids), pa.array(ids, pa.string())
    row = np.asarray(pc.index_in(pairs["input_id"], value_set=inputs))
    of = np.asarray(pc.index_in(ranked["input_id"], value_set=inputs))
    starts = np.searchsorted(of, np.arange(len(ids)))
    pairs = pairs.append_column("row", pa.array(first + row, pa.int64()))
    for side in ("chosen", "rejected"):
        place = np.asarray(pc.index_in(pairs[f"{side}_id"], value_set=flat(ranked["generation_id"])))
        pairs = pairs.append_column(f"{side}_index", pa.array(place - starts[row], pa.int64()))
        if block.views.cycle.candidate == "text":
            pairs = pairs.append_column(side, ranked["text"].take(pa.array(place)))
    if block.views.cycle.input == "text":
        texts = [content["text"] for content in _content(block.store, "inputs", ranked.take(pa.array(starts)), "input")]
        pairs = pairs.append_column("prompt", pa.array(texts, pa.string()).take(pa.array(row)))
    return pairs


def _reconstruction_batches(block: Block, plan: WritePlan) -> Iterator[pa.Table]:
    """Rows of the reconstructions config: those of the published candidates, in the order of the inputs."""
    store, cycle = block.store, block.views.cycle
    schema = dataset_format.schemas(cycle, [])["reconstructions"]
    made = block.made(block.reconstructions.rows["generation_id"])

    def read(ids: list[str]) -> pa.Table:
        candidates = block.ranked.of(ids).select(["generation_id", "input_id", "content_id"])
        candidates = candidates.rename_columns(["candidate_id", "input_id", "source_id"])
        rows = block.reconstructions.of(ids).drop_columns(["content_id"])
        rows = rows.join(candidates, keys=["input_id", "source_id"], join_type="inner")
        rows = rows.join(among(made, "generation_id", rows["generation_id"]), keys="generation_id", join_type="inner")
        rows = rows.sort_by([(name, "ascending") for name in ("input_id", "candidate_id", "sample_index")])
        values = _grouped(block.samples.of(ids).to_pylist(), "generation_id", "sample_index")
        contents = _content(store, "generations", rows.rename_columns({"part": "it_part", "row": "it_row"}), "it")
        records = zip(rows.to_pylist(), contents, strict=True)
        return pa.Table.from_pylist([_reconstruction(cycle, *record, values) for record in records], schema=schema)

    return in_batches(block.ids, read)


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
