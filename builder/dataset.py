"""Pairs -> a Hugging Face dataset on disk, which plain `datasets.load_dataset(path)` opens.

Two configs: `rankings`, one row per input with its candidates, where each image is stored once; and `pairs`, which
names inputs and candidates by id. An input's split is a function of its id alone.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import yaml

from builder.pair import distinct_outputs
from builder.score import of_metric
from builder.stage import locate
from builder.store import Store, flat
from schemas.cycle import Cycle
from schemas.ids import digest
from schemas.recipe import Splits

SPLITS = ("train", "validation", "test")
INPUTS_PER_BATCH = 64
# What is published of each metric's score of a candidate.
SCORE_FIELDS = ("metric", "value", "spread", "n")
SHARD_BYTES = 256 * 2**20


def split_of(input_id: str, splits: Splits) -> str:
    """The split of an input: its id's hash against the shares, so that it never moves when others are added."""
    place = int(digest("split", input_id)[:13], 16) / 16**13
    if place < splits.test:
        return "test"
    return "validation" if place < splits.test + splits.validation else "train"


@dataclass(frozen=True)
class Views:
    """What a dataset is made from: inputs (input_id, source), made candidates, their scores, and the pairs that
    `metric`, one of those in the scores, decided."""

    cycle: Cycle
    inputs: pa.Table
    candidates: pa.Table
    scores: pa.Table
    pairs: pa.Table
    metric: str

    def edition(self, *settings: str) -> str:
        """Id of a dataset's content. It is in the names of its files, since the datasets library takes two local
        folders of one name whose cards are equal for one dataset, and serves the first one's rows for both (5.2)."""
        names = [self.inputs["input_id"], self.inputs["source"], self.pairs["pair_id"]]
        names += [self.scores["generation_id"], self.scores["metric"]]
        values = [repr(value) for value in self.scores["value"].to_pylist()]
        return digest(*settings, *values, *(name for column in names for name in column.to_pylist()))[:12]


def write_dataset(store: Store, views: Views, splits: Splits, card: str, before: dict[str, Any] | None) -> dict:
    """Write RUN/dataset; returns {"edition": id, "splits": {split: {"inputs": n, "pairs": n}}}.

    Only inputs with a scored candidate are in it; `card` is the text of README.md below its metadata. It is left alone
    if `before`, what an earlier build returned, is of the same edition.

    The names of its files carry the edition and the card names the files: so the old edition is whole until the new
    card is in its place, on a disk as on an object store, where no folder can be renamed.
    """
    edition = views.edition(splits.model_dump_json(), card)
    if before and before["edition"] == edition and _is_there(store, edition):
        return before
    written: set[str] = set()
    counts = _write_splits(store, views, splits, edition, written)
    readme = (_metadata(counts, edition) + card).encode()
    store.write_file("dataset/README.md", lambda sink: sink.write(readme))
    for config in ("rankings", "pairs"):
        for name in store.names(f"dataset/{config}"):
            if f"dataset/{config}/{name}" not in written:
                store.remove(f"dataset/{config}/{name}")
    return {"edition": edition, "splits": counts}


def _is_there(store: Store, edition: str) -> bool:
    """Whether the card names this edition's files, so that it was finished, and they have not been deleted since."""
    card = store.read_file("dataset/README.md", lambda file: file.read()) if store.exists("dataset/README.md") else b""
    named = f"-{edition}-*.parquet".encode() in card
    return named and any(f"-{edition}-" in name for name in store.names("dataset/rankings"))


