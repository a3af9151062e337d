"""What a build derives, written as plainly as can be: rows as dictionaries, one at a time, everything in memory.

builder/stages/derive.py must give the same rows, to the last bit.
"""

from collections import defaultdict
from itertools import combinations
from typing import Any

import numpy as np

from cyclepref.builder.pairing.mix import Mix
from cyclepref.builder.pairing.pair import UNIT, Direction
from cyclepref.builder.stages.derive import Models
from cyclepref.builder.stages.wanted import Use
from cyclepref.schemas.ids import generation_id, pair_id, sample_seed, similarity_id
from cyclepref.schemas.recipe import MIX, Pairing

Row = dict[str, Any]


def wanted(sources: list[tuple[str, str]], uses: list[Use], seed: int, role: str) -> list[Row]:
    """The generations asked of (source, input): each id once, of the first in order."""
    found: dict[str, Row] = {}
    for use in uses:
        for source, input_ in sorted(sources, key=lambda each: each[1]):
            for index in range(use.samples):
                drawn = None if use.model.spec.greedy else sample_seed(seed, input_, index, role)
                id_ = generation_id(source, use.model.fingerprint, drawn)
                row = {"generation_id": id_, "source_id": source, "input_id": input_, "model": use.model.name,
                       "sample_index": index, "seed": drawn, "fingerprint": use.model.fingerprint}  # fmt: skip
                found.setdefault(id_, row)
    return list(found.values())


def candidates(asked: list[Row], made: dict[str, Row]) -> list[Row]:
    """The Candidate view."""
    rows = []
    for row in asked:
        there = made.get(row["generation_id"])
        kept = {name: (there or {}).get(name) for name in ("seed", "draw", "content_id", "text", "truncated")}
        rows.append({**row, **kept, "status": "ok" if there else "failed"})
    return sorted(rows, key=lambda row: (row["input_id"], row["generation_id"]))


def samples(ok: list[Row], models: Models, seed: int, made: dict[str, Row], values: dict[str, float]) -> list[Row]:
    """Each candidate's similarities, by metric and reconstruction."""
    rows, backward = [], models.backward
    for row in ok:
        for index in range(backward.samples):
            drawn = None if backward.model.spec.greedy else sample_seed(seed, row["input_id"], index, "backward")
            back = made.get(generation_id(row["content_id"], backward.model.fingerprint, drawn))
            for metric in models.metrics:
                direct = metric.spec.compares == "candidate"
                if (direct and index) or not (direct or back):
                    continue
                of = row["content_id"] if direct else back["content_id"]
                value = values.get(similarity_id(row["input_id"], of, metric.fingerprint))
                if value is not None:
                    rows.append({"generation_id": row["generation_id"], "input_id": row["input_id"],
                                 "sample_index": index, "metric": metric.name, "fingerprint": metric.fingerprint,
                                 "value": value})  # fmt: skip
    return rows


def mixed(rows: list[Row], mix: Mix) -> list[Row]:
    """The mix of each reconstruction that all metrics scored, by the metrics' declared ranges."""
    by_sample: dict[tuple, dict[str, float]] = defaultdict(dict)
    direct = {metric.name for metric in mix.metrics if metric.spec.compares == "candidate"}
    for row in rows:
        if row["metric"] not in direct or len(direct) == len(mix.metrics):
            by_sample[row["generation_id"], row["input_id"], row["sample_index"]][row["metric"]] = row["value"]
    for (id_, input_, _), found in by_sample.items():  # a metric of candidates says the same of each reconstruction
        found |= {
            row["metric"]: row["value"]
            for row in rows
            if row["metric"] in direct and (row["generation_id"], row["input_id"]) == (id_, input_)
        }
    made = []
    for (id_, input_, index), found in by_sample.items():
        if len(found) == len(mix.metrics):
            places = []
            for metric in mix.metrics:
                low, high, value = metric.spec.low, metric.spec.high, found[metric.name]
                places.append((value - low if metric.spec.higher_is_better else high - value) / (high - low))
            made.append({"generation_id": id_, "input_id": input_, "sample_index": index, "metric": MIX,
                         "fingerprint": mix.fingerprint, "value": float(np.dot(mix.weights, places))})  # fmt: skip
    return made


def scores(rows: list[Row]) -> list[Row]:
    """The Score view."""
    groups: dict[tuple, list[float]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["sample_index"]):
        groups[row["input_id"], row["generation_id"], row["metric"], row["fingerprint"]].append(row["value"])
    return [
        {"generation_id": id_, "input_id": input_, "metric": metric, "fingerprint": print_,
         "value": float(np.mean(found)), "spread": float(np.std(found)), "n": len(found)}
        for (input_, id_, metric, print_), found in sorted(groups.items())
    ]  # fmt: skip


def pairs(ok: list[Row], scored: list[Row], direction: Direction, rule: Pairing, by_text: bool) -> list[Row]:
    """The Pair view, for a rule without `min_margin_sd`."""
    value = {row["generation_id"]: row["value"] for row in scored if row["metric"] == direction.metric}
    outputs: dict[tuple, list[Row]] = defaultdict(list)
    for row in sorted(ok, key=lambda row: row["generation_id"]):
        if row["generation_id"] in value:
            same = row["text"].strip().lower() if by_text else row["content_id"]
            outputs[row["input_id"], same].append(row)
    by_input: dict[str, list[Row]] = defaultdict(list)
    for (input_, _), equal in outputs.items():
        by_input[input_].append({**equal[0], "models": sorted({row["model"] for row in equal})})
    rows = [_pair(*both, value, direction, rule) for made in by_input.values() for both in combinations(made, 2)]
    return sorted((row for row in rows if row), key=lambda row: (row["input_id"], row["pair_id"]))


def _pair(a: Row, b: Row, value: dict[str, float], direction: Direction, rule: Pairing) -> Row | None:
    units = {row["generation_id"]: direction.sign * int(np.rint(value[row["generation_id"]] / UNIT)) for row in (a, b)}
    better, worse = sorted((a, b), key=lambda row: -units[row["generation_id"]])
    gap = units[better["generation_id"]] - units[worse["generation_id"]]
    poor = rule.poor_chosen
    if gap < round(rule.min_margin / UNIT) or gap == 0:
        return None
    if poor is not None and units[better["generation_id"]] < direction.sign * round(poor / UNIT):
        return None
    ids = better["generation_id"], worse["generation_id"]
    sides = {}
    for side, row in (("chosen", better), ("rejected", worse)):
        sides |= {f"{side}_id": row["generation_id"], f"{side}_model": row["model"], f"{side}_models": row["models"],
                  f"{side}_score": value[row["generation_id"]]}  # fmt: skip
    named = {"pair_id": pair_id(*ids, direction.scored_by), "input_id": better["input_id"]}
    return {**named, **sides, "metric": direction.metric, "margin": gap * UNIT}
