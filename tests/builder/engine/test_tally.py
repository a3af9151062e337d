"""What an engine knows of costs: guesses by kind, what a run has measured before, and what it measures itself."""

import pyarrow as pa
import pytest

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.costs.measured import measured_of
from cyclepref.builder.engine.crew_state import ROW_S
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.engine.flow import Flow
from cyclepref.builder.engine.plan import Cluster
from cyclepref.builder.engine.tally import Tally
from cyclepref.builder.engine.task import Done, key_of
from cyclepref.schemas.resolved import Resolved

NAMES = ("sdxl", "llava-1.5-7b", "dinov2-base")
MODELS = [Resolved(CATALOG[name], {"name": name}) for name in NAMES]


def seconds_a_row(engine: Engine, gpus: int) -> list[float]:
    """By which a schedule begins."""
    vars(engine)["cluster"] = Cluster(8, gpus)
    engine.expect(model.spec for model in MODELS)
    schedule = engine._scheduled(Flow([]))
    return [schedule.models[key_of(model.spec)].row_s for model in MODELS]


def test_on_gpus_a_schedule_begins_with_guesses_by_kind_and_without_with_equal_ones():
    assert seconds_a_row(Engine(), 4) == [3.0, 0.3, 0.02]
    assert seconds_a_row(Engine(), 0) == [ROW_S] * 3


def test_what_an_earlier_build_measured_is_known_to_the_schedule():
    told = {"device": "NVIDIA L4", "rows": 10, "seconds": 250.0, "loads": 1, "load_s": 44.0}
    before = measured_of(MODELS[0], told)
    engine = Engine()
    engine.know(MODELS, {before.key: before})
    assert seconds_a_row(engine, 1) == [25.0, 0.3, 0.02]
    assert engine._scheduled(Flow([])).models[key_of(MODELS[0].spec)].load_s == 44.0


def done(rows: int, seconds: float) -> Done:
    return Done(pa.table({"done": [rows]}), rows, seconds, device="NVIDIA H100 80GB HBM3")


def test_short_batches_count_as_whole_ones_and_first_blocks_only_where_there_are_no_others():
    tally = Tally()
    assert tally.take("m") is None
    tally.loaded("m", 30.0)
    assert tally.take("m") is None, "nothing was made"
    tally.took("a", "m", 8, done(8, 90.0))
    tally.took("a", "m", 8, done(8, 0.0))
    assert tally.take("m") == {
        "device": "NVIDIA H100 80GB HBM3", "rows": 8, "seconds": 90.0, "loads": 1, "load_s": 30.0,
    }  # fmt: skip
    assert tally.take("m") is None, "it was told"
    tally.loaded("m", 20.0)
    tally.took("b", "m", 8, done(8, 70.0))
    tally.took("a", "m", 8, done(16, 16.0))
    tally.took("b", "m", 8, done(3, 8.0))
    told = tally.take("m")
    assert (told["rows"], told["seconds"]) == (24, 24.0)
    assert (told["loads"], told["load_s"]) == (1, 20.0)


@pytest.mark.usefixtures("ray_local")
def test_a_meter_counts_from_when_the_cluster_is_there():
    with Engine() as engine:
        assert engine.meter.read().hours == 0
        assert engine.cluster.gpus == 0
        assert engine.meter.read().hours > 0
        assert engine.meter.read().gpu_hours == 0
