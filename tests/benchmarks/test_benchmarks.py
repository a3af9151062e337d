"""The benchmarks in small: every way does the work that it is compared by, to the row, and nothing is lost.

Figures are for the benchmarks themselves. The one ratio that is held here is of processor time in one thread, which
other work on the machine hardly changes.
"""

import time

import pytest
import torch
from _chain import run as run_chain
from _common import Target, Watch, in_turns, same
from _loop import Loop
from _work import CYCLES, counts_of, prepare, start_up
from bench_engine import measure as measure_engine
from bench_limit import PARTS

from cyclepref.builder.build import build
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.run.store import Store

# Inputs, and the recipe's first models: enough that candidates are equal here and there.
INPUTS, MODELS = 4, 2


@pytest.fixture(scope="module", params=CYCLES)
def built(request, ray_local, tmp_path_factory):
    """A cycle's work, what a build counted of it, and the build's store."""
    place = tmp_path_factory.mktemp(request.param)
    _, work = prepare(place / "work", request.param, INPUTS * MODELS, models=MODELS)
    run = build(work.recipe, place / "build", engine=Engine())
    return work, counts_of(run["counts"]), Store(place / "build")


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_bare_loop_does_what_a_build_does_and_the_reference_all_that_it_repeats(built, one_thread, tmp_path):
    work, counts, store = built
    samples = work.backward[1]
    limit = Loop(work, tmp_path / "limit", batched=True, reuse=True, in_memory=True, clock=time.process_time)
    of_limit, used_by_limit = timed(limit)
    assert (counts.inputs, counts.candidates) == (INPUTS, INPUTS * MODELS)
    assert {part: getattr(of_limit, part) for part in PARTS} == {part: getattr(counts, part) for part in PARTS}
    reference = Loop(work, tmp_path / "reference", clock=time.process_time)
    of_reference, used_by_reference = timed(reference)
    assert of_reference.candidates == counts.candidates
    assert of_reference.reconstructions == of_reference.comparisons == counts.candidates * samples
    assert of_reference.embeddings == 2 * of_reference.comparisons
    assert of_reference.pairs == pytest.approx(counts.pairs, abs=1), "rounding may move one across a threshold"
    assert len(list((tmp_path / "reference").glob("*.json"))) == 4
    assert not (tmp_path / "limit").exists()
    compared = store.rows("similarities", ["input_id", "content_id"])
    distinct = {id_ for column in ("input_id", "content_id") for id_ in compared[column].to_pylist()}
    assert of_limit.embeddings == (2 * counts.comparisons if work.from_images else len(distinct))
    if not work.from_images:  # enough rows that a batch is not mostly padding
        assert used_by_reference > 1.2 * used_by_limit


def timed(loop):
    """What a loop did, and the processor's seconds without loading."""
    begin = time.process_time()
    counts = loop.run()
    return counts, time.process_time() - begin - loop.loading


@pytest.mark.parametrize("built", ["i2t2i", pytest.param("t2i2t", marks=pytest.mark.slow)], indirect=True)
def test_a_ray_data_chain_makes_every_row_that_a_build_wants(built, tmp_path):
    work, counts, _ = built
    found = run_chain(work, tmp_path / "chain")
    rows = counts.candidates * work.backward[1]
    assert (found.inputs, found.candidates, found.reconstructions) == (counts.inputs, counts.candidates, rows)


def test_models_that_do_nothing_lose_no_row(ray_local, tmp_path):
    found = measure_engine(tmp_path, rows=6000, batch=64)
    assert found["rows"] == 6000
    assert found["hosts MB at the peak"] > 0


def test_ways_take_turns_and_every_second_round_backwards():
    order = []
    ways = {name: lambda name=name: order.append(name) or {"seconds": 1.0} for name in ("a", "b")}
    assert [len(results) for results in in_turns(ways, 3).values()] == [3, 3]
    assert order == ["a", "b", "b", "a", "a", "b"]


def test_start_up_is_what_two_sizes_leave_at_no_rows():
    few, all_ = ([{"seconds": 5.0 + 0.1 * rows, "counts": {"candidates": rows}}] for rows in (100, 400))
    assert start_up(few, all_) == pytest.approx(5.0)


def test_counts_that_differ_from_run_to_run_are_an_error():
    assert same([{"counts": {"pairs": 3}}] * 2, "counts") == {"pairs": 3}
    with pytest.raises(RuntimeError, match="counts differs from run to run"):
        same([{"counts": 1}, {"counts": 2}], "counts")


def test_a_figure_that_is_not_a_number_misses_its_target():
    assert Target(1.2, at_least=1.0).met
    assert not Target(1.2, at_most=1.0).met
    assert not Target(float("nan"), at_least=0.0).met


def test_a_process_is_watched_with_all_below_it():
    import psutil

    watch = Watch(psutil.Process())
    deadline = time.monotonic() + 20
    while not watch.looks and time.monotonic() < deadline:
        sum(range(100_000))
    watch.end()
    assert watch.looks[0][1] > 10
    assert sum(watch.processor.values()) > 0
