"""A plan says what a build will take: rows, what is there already, fit, waves, hours, disk and money."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from inline_builds import InlineEngine, hashed_models, small_recipe  # noqa: F401

from cyclepref.builder.build import build
from cyclepref.builder.costs.gpus import UnknownGpu
from cyclepref.builder.costs.rates import Rate
from cyclepref.builder.engine.plan import Cluster
from cyclepref.builder.planning.hardware import Hardware, hardware
from cyclepref.builder.planning.plan import plan
from cyclepref.builder.planning.rows import Part
from cyclepref.builder.planning.waves import waves
from cyclepref.builder.run.store import Store
from cyclepref.jobs.recipe_names import shipped_recipes
from cyclepref.schemas.recipe import RecipeError, load_recipe
from cyclepref.schemas.specs import CaptionerSpec

CPU = Hardware(None, 0, 2)


def shipped(name: str, **changes):
    return load_recipe(shipped_recipes("build")[name], changes)


def test_rows_are_those_that_the_recipe_asks_for():
    made = plan(shipped("better_t2i"), hardware(8, "H100"), inputs=100)
    assert [line.part.wanted for line in made.of_stage("candidates")] == [200] * 6
    [back] = made.of_stage("reconstructions")
    assert back.part.wanted == 100 * 12 * 2
    [score] = made.of_stage("scores")
    assert score.part.wanted == 2400
    assert made.cluster.gpus == 8


@pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
@pytest.mark.usefixtures("hashed_models")
def test_what_a_run_has_is_not_planned_again(cycle, tmp_path):
    recipe, longer = small_recipe(cycle, limit=5), small_recipe(cycle, limit=9, third=True)
    nothing = plan(recipe, CPU, Store(tmp_path))
    assert {line.part.there for line in nothing.lines} == {0}
    run = build(recipe, tmp_path, engine=InlineEngine())
    done = plan(recipe, CPU, Store(tmp_path))
    assert {line.part.left for line in done.lines} == {0}
    assert done.hours == 0
    assert done.pools == []
    more = {line.part.model: line.part for line in plan(longer, CPU, Store(tmp_path)).lines}
    assert more["third"].there == 0
    assert more["third"].left == 9
    for stage in ("candidates", "reconstructions", "scores"):
        for model, count in run["counts"][stage].items():
            assert more[model].there == count["ok"]
    assert more[recipe.forward[0].label].left == 4


@pytest.mark.usefixtures("hashed_models")
def test_a_plan_changes_nothing_in_a_run(tmp_path):
    build(small_recipe(), tmp_path, engine=InlineEngine())
    before = {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))}
    plan(small_recipe(limit=9), CPU, Store(tmp_path))
    assert {path: path.stat().st_mtime_ns for path in sorted(tmp_path.rglob("*"))} == before


@pytest.mark.usefixtures("hashed_models")
def test_a_metric_of_candidates_needs_no_reconstructions_and_costs_by_its_model():
    alone = plan(small_recipe("t2i2t", metric={"metric": "backward-likelihood"}), CPU, inputs=50)
    assert alone.of_stage("reconstructions") == []
    [score] = alone.of_stage("scores")
    assert score.part.wanted == 100
    assert score.rate.why == "its parameters and tokens"
    metrics = [{"metric": "backward-likelihood"}, {"metric": "sbert"}]
    pairs = {"min_margin": 0.0, "by": "sbert"}
    both = plan(small_recipe("t2i2t", metric=None, metrics=metrics, pairs=pairs), CPU, inputs=50)
    assert [line.part.wanted for line in both.of_stage("reconstructions")] == [100]
    assert [line.part.wanted for line in both.of_stage("scores")] == [100, 100]
    assert both.hours > 0


def test_a_model_that_does_not_fit_its_gpu_is_a_fault_with_ways_out():
    made = plan(shipped("better_i2t"), hardware(1, "L4"), inputs=10)
    [fault] = made.faults
    assert fault.startswith("stabilityai/stable-diffusion-3.5-large: needs about 33.1 GB of each GPU in bfloat16")
    assert "one L4 has 24: set cpu_offload: model in its settings" in fault
    [line] = made.of_stage("reconstructions")
    assert line.fit.wrong
    fits = plan(shipped("better_i2t"), hardware(1, "A100-40G"), inputs=10)
    assert fits.faults == []


def test_a_type_without_bfloat16_is_a_fault_of_those_that_need_it():
    made = plan(shipped("cycleprefdb_t2i"), hardware(1, "V100-32G"), inputs=10)
    assert any("FLUX.1-schnell: the V100-32G has no bfloat16: set dtype to float16" in fault for fault in made.faults)
    assert not any(fault.startswith("stabilityai/stable-diffusion-xl") for fault in made.faults)


def test_a_model_that_needs_more_gpus_than_a_node_has_is_a_fault_and_no_crash():
    recipe = shipped("cycleprefdb_i2t", **{"forward.0.settings.num_gpus": 2})
    made = plan(recipe, hardware(1, "H100"), inputs=10)
    assert any("needs 2 GPUs on one node" in fault for fault in made.faults)


def test_twice_the_gpus_take_about_half_the_time_for_the_same_gpu_hours():
    one, two = (plan(shipped("cycleprefdb_i2t"), hardware(gpus, "H200"), inputs=2000) for gpus in (4, 8))
    assert one.hours / two.hours == pytest.approx(2, rel=0.15)
    assert two.busy == one.busy
    assert two.billed >= two.busy[0]
    # The first reconstructions need candidates of every captioner, and the last scores come last.
    assert two.ended["candidates"] < two.ended["reconstructions"] <= two.ended["scores"] == two.hours


def test_money_and_budget_go_by_the_hours_that_are_billed():
    made = plan(shipped("better_t2i"), hardware(8, "H100"), inputs=1000, price_per_hour=2.5, budget_hours=3)
    assert made.money == pytest.approx(2.5 * 8 * made.hours)
    assert made.inputs_in_budget == int(1000 * 3 / made.billed)
    told = json.loads(json.dumps(made.to_dict()))
    assert told["unit"] == "GPU hours"
    assert told["inputs_in_budget"] == made.inputs_in_budget


def test_the_largest_uncertainty_is_named_and_every_assumption_is_told():
    made = plan(shipped("better_i2t"), hardware(8, "H100"), inputs=7600)
    assert made.uncertainty.startswith("stabilityai/stable-diffusion-3.5-large (reconstructions): 268 of 277 GPU hours")
    told = "\n".join(made.assumptions)
    for part in ("989 TFLOPS", "max_new_tokens", "step_tflop", "no two candidates share"):
        assert part in told
    about, low, high = made.busy
    assert low < about < high


def test_a_name_of_no_model_is_refused():
    recipe = small_recipe(backward={"model": "shapeworld-sd33"})
    with pytest.raises(RecipeError, match="did you mean 'shapeworld-sd3'"):
        plan(recipe, CPU, inputs=4)


def test_gpus_without_a_type_are_asked_for_where_there_are_none(monkeypatch):
    monkeypatch.setattr("cyclepref.builder.planning.hardware.cards_here", list)
    with pytest.raises(UnknownGpu, match=r"4 GPUs of which type\? .* add --gpu-type"):
        hardware(4)
    assert hardware().gpu is None
    assert hardware(0, "H100").cluster.gpus == 0


@settings(max_examples=25)
@given(
    st.lists(st.tuples(st.integers(0, 3000), st.floats(0.01, 5)), min_size=1, max_size=4),
    st.integers(0, 9000),
    st.integers(1, 20),
)
def test_a_simulated_build_does_all_rows_and_takes_no_less_than_its_work(forward, back, gpus):
    parts, rates = [], {}
    for stage, name, rows, seconds in [
        *(("candidates", f"m{at}", rows, seconds) for at, (rows, seconds) in enumerate(forward)),
        ("reconstructions", "back", back, 1.0),
        ("scores", "metric", back, 0.01),
    ]:
        share = 0.1 if stage == "scores" else 1
        parts.append(Part(stage, name, CaptionerSpec(name=name, repo="o/m", num_gpus=share), rows, 0))
        rates[name] = Rate(seconds, 20.0, "told", 2)
    went = waves(parts, rates, Cluster(12 * gpus, gpus))
    work = sum(part.left * rates[part.model].row_s * part.spec.num_gpus for part in parts)
    assert went.seconds >= work / gpus * 0.999
    assert set(went.ended) == {part.stage for part in parts if part.left}
    assert all(pool.hosts * pool.num_gpus <= gpus + 1e-6 for pool in went.pools)
    assert all(0 <= pool.begins <= pool.ends <= went.seconds + 1e-6 for pool in went.pools)
