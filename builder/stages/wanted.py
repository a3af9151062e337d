"""The generations that a recipe asks for, and what became of them."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.run.store import Store, flat
from cyclepref.schemas import records
from cyclepref.schemas.ids import generation_ids, sample_seed
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


def wanted_generations(sources: list[tuple[str, str]], uses: list[Use], recipe_seed: int, role: str) -> pa.Table:
    """The generations that a recipe asks for, one row for each distinct id.

    `sources` are (source_id, input_id): an input is its own source, a candidate belongs to its input. `role` is
    "forward" or "backward". See `cyclepref.schemas.ids.sample_seed` for which samples share a seed.
    """
    return pa.concat_tables([WANTED.empty_table(), *(_wanted_of(use, sources, recipe_seed, role) for use in uses)])


def _wanted_of(use: Use, sources: list[tuple[str, str]], recipe_seed: int, role: str) -> pa.Table:
    """The generations asked of one model: by columns, since a build may wanted_generations ten million."""
    greedy, samples, print_ = use.model.spec.greedy, use.samples, use.model.fingerprint
    distinct: dict[Any, tuple[str, str]] = {}
    for source, input_ in sources:
        # Greedy reconstructions of one text that two inputs share are one row.
        distinct.setdefault(source if greedy else (source, input_), (source, input_))
    per_source = [place for place in distinct.values() for _ in range(samples)]
    indices = list(range(samples)) * len(distinct)
    seeds: list[int | None] = [None] * len(per_source)
    if not greedy:
        places = zip(per_source, indices, strict=True)
        seeds = [sample_seed(recipe_seed, input_, index, role) for (_, input_), index in places]
    columns = {
        "generation_id": generation_ids((source for source, _ in per_source), print_, seeds),
        "source_id": [source for source, _ in per_source],
        "input_id": [input_ for _, input_ in per_source],
        "model": pa.repeat(use.model.name, len(per_source)),
        "sample_index": indices,
        "seed": seeds,
        "fingerprint": pa.repeat(print_, len(per_source)),
    }
    return pa.table(columns, schema=WANTED)


def truncation(store: Store, wanted: pa.Table) -> dict[str, dict[str, Any]]:
    """By model, how many of the wanted generations are truncated, and how many were cut by what (schemas/records.py).

    A caption that breaks off or a prompt that was not read to its end lowers cycle scores, and nothing else shows it.
    """
    made = store.rows("generations", ["generation_id", "truncated", "cut_by"])
    made = made.filter(pc.is_in(made["generation_id"], value_set=flat(wanted["generation_id"])))
    models = dict(zip(*(wanted[name].to_pylist() for name in ("generation_id", "model")), strict=True))
    counts = {model: {"truncated": 0, "cut_by": Counter()} for model in sorted(set(models.values()))}
    for row in made.select(["generation_id", "truncated", "cut_by"]).to_pylist():
        count = counts[models[row["generation_id"]]]
        count["truncated"] += row["truncated"]
        count["cut_by"].update(row["cut_by"])
    return {model: {**count, "cut_by": dict(sorted(count["cut_by"].items()))} for model, count in counts.items()}


def candidate_view(store: Store, wanted: pa.Table) -> pa.Table:
    """The Candidate view: what became of every wanted candidate."""
    columns = ["generation_id", "seed", "draw", "content_id", "text", "truncated"]
    made = store.rows("generations", columns).drop_columns(["part", "row"])
    rows = wanted.drop_columns(["source_id", "seed"]).join(made, keys="generation_id", join_type="left outer")
    status = pc.if_else(pc.is_valid(rows["content_id"]), "ok", "failed")
    rows = rows.append_column("status", status).select(records.CANDIDATE.names)
    return rows.sort_by([("input_id", "ascending"), ("generation_id", "ascending")])


def made_reconstructions(store: Store, wanted: pa.Table, sources: list[tuple[str, str]], backward: Use) -> pa.Table:
    """The reconstructions that were made, one row for each (candidate content, input) and sample: (source_id,
    input_id, sample_index, model, seed, fingerprint, content_id). A greedy reconstruction of content that two inputs
    share serves both."""
    made = store.rows("generations", ["generation_id", "content_id"]).drop_columns(["part", "row"])
    rows = wanted.select(["generation_id", "source_id", "input_id", "sample_index", "model", "seed", "fingerprint"])
    if backward.model.spec.greedy and sources:
        links = pa.table(dict(zip(("source_id", "input_id"), map(list, zip(*sources, strict=True)), strict=True)))
        rows = rows.drop_columns(["input_id"]).join(links, keys="source_id", join_type="inner")
    return rows.join(made, keys="generation_id", join_type="inner")
