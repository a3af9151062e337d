"""Blocks of inputs give what the plain way gives, to the last bit, however many blocks there are."""

from itertools import count
from random import Random

import numpy as np
import plain_derivation as plain
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.pairing.mix import mix_of
from cyclepref.builder.pairing.pair import Direction
from cyclepref.builder.run.blocks import Scratch
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages import derive
from cyclepref.builder.stages.derive import Derivation, Models
from cyclepref.builder.stages.wanted import Use
from cyclepref.schemas import records
from cyclepref.schemas.ids import digest, similarity_id
from cyclepref.schemas.recipe import MIX, parse_recipe
from cyclepref.schemas.resolved import Resolved

CAPTIONS = ["a cat", "A cat ", "a dog", "two dogs", "Ein Haus, groß", "\x1c"]
FOLDERS = count(1)
VIEWS = ("candidates", "scores", "pairs")


def resolved(kind: str, name: str, **changes) -> Resolved:
    return Resolved(CATALOG[kind].model_copy(update={"name": name, **changes}), {"name": name})


def models(cycle: str, samples: int, greedy: bool, direct: int) -> Models:
    """`direct` of the two metrics compare candidates and no reconstructions."""
    captioner, painter = ("shapeworld-blip", {"temperature": None if greedy else 1.0}), ("shapeworld-sd3", {})
    forth, back = (captioner, painter) if cycle == "i2t2i" else (painter, captioner)
    forward = [Use(resolved(forth[0], name, **forth[1]), count) for name, count in (("one", 1), ("two", samples))]
    few = 1 if cycle == "t2i2t" and greedy else samples
    ranged = {"low": 0.0, "high": 1.0, "higher_is_better": False}
    kinds = ["denoising-loss"] * direct + ["lpips-shapeworld"] * (2 - direct)
    metrics = [resolved(kind, name, **ranged) for kind, name in zip(kinds, ("far", "near"), strict=True)]
    return Models(forward, Use(resolved(back[0], "back", **back[1]), few), metrics)


def recipe(cycle: str, mix: bool, min_margin: float, poor: float | None):
    kinds = ("shapeworld-blip", "shapeworld-sd3") if cycle == "i2t2i" else ("shapeworld-sd3", "shapeworld-blip")
    metric = "lpips-shapeworld" if cycle == "i2t2i" else "sbert"
    made = parse_recipe(
        {
            "name": "derive", "cycle": cycle, "inputs": {"source": "shapeworld", "limit": 1}, "seed": 3,
            "forward": [{"model": kinds[0]}, {"model": kinds[0], "name": "two", "samples": 2,
                         "settings": {"temperature": 1.0} if cycle == "i2t2i" else {}}],
            "backward": {"model": kinds[1]}, "metric": {"metric": metric},
            "pairs": {"min_margin": min_margin, "poor_chosen": poor},
        }
    )  # fmt: skip
    if not mix:
        return made
    rule = made.pairs.model_copy(update={"mix": {"far": 0.25, "near": 0.75}, "scale": "constants"})
    return made.model_copy(update={"pairs": rule})


@st.composite
def cases(draw):
    cycle = draw(st.sampled_from(["i2t2i", "t2i2t"]))
    used = models(cycle, draw(st.integers(1, 3)), draw(st.booleans()), draw(st.integers(0, 2)))
    of = recipe(cycle, draw(st.booleans()), draw(st.sampled_from([0.0, 0.1])), draw(st.none() | st.just(0.6)))
    return used, of, draw(st.integers(1, 12)), Random(draw(st.integers(0, 2**32))), draw(st.integers(1, 9))


