"""A mix of metrics is in [0, 1], higher better, and a function of the input's candidates alone."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cyclepref.builder.catalog.metrics import METRICS
from cyclepref.builder.pairing.mix import Mix, add_mix, mix_of, rank
from cyclepref.builder.pairing.pair import Direction, pair
from cyclepref.builder.pairing.scores import SAMPLE, cycle_scores, of_metric
from cyclepref.schemas import records
from cyclepref.schemas.recipe import MIX, Pairing
from cyclepref.schemas.resolved import Resolved

# A distance in [0, 2] and a cosine in [-1, 1]; what they are called here is all that is made up.
SPECS = {spec.name: spec for spec in METRICS}
FAR, NEAR = (
    Resolved(SPECS[kind].model_copy(update={"name": name}), {"name": name})
    for kind, name in (("dreamsim-clip", "far"), ("dinov2-base", "near"))
)
TEXTS = ["a cat", "A cat ", "a dog", "two dogs", "a bird"]


def mix(scale: str, far: float = 0.5) -> Mix:
    rule = Pairing(min_margin=0, poor_chosen=None, mix={"far": far, "near": 1 - far}, scale=scale)
    return mix_of(rule, [NEAR, FAR])


def candidates(rows: list[dict]) -> pa.Table:
    full = [{**row, "content_id": row["text"], "model": "m", "status": "ok"} for row in rows]
    names = records.CANDIDATE.names
    return pa.Table.from_pylist([{n: row.get(n) for n in names} for row in full], schema=records.CANDIDATE)


def samples(rows: list[dict]) -> pa.Table:
    """A sample for each value that a candidate has by a metric; None stands for a comparison that failed."""
    made = [
        (row["generation_id"], row["input_id"], index, metric.name, metric.fingerprint, value)
        for row in rows
        for metric in (FAR, NEAR)
        for index, value in enumerate(row[metric.name])
        if value is not None
    ]
    return pa.Table.from_pylist([dict(zip(SAMPLE.names, row, strict=True)) for row in made], schema=SAMPLE)


def mixed(rows: list[dict], scale: str) -> tuple[pa.Table, pa.Table]:
    """The mix's samples and cycle_scores."""
    drawn = samples(rows)
    found = add_mix(mix(scale), drawn, cycle_scores(drawn), candidates(rows), "text")
    return tuple(of_metric(table, MIX) for table in found)


def one(id_: str, text: str, far: list, near: list, input_: str = "x") -> dict:
    return {"generation_id": id_, "input_id": input_, "text": text, "far": far, "near": near}


@st.composite
def runs(draw):
    rows = []
    for input_ in draw(st.lists(st.sampled_from("uvwxyz"), unique=True, min_size=1, max_size=4)):
        for at in range(draw(st.integers(1, 5))):
            values = {
                name: draw(st.lists(st.none() | st.floats(low, high), min_size=2, max_size=2))
                for name, low, high in (("far", 0, 2), ("near", -1, 1))
            }
            text = draw(st.sampled_from(TEXTS))
            rows.append({"generation_id": f"{input_}{at}", "input_id": input_, "text": text, **values})
    return rows


scales = st.sampled_from(["constants", "rank"])


@settings(max_examples=60)
@given(runs(), scales)
def test_a_mix_is_between_0_and_1_and_only_for_candidates_that_every_metric_scored(rows, scale):
    _, found = mixed(rows, scale)
    for row in found.to_pylist():
        assert -1e-9 <= row["value"] <= 1 + 1e-9
    both = {row["generation_id"] for row in rows if any(v is not None for v in row["far"])}
    both &= {row["generation_id"] for row in rows if any(v is not None for v in row["near"])}
    assert set(found["generation_id"].to_pylist()) <= both
    if scale == "rank":
        assert set(found["generation_id"].to_pylist()) == both


