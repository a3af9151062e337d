"""A calibration is a real build whose measured rows replace assumptions; the large build has its rows already."""

import pytest

from cyclepref.builder.build import build
from cyclepref.builder.costs.measured import kept
from cyclepref.builder.costs.spent import spent
from cyclepref.builder.planning.budget import build_within
from cyclepref.builder.planning.calibrate import calibrate
from cyclepref.builder.planning.hardware import Hardware
from cyclepref.builder.planning.plan import plan
from cyclepref.builder.run.store import Store
from cyclepref.jobs.cli import main
from cyclepref.schemas.recipe import parse_recipe

RECIPE = {
    "name": "mine",
    "cycle": "i2t2i",
    "inputs": {"source": "shapeworld", "limit": 40},
    "forward": [{"model": "shapeworld-blip"}, {"model": "shapeworld-llava"}],
    "backward": {"model": "shapeworld-sd3", "settings": {"steps": 1}},
    "metric": {"metric": "lpips-shapeworld"},
    "pairs": {"min_margin": 0.0},
}
CPU = Hardware(None, 0, 2)


@pytest.mark.usefixtures("ray_local")
def test_a_plan_reckons_with_what_a_calibration_measured(tmp_path, engine):
    recipe, out = parse_recipe(RECIPE), Store(tmp_path)
    before = plan(recipe, CPU, out)
    assert not any(line.rate.why.startswith("measured") for line in before.lines)
    assert calibrate(recipe, tmp_path, 4, engine) is None, "it ran on a CPU"
    after = plan(recipe, CPU, out)
    assert all(line.rate.why.startswith("measured") for line in after.lines)
    assert [line.part.there for line in after.of_stage("candidates")] == [4, 4]
    assert all(line.rate.row_s > 0 and line.rate.load_s > 0 for line in after.lines)
    assert after.hours > 0
    assert {each.model for each in kept(out).values()} == {line.part.model for line in after.lines}
    assert plan(recipe, CPU, out, inputs=1000).lines[0].rate == after.lines[0].rate, "its inputs need not be looked at"

    hours = spent(out).hours
    assert hours > 0
    run = build(recipe, tmp_path, engine=engine)
    assert run["counts"]["candidates"]["shapeworld-blip"]["reused"] == 4
    assert spent(out).hours > hours
    assert plan(recipe, CPU, out).hours == 0
    calibrate(recipe, tmp_path, 4, engine)
    assert Store(tmp_path).read_json("run.json")["counts"]["inputs"]["read"] == 40, "a dataset never becomes smaller"


@pytest.mark.usefixtures("ray_local")
def test_a_budget_that_is_used_up_stops_real_hosts_in_good_order(tmp_path, engine):
    recipe = parse_recipe({**RECIPE, "inputs": {"source": "shapeworld", "limit": 4000}})
    # Twelve seconds, and then what is in flight.
    outcome = build_within(recipe, tmp_path, 12 / 3600, engine=engine)
    assert not outcome.finished
    assert outcome.unit == "hours"
    assert outcome.spent >= (0 if outcome.run else 12 / 3600)
    assert len(Store(tmp_path).ids("generations")) > 0
    assert Store(tmp_path).names("store/attempts/candidates") == []


def test_a_calibration_needs_a_run_directory(capsys):
    assert main(["plan", "shapeworld_i2t2i", "--calibrate", "4"]) == 1
    assert "--calibrate makes real rows, which a run directory keeps: add --out DIR" in capsys.readouterr().err
