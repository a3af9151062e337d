"""Whole builds by metrics that hold candidates against their inputs: no reconstruction is made for them, and beside a
metric that needs one they mix."""

import json
from pathlib import Path

import pytest
from inline_builds import InlineEngine

from cyclepref.builder.build import build
from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.catalog.resolve import metric_spec
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.run.content import content_by_id
from cyclepref.builder.run.store import Store
from cyclepref.schemas.recipe import MetricChoice, ModelChoice, Recipe, RecipeError, parse_recipe

pytestmark = pytest.mark.usefixtures("ray_local")

DIRECT = {"i2t2i": "denoising-loss", "t2i2t": "backward-likelihood"}
CYCLIC = {"i2t2i": "lpips-shapeworld", "t2i2t": "sbert"}
FORWARD = {
    "i2t2i": {"model": "shapeworld-blip-early", "samples": 3, "settings": {"temperature": 2.0}},
    "t2i2t": {"model": "shapeworld-sd3-early", "samples": 3, "settings": {"steps": 3}},
}
BACKWARD = {
    "i2t2i": {"model": "shapeworld-sd3", "samples": 2, "settings": {"steps": 2}},
    "t2i2t": {"model": "shapeworld-llava", "samples": 2, "settings": {"temperature": 1.0}},
}


def recipe(cycle: str, both: bool = False, **pairs) -> Recipe:
    """By the direct metric alone, or mixed with the metric of reconstructions."""
    names = [
        {"metric": DIRECT[cycle], "name": "direct"},
        *([{"metric": CYCLIC[cycle], "name": "cyclic"}] if both else []),
    ]
    mix = {"mix": {"direct": 0.5, "cyclic": 0.5}, "scale": "constants"} if both else {}
    return parse_recipe(
        {
            "name": "direct", "cycle": cycle, "inputs": {"source": "shapeworld", "limit": 3, "seed": 5},
            "forward": [FORWARD[cycle]], "backward": BACKWARD[cycle], "metrics": names,
            "pairs": {"min_margin": 0.0, **mix, **pairs},
        }
    )  # fmt: skip


@pytest.mark.parametrize("cycle", DIRECT)
def test_a_build_by_a_direct_metric_makes_no_reconstruction_and_can_be_mixed_later(cycle, engine, tmp_path):
    told = build(recipe(cycle), tmp_path, engine=engine)
    candidates = told["counts"]["candidates"][FORWARD[cycle]["model"]]["ok"]
    assert candidates == 9
    assert told["counts"]["reconstructions"] == {}
    scores = Store(tmp_path).read_view("scores").to_pylist()
    assert (told["counts"]["scores"]["direct"]["wanted"], len(scores)) == (len({s["generation_id"] for s in scores}), 9)
    assert {row["n"] for row in scores} == {1}
    assert_scored_as_the_metric_says(cycle, tmp_path, scores)
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "; of a candidate itself." in card
    assert "turned back" not in card
    again = build(recipe(cycle), tmp_path, engine=engine)
    assert again["counts"]["scores"]["direct"]["reused"] == again["counts"]["scores"]["direct"]["ok"]

    mixed = build(recipe(cycle, both=True), tmp_path, engine=InlineEngine())
    assert mixed["counts"]["scores"]["direct"]["reused"] == mixed["counts"]["scores"]["direct"]["ok"]
    by_metric = {}
    for row in Store(tmp_path).read_view("scores").to_pylist():
        by_metric.setdefault(row["metric"], {})[row["generation_id"]] = row
    assert {name: len(rows) for name, rows in by_metric.items()} == {"direct": 9, "cyclic": 9, "mix": 9}
    assert {row["n"] for row in by_metric["mix"].values()} == {2}
    for id_, row in by_metric["mix"].items():
        parts = [
            place(cycle, name, by_metric[kind][id_]["value"]) for kind, name in (("direct", DIRECT), ("cyclic", CYCLIC))
        ]
        assert row["value"] == pytest.approx(sum(parts) / 2)


def place(cycle: str, names: dict[str, str], value: float) -> float:
    spec = CATALOG[names[cycle]]
    return (value - spec.low if spec.higher_is_better else spec.high - value) / (spec.high - spec.low)


def assert_scored_as_the_metric_says(cycle: str, out: Path, scores: list[dict]) -> None:
    store = Store(out)
    choice = ModelChoice.model_validate(BACKWARD[cycle])
    metric = load_metric(metric_spec(MetricChoice(metric=DIRECT[cycle]), recipe(cycle).shape.input, choice))
    inputs = content_by_id(store, "inputs", "input_id", [row["input_id"] for row in scores])
    made = content_by_id(store, "generations", "generation_id", [row["generation_id"] for row in scores])
    values = metric.compare([inputs[r["input_id"]] for r in scores], [made[r["generation_id"]] for r in scores])
    assert [row["value"] for row in scores] == pytest.approx(values, abs=1e-5)


def test_how_the_backward_model_samples_does_not_change_what_a_direct_metric_says():
    choice = MetricChoice(metric="backward-likelihood")
    greedy, sampled, other = (
        metric_spec(choice, "text", ModelChoice(model=model, settings=settings)).identity()
        for model, settings in (
            ("shapeworld-llava", {}), ("shapeworld-llava", {"temperature": 1.0}), ("shapeworld-blip", {}),
        )
    )  # fmt: skip
    assert greedy == sampled != other
    assert json.loads(json.dumps(greedy)) == greedy


def test_a_direct_metric_can_name_a_model_of_its_own():
    named = {"model": {"model": "shapeworld-blip", "settings": {"batch_size": 7}}}
    spec = metric_spec(MetricChoice(metric="backward-likelihood", settings=named), "text", ModelChoice(model="x/y"))
    assert (spec.model.name, spec.batch_size) == ("shapeworld-blip", 7)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"model": "shapeworld-sd3"}, r"shapeworld-sd3 is a text-to-image model, but this place needs a captioner"),
        ({"model": "openai-endpoint"}, r"needs base_url and served_model"),
        ({"model": {"name": "x"}}, r"settings\.model\.model: missing|settings\.model\.model"),
        ({"repo": "org/name"}, r"belongs to the model and cannot be set|unknown setting"),
    ],
)
def test_a_wrong_model_of_a_direct_metric_is_told(settings, told):
    with pytest.raises(RecipeError, match=told):
        metric_spec(MetricChoice(metric="backward-likelihood", settings=settings), "text", None)


def test_an_endpoint_gives_no_likelihoods():
    served = {"model": "openai-endpoint", "settings": {"base_url": "http://localhost:1/v1", "served_model": "m"}}
    with pytest.raises(RecipeError, match=r"needs a model that this build loads, and openai-endpoint runs on a server"):
        metric_spec(MetricChoice(metric="backward-likelihood"), "text", ModelChoice.model_validate(served))


def test_a_margin_in_standard_errors_needs_a_metric_that_has_them(tmp_path):
    of = recipe("t2i2t", min_margin_sd=1.0)
    with pytest.raises(RecipeError, match=r"min_margin_sd: direct gives a candidate one score and no error of it"):
        build(of, tmp_path, engine=InlineEngine())
