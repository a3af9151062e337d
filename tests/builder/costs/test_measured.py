"""What was measured is kept by model, device and settings, added up, and used in the place of what is assumed."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.costs.measured import CPU, FILE, REMEMBERED, Measured, keep, kept, measured_of, rates
from cyclepref.builder.run.folder import StoreError
from cyclepref.builder.run.store import Store
from cyclepref.schemas.resolved import Resolved

MODEL = Resolved(CATALOG["sdxl"], {"name": "sdxl"})


def told(rows: int = 40, seconds: float = 80.0, device: str = "NVIDIA H100 80GB HBM3") -> dict:
    return {"device": device, "rows": rows, "seconds": seconds, "loads": 1, "load_s": 33.0}


def test_a_measurement_replaces_what_is_assumed_on_its_device_with_its_settings_alone(tmp_path):
    keep(Store(tmp_path), [measured_of(MODEL, told())])
    rate = rates(Store(tmp_path), {"sdxl": MODEL}, "H100")["sdxl"]
    assert (rate.row_s, rate.load_s) == (2.0, 33.0)
    assert rate.why == "measured, 40 rows on H100"
    assert rates(Store(tmp_path), {"sdxl": MODEL}, "L4") == {}
    other = Resolved(MODEL.spec.model_copy(update={"batch_size": 1}), MODEL.identity)
    assert rates(Store(tmp_path), {"sdxl": other}, "H100") == {}
    slower = Resolved(MODEL.spec, {"name": "sdxl", "steps": 99})
    assert rates(Store(tmp_path), {"sdxl": slower}, "H100") == {}


def test_without_a_gpu_the_share_of_one_is_no_setting(tmp_path):
    keep(Store(tmp_path), [measured_of(MODEL, told(device=CPU))])
    more = Resolved(MODEL.spec.model_copy(update={"num_gpus": 2}), MODEL.identity)
    assert rates(Store(tmp_path), {"sdxl": more}, CPU)["sdxl"].row_s == 2


@given(st.lists(st.tuples(st.integers(1, 9000), st.floats(0.01, 10)), min_size=1, max_size=6))
def test_a_rate_lies_between_those_that_were_measured_and_the_latest_counts(tmp_path_factory, measured):
    store = Store(tmp_path_factory.mktemp("costs"))
    for rows, row_s in measured:
        keep(store, [measured_of(MODEL, told(rows, rows * row_s))])
    [found] = kept(store).values()
    speeds = [row_s for _, row_s in measured]
    assert min(speeds) * 0.99 <= found.rate.row_s <= max(speeds) * 1.01
    assert found.rows <= REMEMBERED + measured[-1][0] + 1
    assert found.loads == len(measured)
    assert found.rate.factor < 2.1


def test_nothing_new_writes_nothing(tmp_path):
    keep(Store(tmp_path), [])
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"measured": [{"model": "a"}]}, "measured.0.*remove it: costs are assumed until the next build measures them"),
        ({}, "measured.*remove it"),
        ([], "must hold an object"),
    ],
)
def test_a_file_of_costs_that_is_damaged_is_told_with_the_way_out(tmp_path, content, message):
    Path(tmp_path, FILE).write_text(json.dumps(content))
    with pytest.raises(StoreError, match=message):
        kept(Store(tmp_path))


def test_few_rows_are_less_sure_than_many():
    few, many = (Measured("m", "f", "H100", 4, 1, rows, rows * 2.0).rate.factor for rows in (4, 64))
    assert few > many
