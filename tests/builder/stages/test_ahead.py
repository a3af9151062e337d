"""Reconstructions that are begun while candidates are still made are those that their stage will want."""

from collections import Counter
from itertools import count
from random import Random

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_derive import Made, models, recipe, rows_of

from cyclepref.builder.run.blocks import Scratch
from cyclepref.builder.stages.ahead import ReconstructionsAhead
from cyclepref.builder.stages.derive import Derivation
from cyclepref.schemas import records
from cyclepref.schemas.ids import digest

FOLDERS = count(1)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("ahead")


def rows_in(table, at: list[int]):
    return table.take(pa.array(at, pa.int64())).combine_chunks()


def asked_for(ahead, store) -> list[dict]:
    """Rows that are ready; the place of each has its source."""
    rows = [row for _, rows in ahead.ready() for row in rows.to_pylist()]
    for row in rows:
        content = store.read_part("generations", row["source_part"], ["content_id"])["content_id"]
        assert content[row["source_row"]].as_py() == row["source_id"]
    return rows


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["i2t2i", "t2i2t"]), st.booleans(), st.integers(1, 8), st.randoms(use_true_random=False))
def test_what_is_begun_ahead_is_what_the_stage_will_want_and_each_row_once(place, cycle, greedy, many, random):
    used, of = models(cycle, 2, greedy, 0), recipe(cycle, False, 0.0, None)
    inputs = sorted(digest(str(random.random()), at) for at in range(many))
    texts = of.shape.candidate == "text"
    made = Made(place / str(next(FOLDERS)), random)
    with Scratch() as scratch:
        derived = Derivation(made.store, scratch, of, used, pa.table({"input_id": inputs}), 2)
        wanted = derived.wanted_candidates()
        order = random.sample(range(wanted.num_rows), wanted.num_rows)
        before = order[: random.randrange(len(order))]
        made.make(rows_in(wanted, before), texts)  # an earlier build: what failed then is left to do
        ahead = ReconstructionsAhead(made.store, wanted, used.backward, of.seed)
        assert set(ahead.expected) == {"CaptionerSpec/back" if cycle == "t2i2t" else "PainterSpec/back"}
        begun, open_ = [], [at for at in order if wanted["generation_id"][at].as_py() not in made.rows]
        while open_:
            size = random.randint(1, len(open_))
            some, open_ = rows_in(wanted, open_[:size]), open_[size:]
            made.make(some, texts)
            ahead.made(some)
            if random.random() < 0.5:
                begun += asked_for(ahead, made.store)
        begun += asked_for(ahead, made.store)
        derived.find_candidates()
        later = {row["generation_id"]: row for row in derived.wanted_reconstructions().to_pylist()}
    assert max(Counter(row["generation_id"] for row in begun).values(), default=1) == 1
    assert {row["generation_id"] for row in begun} == set(later)
    for row in begun:
        shared = {name: row[name] for name in ("source_id", "model", "seed", "fingerprint")}
        assert shared == {name: later[row["generation_id"]][name] for name in shared}


def test_inputs_with_candidates_to_come_are_left_alone(tmp_path):
    used, of = models("i2t2i", 2, False, 0), recipe("i2t2i", False, 0.0, None)
    made = Made(tmp_path, Random(1))
    with Scratch() as scratch:
        derived = Derivation(made.store, scratch, of, used, pa.table({"input_id": [digest("a"), digest("b")]}), 1)
        wanted = derived.wanted_candidates()
        ahead = ReconstructionsAhead(made.store, wanted, used.backward, of.seed)
        assert ahead.expected == {"PainterSpec/back": 2 * 3 * 2}
        first = wanted["input_id"][0].as_py()
        mine = [at for at, id_ in enumerate(wanted["input_id"].to_pylist()) if id_ == first]
        for at in mine[:-1]:
            made.make(rows_in(wanted, [at]), True)
            ahead.made(rows_in(wanted, [at]))
            assert ahead.ready() == []
        ahead.made(rows_in(wanted, mine[-1:]))
        [(task, rows)] = ahead.ready()
        assert {row["input_id"] for row in rows.to_pylist()} == {first}
        assert task.stage == "reconstructions"


def test_an_input_whose_candidate_failed_in_an_earlier_build_is_not_waited_for(tmp_path):
    used, of = models("i2t2i", 2, False, 0), recipe("i2t2i", False, 0.0, None)
    made = Made(tmp_path, Random(1))
    with Scratch() as scratch:
        derived = Derivation(made.store, scratch, of, used, pa.table({"input_id": [digest("a")]}), 1)
        wanted = derived.wanted_candidates()
        failed = {"id": wanted["generation_id"][0].as_py(), "attempt": 1}
        made.store.write_part("failures", rows_of([failed], records.FAILURE))
        ahead = ReconstructionsAhead(made.store, wanted, used.backward, of.seed)
        assert ahead.expected
        rest = rows_in(wanted, list(range(1, wanted.num_rows)))
        made.make(rest, True)
        ahead.made(rest)
        [(_, rows)] = ahead.ready()
        assert rows.num_rows
