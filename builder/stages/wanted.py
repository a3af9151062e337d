"""The generations that a recipe asks for, and what became of them."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.run.store import first_of_each, flat
from cyclepref.schemas import records
from cyclepref.schemas.id_columns import generation_ids, sample_seeds
from cyclepref.schemas.resolved import Resolved

WANTED = pa.schema(
    [
        ("generation_id", pa.string()),
        ("source_id", pa.string()),
        ("input_id", pa.string()),
        ("model", pa.string()),
        ("sample_index", pa.int64()),
        ("seed", pa.int64()),
        ("fingerprint", pa.string()),
    ]
)


@dataclass(frozen=True)
class Use:
    """A model in a role, and how many samples it draws from each source."""

    model: Resolved
    samples: int


def wanted_generations(sources: pa.Table, uses: list[Use], recipe_seed: int, role: str) -> pa.Table:
    """The generations that a recipe asks for, one row for each distinct id.

    `sources` has source_id and input_id: an input is its own source, a candidate belongs to its input. `role` is
    "forward" or "backward". See `cyclepref.schemas.ids.sample_seed` for which samples share a seed.
    """
    return pa.concat_tables([WANTED.empty_table(), *(_wanted_of(use, sources, recipe_seed, role) for use in uses)])


def _wanted_of(use: Use, sources: pa.Table, recipe_seed: int, role: str) -> pa.Table:
    """The generations asked of one model."""
    greedy, samples, print_ = use.model.spec.greedy, use.samples, use.model.fingerprint
    # Greedy reconstructions of one text that two inputs share are one row.
    distinct = first_of_each(sources, "source_id") if greedy else sources
    per_source = distinct.take(pa.array(np.repeat(np.arange(distinct.num_rows), samples)))
    indices = np.tile(np.arange(samples, dtype=np.int64), distinct.num_rows)
    count = per_source.num_rows
    seeds = None if greedy else _seeds(distinct["input_id"], samples, recipe_seed, role)
    columns = {
        "generation_id": generation_ids(flat(per_source["source_id"]), print_, seeds),
        "source_id": per_source["source_id"],
        "input_id": per_source["input_id"],
        "model": pa.repeat(use.model.name, count),
        "sample_index": indices,
        "seed": pa.nulls(count, pa.int64()) if seeds is None else seeds,
        "fingerprint": pa.repeat(print_, count),
    }
    return pa.table(columns, schema=WANTED)


def _seeds(inputs: pa.ChunkedArray, samples: int, recipe_seed: int, role: str) -> np.ndarray:
    """The seeds of each row's samples, one after the other: those of an input are hashed once."""
    encoded = flat(inputs).dictionary_encode()
    ids, at = encoded.dictionary, np.asarray(encoded.indices)
    each = ids.take(pa.array(np.repeat(np.arange(len(ids)), samples)))
    made = sample_seeds(recipe_seed, each, np.tile(np.arange(samples), len(ids)), role)
    return made.reshape(len(ids), samples)[at].reshape(-1)


def made_of(wanted: pa.Table, made: pa.Table) -> pa.Table:
    """The wanted rows with the other columns of `made`, rows of `generations`: nulls where one was not made. Where one
    is there twice, the first counts."""
    at = pc.index_in(flat(wanted["generation_id"]), value_set=flat(made["generation_id"]))
    for name in made.column_names:
        if name != "generation_id":
            column = flat(made[name]).take(at)
            wanted = wanted.drop_columns([name] if name in wanted.column_names else []).append_column(name, column)
    return wanted


class Truncated:
    """By model, how many of the wanted generations are truncated, and how many were cut by what (schemas/records.py).

    A caption that breaks off or a prompt that was not read to its end lowers cycle scores, and nothing else shows it.
    """

    def __init__(self, uses: list[Use]):
        self._truncated, self._cut_by = Counter[str](), {use.model.name: Counter[str]() for use in uses}
        self._wanted: set[str] = set()

    def add(self, rows: pa.Table) -> None:
        """Count wanted rows, each once, with `model`, `truncated` and `cut_by`, which are null where it failed."""
        self._wanted |= set(pc.unique(rows["model"]).to_pylist())
        for model in rows.filter(pc.fill_null(rows["truncated"], False))["model"].to_pylist():
            self._truncated[model] += 1
        cut = rows.filter(pc.greater(pc.fill_null(pc.list_value_length(rows["cut_by"]), 0), 0))
        for model, names in zip(cut["model"].to_pylist(), cut["cut_by"].to_pylist(), strict=True):
            self._cut_by[model].update(names)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """For run.json, by the names of models of which anything was wanted."""
        return {
            model: {"truncated": self._truncated[model], "cut_by": dict(sorted(self._cut_by[model].items()))}
            for model in sorted(self._wanted)
        }


def candidate_view(rows: pa.Table) -> pa.Table:
    """The Candidate view: what became of every wanted candidate. `rows` are those wanted with what was made of them."""
    status = pc.if_else(pc.is_valid(rows["content_id"]), "ok", "failed")
    rows = rows.append_column("status", status).select(records.CANDIDATE.names)
    return rows.sort_by([("input_id", "ascending"), ("generation_id", "ascending")])


def sources_of(candidates: pa.Table) -> pa.Table:
    """What is to be turned back, each once and in order: source_id, the content of candidates, and input_id."""
    made = candidates.select(["content_id", "input_id"]).rename_columns(["source_id", "input_id"])
    return made.group_by(["source_id", "input_id"]).aggregate([]).sort_by(
        [("source_id", "ascending"), ("input_id", "ascending")]
    )  # fmt: skip


RECONSTRUCTION = [
    "generation_id",
    "source_id",
    "input_id",
    "sample_index",
    "model",
    "seed",
    "fingerprint",
    "content_id",
]


def made_reconstructions(rows: pa.Table, sources: pa.Table, greedy: bool) -> pa.Table:
    """The reconstructions that were made, one row for each (candidate content, input) and sample: (source_id,
    input_id, sample_index, model, seed, fingerprint, content_id). `rows` are those wanted with what was made of them.
    A greedy reconstruction of content that two inputs share serves both."""
    rows = rows.filter(pc.is_valid(rows["content_id"])).select(RECONSTRUCTION)
    if greedy:
        rows = rows.drop_columns(["input_id"]).join(sources, keys="source_id", join_type="inner")
    return rows.select(RECONSTRUCTION).sort_by(
        [(name, "ascending") for name in ("input_id", "source_id", "sample_index")]
    )