@settings(max_examples=60)
@given(runs(), runs(), scales)
def test_adding_inputs_moves_no_score_and_no_pair(rows, more, scale):
    others = [{**row, "input_id": row["input_id"] * 2, "generation_id": "+" + row["generation_id"]} for row in more]
    direction, rule = Direction(MIX, mix(scale).fingerprint, True), Pairing(min_margin=0.01, poor_chosen=0.3)

    def pairs_of(some: list[dict]) -> list[dict]:
        table, _ = pair(candidates(some), mixed(some, scale)[1], "text", direction, rule)
        return [row for row in table.to_pylist() if len(row["input_id"]) == 1]

    assert pairs_of(rows + others) == pairs_of(rows)


@settings(max_examples=60)
@given(runs(), scales, st.randoms(use_true_random=False))
def test_permuting_candidates_changes_no_mix(rows, scale, rng):
    assert mixed(rng.sample(rows, len(rows)), scale)[1].equals(mixed(rows, scale)[1])


@settings(max_examples=60)
@given(runs(), scales)
def test_a_candidate_that_is_better_by_every_metric_is_never_mixed_to_be_worse(rows, scale):
    # Each output once: rows of one input and text are one candidate to a rank.
    rows = {(row["input_id"], row["text"].strip().lower()): row for row in rows}.values()
    whole = [row for row in rows if None not in (*row["far"], *row["near"])]
    value = {row["generation_id"]: row["value"] for row in mixed(whole, scale)[1].to_pylist()}
    for a in whole:
        for b in whole:
            nearer = np.mean(a["far"]) <= np.mean(b["far"]) and np.mean(a["near"]) >= np.mean(b["near"])
            if a["input_id"] == b["input_id"] and nearer:
                assert value[a["generation_id"]] >= value[b["generation_id"]] - 1e-9


def test_constants_are_the_metrics_declared_range_turned_so_that_higher_is_better():
    rows = [one("1", "a", [0.0], [1.0]), one("2", "b", [2.0], [-1.0]), one("3", "c", [0.5], [0.0])]
    _, found = mixed(rows, "constants")
    assert found["value"].to_pylist() == pytest.approx([1, 0, 0.5 * 0.75 + 0.5 * 0.5])


def test_by_constants_the_spread_is_of_the_mixed_reconstructions_that_all_metrics_scored():
    drawn, found = mixed([one("1", "a", [0.0, 1.0, 2.0], [0.0, 0.0, None])], "constants")
    assert drawn["value"].to_pylist() == pytest.approx([0.75, 0.5])
    [row] = found.to_pylist()
    assert (row["value"], row["spread"], row["n"]) == (pytest.approx(0.625), pytest.approx(0.125), 2)


def test_ranks_are_shares_of_the_other_distinct_outputs_and_ties_count_half():
    rows = [("1", "a cat", 0.1), ("2", "A cat", 0.9), ("3", "a dog", 0.5), ("4", "a bird", 0.5), ("5", "two dogs", 0.0)]
    table = candidates([{"generation_id": i, "input_id": "x", "text": t} for i, t, _ in rows])
    table = table.append_column("value", pa.array([value for *_, value in rows]))
    up = rank(table, "text", Direction("up", "f", True))
    assert up == pytest.approx({"1": 1 / 3, "2": 1, "3": 2.5 / 3, "4": 2.5 / 3, "5": 0})
    down = rank(table, "text", Direction("down", "f", False))
    assert down == pytest.approx({"1": 2 / 3, "2": 0, "3": 0.5 / 3, "4": 0.5 / 3, "5": 1})


def test_a_lone_candidate_ranks_in_the_middle():
    _, found = mixed([one("1", "a", [0.1], [0.1])], "rank")
    assert found["value"].to_pylist() == [0.5]


def test_weights_scale_and_metrics_are_in_the_fingerprint_and_their_order_is_not():
    rule = Pairing(min_margin=0, poor_chosen=None, mix={"near": 0.5, "far": 0.5}, scale="rank")
    assert mix_of(rule, [FAR, NEAR]).fingerprint == mix("rank").fingerprint
    assert len({mix("rank").fingerprint, mix("constants").fingerprint, mix("rank", far=0.7).fingerprint}) == 3