def _write_splits(
    store: Store, views: Views, splits: Splits, edition: str, written: set[str]
) -> dict[str, dict[str, int]]:
    ranked = _ranked(store, views)
    rankings_schema, pairs_schema = _schemas(views.cycle)
    by_split: dict[str, list[str]] = {split: [] for split in SPLITS}
    for input_id in ranked["input_id"].unique().to_pylist():
        by_split[split_of(input_id, splits)].append(input_id)
    counts = {}
    for split, members in by_split.items():
        if not members:  # the datasets library cannot open a split without rows
            continue
        chosen = pa.array(members, pa.string())
        mine = ranked.filter(pc.is_in(ranked["input_id"], value_set=chosen))
        batches = _ranking_batches(store, views.cycle, mine, members)
        written |= _write_shards(store, f"dataset/rankings/{split}-{edition}", rankings_schema, batches)
        pairs = views.pairs.filter(pc.is_in(views.pairs["input_id"], value_set=chosen))
        if pairs.num_rows:
            written |= _write_shards(store, f"dataset/pairs/{split}-{edition}", pairs_schema, iter([pairs]))
        counts[split] = {"inputs": len(members), "pairs": pairs.num_rows}
    return counts


def _ranked(store: Store, views: Views) -> pa.Table:
    """Every distinct scored candidate with all that is published of it, and where its content is."""
    deciding = of_metric(views.scores, views.metric).select(["generation_id", "value", "spread", "n"])
    scored = views.candidates.join(deciding, keys="generation_id", join_type="inner")
    distinct = distinct_outputs(scored, views.cycle.candidate).select(["generation_id", "models"])
    # A join cannot carry lists, so models and scores are looked up afterwards.
    models = dict(zip(distinct["generation_id"].to_pylist(), distinct["models"].to_pylist(), strict=True))
    rows = scored.filter(pc.is_in(scored["generation_id"], value_set=flat(distinct["generation_id"])))
    rows = rows.join(views.inputs, keys="input_id", join_type="inner")
    made = store.rows("generations", ["generation_id", "code_version"])
    rows = rows.join(made.select(["generation_id", "code_version"]), keys="generation_id", join_type="inner")
    rows = locate(rows, "candidate", "generation_id", made, "generation_id")
    rows = locate(rows, "input", "input_id", store.rows("inputs", ["input_id"]), "input_id")
    rows = rows.sort_by([("input_id", "ascending"), ("value", "descending"), ("generation_id", "ascending")])
    ids, scores = rows["generation_id"].to_pylist(), _scores(views.scores)
    rows = rows.append_column("models", pa.array([models[id_] for id_ in ids], pa.list_(pa.string())))
    return rows.append_column("scores", pa.array([scores[id_] for id_ in ids]))


