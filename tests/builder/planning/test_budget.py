"""What a budgeted build leaves is the dataset of its first inputs, and going on gives what never stopping gives."""

from collections.abc import Iterable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inline_builds import InlineEngine, hashed_models, put_hashed_models, small_recipe  # noqa: F401

from cyclepref.builder.build import build
from cyclepref.builder.common.stopping import Interrupted
from cyclepref.builder.costs.spent import Meter, spent
from cyclepref.builder.dataset.verify import verify
from cyclepref.builder.engine.plan import Cluster
from cyclepref.builder.engine.task import Ahead, Task
from cyclepref.builder.planning import budget
from cyclepref.builder.planning.budget import BudgetError, build_within
from cyclepref.builder.run.status import status
from cyclepref.builder.run.store import Store
from cyclepref.schemas.recipe import parse_recipe

ROW_S, GPUS = 10.0, 2
# Of 300 inputs: two candidates, two reconstructions and two scores each, all of them distinct.
INPUT_HOURS = 6 * ROW_S * GPUS / 3600


class Metered(InlineEngine):
    """Rows take their time by a clock of their own, and work ends where it need not go on, as on a cluster."""

    def __init__(self, load_s: float = 0.0, slower: float = 0.0):
        super().__init__()
        self.now, self.load_s, self.slower = 0.0, load_s, slower
        self.cluster = Cluster(cpus=2, gpus=GPUS)
        self.meter = Meter(lambda: self.now)
        self.meter.tick(GPUS)

    def run(self, work: Iterable[tuple[Task, pa.Table]], ahead: Ahead | None = None) -> Iterator[pa.Table]:
        """As of `Engine`."""
        self.now += self.load_s
        for receipt in super().run(work, ahead):
            rows = sum(receipt["done"].to_pylist())
            self.now += rows * ROW_S * (1 + self.slower * self.now / 3600)
            yield receipt
            if self.enough():
                raise Interrupted("stopped as asked")


def recipe(limit: int = 300, cycle: str = "i2t2i"):
    found = small_recipe(cycle, limit=limit)
    some = {"settings": {"batch_size": 4}}
    forward = [{"model": choice.model, **some} for choice in found.forward]
    content = found.model_dump(exclude_unset=True) | {
        "forward": forward,
        "backward": {"model": found.backward.model, **some},
    }
    return parse_recipe(content)


def files(out: Path) -> dict[str, bytes]:
    """What a build derives: views and dataset, by name."""
    folders = ("candidates", "scores", "pairs", "dataset")
    found = [path for folder in folders for path in sorted((out / folder).rglob("*")) if path.is_file()]
    return {str(path.relative_to(out)): path.read_bytes() for path in found}


@pytest.mark.parametrize("cycle", ["i2t2i", pytest.param("t2i2t", marks=pytest.mark.slow)])
@pytest.mark.usefixtures("hashed_models")
def test_what_a_budget_leaves_is_the_dataset_of_its_first_inputs_and_a_larger_one_goes_on(cycle, tmp_path):
    whole, part = recipe(cycle=cycle), tmp_path / "part"
    hours = 150 * INPUT_HOURS
    first = build_within(whole, part, hours, engine=Metered())
    assert not first.finished
    assert first.spent <= hours
    assert first.unit == "GPU hours"
    assert 130 <= first.inputs <= 150, "most of the budget is used"
    assert verify(Store(part)).damage == []
    build(recipe(first.inputs, cycle), tmp_path / "limit", engine=InlineEngine())
    assert files(part) == files(tmp_path / "limit")

    stored = set(Store(part).ids_by_part("generations"))
    last = build_within(whole, part, 3 * hours, engine=Metered())
    assert last.finished
    assert last.inputs == 300
    assert stored, "what was there stays"
    build(whole, tmp_path / "never", engine=InlineEngine())
    assert files(part) == files(tmp_path / "never")
    assert last.spent == pytest.approx(300 * INPUT_HOURS, rel=0.02), "nothing is made twice"