def rows_of(rows: list[dict], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


class Made:
    """A store that stages have been at: most of what was wanted was made, some failed, some is there twice."""

    def __init__(self, place, random):
        self.store, self.random, self.rows, self.values = Store(place), random, {}, {}

    def make(self, wanted: pa.Table, text: bool) -> None:
        fresh = []
        for row in wanted.to_pylist():
            if self.random.random() < 0.85:
                output = self.random.choice(CAPTIONS)
                row |= {"draw": 0, "content_id": digest(output), "text": output if text else None}
                row |= {"truncated": self.random.random() < 0.2}
                row |= {"cut_by": self.random.choice([[], None, ["clip", "t5"]])}
                fresh.append(row)
        self.rows |= {row["generation_id"]: row for row in fresh}
        for at in range(3):
            self.store.write_part("generations", rows_of(fresh[at::3], records.GENERATION))
        self.store.write_part("generations", rows_of(fresh[:2], records.GENERATION))

    def compare(self, wanted: pa.Table) -> None:
        fresh = [{**row, "metric": row["model"], "value": self.random.random()} for row in wanted.to_pylist()]
        fresh = [row for row in fresh if self.random.random() < 0.85]
        self.values |= {row["similarity_id"]: row["value"] for row in fresh}
        self.store.write_part("similarities", rows_of(fresh, records.SIMILARITY))


def directed(of, used: Models) -> Direction:
    mix = mix_of(of.pairs, used.metrics)
    return Direction(MIX, mix.fingerprint, True) if mix else Direction("far", "scored by", False)


def views_of(store: Store) -> dict[str, list[dict]]:
    return {view: store.read_view(view).to_pylist() for view in VIEWS}


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("derive")


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cases())
def test_any_number_of_blocks_gives_the_rows_that_the_plain_way_gives(place, case):
    used, of, many, random, blocks = case
    inputs = sorted(digest(str(random.random()), at) for at in range(many))
    table, texts = pa.table({"input_id": inputs}), of.shape.candidate == "text"
    direction = directed(of, used)
    made = Made(place / str(next(FOLDERS)), random)
    with Scratch() as scratch:
        derived = Derivation(made.store, scratch, of, used, table, blocks)
        asked = derived.wanted_candidates()
        made.make(asked, texts)
        derived.find_candidates()
        asked_back = derived.wanted_reconstructions()
        made.make(asked_back, not texts)
        derived.find_reconstructions()
        compared = derived.wanted_similarities()
        made.compare(compared)
        pair_count = derived.write_views(direction)
        samples = derived.samples.table().to_pylist()
    found = views_of(made.store)

    expected = plain.wanted([(id_, id_) for id_ in inputs], used.forward, 3, "forward")
    by_id = lambda rows: sorted(rows, key=lambda row: row["generation_id"])  # noqa: E731
    assert by_id(asked.to_pylist()) == by_id(expected)
    views = {"candidates": plain.candidates(expected, made.rows)}
    ok = [row for row in views["candidates"] if row["status"] == "ok"]
    sources = sorted({(row["content_id"], row["input_id"]) for row in ok})
    backward = [used.backward] if used.reconstructs else []
    assert by_id(asked_back.to_pylist()) == by_id(plain.wanted(sources, backward, 3, "backward"))
    drawn = plain.samples(ok, used, 3, made.rows, made.values)
    ids = compared["similarity_id"].to_pylist()
    assert len(set(ids)) == len(ids)
    assert set(ids) == {
        similarity_id(row["input_id"], row["content_id"], metric.fingerprint)
        for metric in used.metrics
        for row in (ok if metric.spec.compares == "candidate" else derived_reconstructions(ok, used, made))
    }  # fmt: skip
    mix = mix_of(of.pairs, used.metrics)
    drawn += plain.mixed(drawn, mix) if mix else []
    key = lambda row: (row["generation_id"], row["metric"], row["sample_index"])  # noqa: E731
    assert sorted(samples, key=key) == sorted(drawn, key=key)
    views["scores"] = plain.scores(drawn)
    views["pairs"] = plain.pairs(ok, views["scores"], direction, of.pairs, texts)
    for view, schema in (("candidates", records.CANDIDATE), ("scores", records.SCORE), ("pairs", records.PAIR)):
        assert found[view] == rows_of(views[view], schema).to_pylist()
    assert pair_count.kept == len(views["pairs"])
    for stage, asked_of in (("candidates", expected), ("reconstructions", asked_back.to_pylist())):
        for model, told in derived.truncated[stage].to_dict().items():
            mine = [made.rows.get(row["generation_id"], {}) for row in asked_of if row["model"] == model]
            assert told["truncated"] == sum(row.get("truncated", False) for row in mine)
            assert sum(told["cut_by"].values()) == sum(len(row.get("cut_by") or ()) for row in mine)


def derived_reconstructions(ok: list[dict], used: Models, made: Made) -> list[dict]:
    """(input, content) of each candidate's reconstructions that were made."""
    every = plain.wanted(sorted({(r["content_id"], r["input_id"]) for r in ok}), [used.backward], 3, "backward")
    back = {(row["source_id"], row["input_id"]): [] for row in every}
    greedy = used.backward.model.spec.greedy
    for row in every:
        if row["generation_id"] in made.rows:
            back[row["source_id"], row["input_id"]].append(made.rows[row["generation_id"]]["content_id"])
    if greedy:
        shared = {source: contents for (source, _), contents in back.items()}
        back = {(r["content_id"], r["input_id"]): shared[r["content_id"]] for r in ok}
    return [{"input_id": input_, "content_id": c} for (_, input_), found in back.items() for c in found]


def test_blocks_are_in_order_of_their_ids():
    ids = pa.array(sorted(digest(at) for at in range(500)))
    for blocks in (1, 2, 7, 512):
        places = derive.block_of(ids, blocks)
        assert (np.diff(places) >= 0).all()
        assert 0 <= places.min() <= places.max() < blocks


def test_views_stay_as_they_are_if_deriving_them_breaks_off(tmp_path):
    store = Store(tmp_path)
    with store.new_views() as views:
        views["pairs"].write(records.PAIR.empty_table())
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.parquet")}
    assert len(before) == 3
    with pytest.raises(ZeroDivisionError, match="division"):
        break_off(store)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def break_off(store: Store) -> None:
    with store.new_views() as views:
        views["pairs"].write(rows_of([{"pair_id": "a", "input_id": "b"}], records.PAIR))
        views["pairs"].write(1 // 0)