def _scores(scores: pa.Table) -> dict[str, list[dict[str, Any]]]:
    """Every metric's score of each candidate, by its generation_id."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in scores.to_pylist():
        found.setdefault(row["generation_id"], []).append({name: row[name] for name in SCORE_FIELDS})
    return found


def _ranking_batches(store: Store, cycle: Cycle, rows: pa.Table, members: list[str]) -> Iterator[list[dict[str, Any]]]:
    """Rows of the rankings config, some inputs at a time, so that memory stays flat."""
    for start in range(0, len(members), INPUTS_PER_BATCH):
        some = pa.array(members[start : start + INPUTS_PER_BATCH], pa.string())
        batch = rows.filter(pc.is_in(rows["input_id"], value_set=some))
        images = None
        if cycle.candidate == "image":
            images = _images(store, "generations", batch, "candidate")
        by_input: dict[str, list[dict[str, Any]]] = {}
        for at, row in enumerate(batch.to_pylist()):
            row["image"] = images[at] if images else None
            by_input.setdefault(row["input_id"], []).append(row)
        firsts = pa.Table.from_pylist([group[0] for group in by_input.values()], schema=None)
        content = store.fetch("inputs", *(firsts[f"input_{n}"].to_pylist() for n in ("part", "row")), ["text", "image"])
        yield [
            _ranking(cycle, group, source) for group, source in zip(by_input.values(), content.to_pylist(), strict=True)
        ]


def _ranking(cycle: Cycle, group: list[dict[str, Any]], content: dict[str, Any]) -> dict[str, Any]:
    """One row of the rankings config: an input and its candidates."""
    input_ = {"image": _image(content["image"])} if cycle.input == "image" else {"prompt": content["text"]}
    candidates = [
        {
            "generation_id": row["generation_id"],
            **({"text": row["text"]} if cycle.candidate == "text" else {"image": _image(row["image"])}),
            "models": row["models"],
            "sample_index": row["sample_index"],
            "seed": row["seed"],
            "fingerprint": row["fingerprint"],
            "score": row["value"],
            "spread": row["spread"],
            "n": row["n"],
            "scores": row["scores"],
            "truncated": row["truncated"],
            "code_version": row["code_version"],
        }
        for row in group
    ]
    return {"input_id": group[0]["input_id"], "source": group[0]["source"], **input_, "candidates": candidates}


def _schemas(cycle: Cycle) -> tuple[pa.Schema, pa.Schema]:
    """Arrow schemas of the two configs, with the features that `datasets` reads from a parquet file's metadata."""
    from datasets import Features, Image, List, Value

    text = Value("string")
    candidate = {
        "generation_id": text,
        **({"text": text} if cycle.candidate == "text" else {"image": Image()}),
        "models": List(text),
        "sample_index": Value("int64"),
        "seed": Value("int64"),
        "fingerprint": text,
        "score": Value("float64"),
        "spread": Value("float64"),
        "n": Value("int64"),
        "scores": List(
            dict(zip(SCORE_FIELDS, (text, Value("float64"), Value("float64"), Value("int64")), strict=True))
        ),
        "truncated": Value("bool"),
        "code_version": text,
    }
    input_ = {"image": Image()} if cycle.input == "image" else {"prompt": text}
    rankings = Features({"input_id": text, "source": text, **input_, "candidates": List(candidate)})
    names = ("pair_id", "input_id", "chosen_id", "rejected_id", "chosen_model", "rejected_model")
    pairs = Features(
        {
            **dict.fromkeys(names, text),
            "chosen_models": List(text),
            "rejected_models": List(text),
            "metric": text,
            **dict.fromkeys(("chosen_score", "rejected_score", "margin"), Value("float64")),
        }
    )
    return rankings.arrow_schema, pairs.arrow_schema


def _write_shards(store: Store, name: str, schema: pa.Schema, batches: Iterator[Any]) -> set[str]:
    """Parquet files `name-00000.parquet`, ..., each closed once it holds SHARD_BYTES; returns their names."""
    names: set[str] = set()
    waiting = next(batches, None)
    while waiting is not None:
        names.add(shard := f"{name}-{len(names):05d}.parquet")
        store.write_file(shard, partial(_write_shard, schema=schema, first=waiting, batches=batches))
        waiting = next(batches, None)
    return names


def _write_shard(sink: Any, schema: pa.Schema, first: Any, batches: Iterator[Any]) -> None:
    size = 0
    # A page index and small row groups let the Hub's viewer and streaming readers fetch a few rows.
    with pq.ParquetWriter(sink, schema, write_page_index=True) as writer:
        for batch in chain([first], batches):
            table = batch.cast(schema) if isinstance(batch, pa.Table) else pa.Table.from_pylist(batch, schema=schema)
            writer.write_table(table)
            size += table.nbytes
            if size >= SHARD_BYTES:
                return


def _metadata(counts: dict[str, dict[str, int]], edition: str) -> str:
    """The card's YAML head: which files are which config and split."""
    files = {
        "rankings": [{"split": split, "path": f"rankings/{split}-{edition}-*.parquet"} for split in counts],
        "pairs": [
            {"split": split, "path": f"pairs/{split}-{edition}-*.parquet"} for split in counts if counts[split]["pairs"]
        ],
    }
    configs = [{"config_name": name, "data_files": found} for name, found in files.items() if found]
    if configs:
        configs[0]["default"] = True
    head = {"configs": configs, "tags": ["preference", "cycle-consistency", "image-text"]}
    return f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n"


def _images(store: Store, table: str, rows: pa.Table, role: str) -> list[bytes]:
    places = rows[f"{role}_part"].to_pylist(), rows[f"{role}_row"].to_pylist()
    return store.fetch(table, *places, columns=["image"])["image"].to_pylist()


def _image(data: bytes) -> dict[str, bytes | None]:
    """An image as the datasets library stores it."""
    return {"bytes": data, "path": None}