@settings(max_examples=5, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.floats(0.05, 1.3), st.floats(0, 3000), st.floats(0, 0.3))
def test_whatever_rows_and_loads_take_a_budget_is_kept_to_a_block(tmp_path_factory, share, load_s, slower):
    out, total = tmp_path_factory.mktemp("budget"), 24
    hours = share * total * INPUT_HOURS
    with pytest.MonkeyPatch.context() as patch:
        put_hashed_models(patch)
        patch.setattr(budget, "FIRST", 4)
        told = []
        engine = Metered(load_s, slower)
        outcome = build_within(recipe(total), out, hours, engine=engine, tell=told.append)
    # What is in flight when a budget ends is finished: a block here, and the load before it.
    block = (16 * ROW_S * (1 + slower * engine.now / 3600) + load_s) * GPUS / 3600
    assert outcome.spent <= hours + block
    assert [each.inputs for each in told] == sorted({each.inputs for each in told})
    if outcome.run:
        assert outcome.run["counts"]["inputs"]["read"] == outcome.inputs == told[-1].inputs


@pytest.mark.usefixtures("hashed_models")
def test_a_slice_that_takes_more_than_was_left_keeps_its_rows_and_the_dataset_before_it(tmp_path, monkeypatch):
    # Every slice aims at four times what is left.
    monkeypatch.setattr(budget, "SHARE", 4.0)
    outcome = build_within(recipe(), tmp_path, 60 * INPUT_HOURS, engine=Metered())
    assert outcome.inputs == 32
    assert outcome.spent == pytest.approx(60 * INPUT_HOURS, rel=0.2)
    assert verify(Store(tmp_path)).damage == []
    assert status(Store(tmp_path))["state"] == "finished"
    rows = Store(tmp_path).ids("generations")
    assert len(rows) > 4 * 32, "what was made after it is kept"


@pytest.mark.usefixtures("hashed_models")
def test_a_budget_that_ends_before_the_first_slice_says_so_and_loses_nothing(tmp_path):
    first = build_within(recipe(), tmp_path, 2 * INPUT_HOURS, engine=Metered())
    assert first.run is None
    assert first.inputs == 0
    made = len(Store(tmp_path).ids("generations"))
    assert made
    with pytest.raises(
        BudgetError, match=r"have taken .* GPU hours, and the budget for all of them is .*: give a larger"
    ):
        build_within(recipe(), tmp_path, 2 * INPUT_HOURS, engine=Metered())
    assert build_within(recipe(), tmp_path, 60 * INPUT_HOURS, engine=Metered()).inputs >= 32


@pytest.mark.usefixtures("hashed_models")
def test_a_build_that_its_user_stops_is_stopped(tmp_path):
    class Stopped(Metered):
        def run(self, work, ahead=None):
            for at, receipt in enumerate(super().run(work, ahead)):
                if at == 2:
                    raise Interrupted("stopped as asked")
                yield receipt

    with pytest.raises(Interrupted):
        build_within(recipe(), tmp_path, 1000, engine=Stopped())
    assert spent(Store(tmp_path)).gpu_hours > 0, "what it took counts"


@pytest.mark.usefixtures("hashed_models")
def test_a_dataset_that_is_there_does_not_become_smaller(tmp_path):
    build(recipe(40), tmp_path, engine=Metered())
    took = spent(Store(tmp_path)).gpu_hours
    assert took == pytest.approx(40 * INPUT_HOURS, rel=0.02)
    outcome = build_within(recipe(), tmp_path, took + 5 * INPUT_HOURS, engine=Metered())
    assert 40 <= outcome.inputs <= 45


def test_hours_are_counted_from_when_the_gpus_are_there_and_with_their_number():
    now = [100.0]
    meter = Meter(lambda: now[0])
    assert meter.read().gpu_hours == 0
    meter.tick(2)
    now[0] += 3600
    meter.tick(4)
    now[0] += 1800
    assert meter.read().hours == pytest.approx(1.5)
    assert meter.read().gpu_hours == pytest.approx(2 + 2)
