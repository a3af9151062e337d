"""What is assumed of a row: more work takes longer, faster GPUs take less, and what a user states is believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.costs.gpus import GPUS
from cyclepref.builder.costs.rates import BY_KIND, assumed, by_kind
from cyclepref.schemas.specs import MetricSpec

NAMES = [name for name, spec in CATALOG.items() if "shapeworld" not in name]


@given(st.sampled_from(NAMES), st.sampled_from(list(GPUS)))
def test_every_model_of_the_catalog_has_a_price_on_every_gpu(name, gpu):
    rate = assumed(CATALOG[name], GPUS[gpu])
    assert 0 < rate.row_s < 3600
    assert rate.load_s > 0
    assert rate.factor > 1
    assert rate.why


@given(st.sampled_from(NAMES))
def test_a_gpu_that_is_faster_in_everything_makes_no_row_slower(name):
    order = [GPUS["T4"], GPUS["A100-40G"], GPUS["H100"], GPUS["B200"]]
    seconds = [assumed(CATALOG[name], gpu).row_s for gpu in order]
    assert seconds == sorted(seconds, reverse=True)


@given(st.integers(1, 100), st.sampled_from([256, 512, 1024]))
def test_painting_costs_by_steps_and_pixels(steps, size):
    def seconds(steps, size):
        spec = CATALOG["sdxl"].model_copy(update={"steps": steps, "width": size, "height": size})
        return assumed(spec, GPUS["H100"]).row_s

    assert seconds(steps + 1, size) > seconds(steps, size)
    assert seconds(steps, size * 2) > 1.5 * seconds(steps, size)


def test_longer_captions_and_smaller_batches_cost_more():
    base = CATALOG["llava-1.5-7b"]
    longer, alone = base.model_copy(update={"max_new_tokens": 256}), base.model_copy(update={"batch_size": 1})
    cost = assumed(base, GPUS["H100"]).row_s
    assert assumed(longer, GPUS["H100"]).row_s > 1.5 * cost
    assert assumed(alone, GPUS["H100"]).row_s > 5 * cost


def test_what_a_user_states_is_believed_and_scaled_to_another_type():
    spec = CATALOG["sdxl"].model_copy(update={"rows_a_second": {"H100": 0.5}})
    assert assumed(spec, GPUS["H100"]).row_s == 2
    assert assumed(spec, GPUS["H100"]).why == "stated for a H100"
    slower = assumed(spec, GPUS["A100-80G"])
    assert slower.row_s == pytest.approx(2 * 989 / 312)
    assert slower.factor > assumed(spec, GPUS["H100"]).factor


def test_a_kind_alone_orders_models_as_they_cost():
    kinds = {name: by_kind(CATALOG[name]) for name in ("sdxl", "llava-1.5-7b", "sbert")}
    assert kinds["sdxl"] > kinds["llava-1.5-7b"] > kinds["sbert"]
    assert all(by_kind(spec) in BY_KIND.values() for spec in CATALOG.values())
    assert all(by_kind(spec) == BY_KIND["metric"] for spec in CATALOG.values() if isinstance(spec, MetricSpec))
