"""Whole builds with several metrics and reconstructions, through real Ray: a DINOv2 beside LPIPS, and their mix."""

import json
from pathlib import Path

import datasets
import pytest
import torch
from inline_builds import InlineEngine
from transformers import Dinov2Config, Dinov2Model, ViTImageProcessor

from cyclepref.builder.build import build
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.run.store import Store
from cyclepref.builder.shapeworld import render, scenes
from cyclepref.schemas.recipe import Recipe, RecipeError, parse_recipe

pytestmark = pytest.mark.usefixtures("ray_local")

RULE = {"min_margin": 0.0, "poor_chosen": None}


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("dinov2")
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32, "patch_size": 8}
    Dinov2Model(Dinov2Config(**sizes)).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for at, scene in enumerate(scenes.sample_scenes(3, seed=3, held_out=True)):
        render.render(scene, at).save(folder / f"{at}.png")
    return folder


@pytest.fixture(scope="module")
def recipe(photos, backbone):
    """A recipe by one metric, or with the backbone as a second one and the pairs that are given."""

    def make(**pairs) -> Recipe:
        lpips = {"metric": "lpips-shapeworld", "name": "lpips"}
        metrics = {"metrics": [lpips, {"metric": str(backbone), "name": "dino"}]} if pairs else {"metric": lpips}
        sampled = {"model": "shapeworld-blip-early", "samples": 3, "settings": {"temperature": 2.0}}
        return parse_recipe(
            {
                "name": "test",
                "cycle": "i2t2i",
                "inputs": {"source": "images", "path": str(photos)},
                "forward": [sampled],
                "backward": {"model": "shapeworld-sd3", "samples": 2, "settings": {"steps": 2}},
                **metrics,
                "pairs": {**RULE, **pairs},
                "max_failure_rate": 0.4,
            }
        )

    return make


@pytest.fixture(scope="module")
def runs(recipe, engine, tmp_path_factory) -> tuple[Path, dict, bytes, dict]:
    """A run by one metric and the bytes of its pairs, and what became of it when a second metric was added: on Ray,
    where the first was made in this process, sooner.
    """
    out = tmp_path_factory.mktemp("run")
    first = build(recipe(), out, engine=InlineEngine())
    pairs = (out / "pairs" / "part-0.parquet").read_bytes()
    return out, first, pairs, build(recipe(by="lpips"), out, engine=engine)


def test_a_metric_that_is_added_to_a_finished_run_is_all_that_is_computed(runs):
    out, first, pairs, second = runs
    counts = second["counts"]
    for stage in ("candidates", "reconstructions"):
        assert all(count["reused"] == count["ok"] for count in counts[stage].values())
    lpips, dino = counts["scores"]["lpips"], counts["scores"]["dino"]
    assert lpips["reused"] == lpips["ok"] == first["counts"]["scores"]["lpips"]["ok"] == dino["ok"]
    assert dino["reused"] == 0
    # The metric that decides is the same, and so are the pairs.
    assert (out / "pairs" / "part-0.parquet").read_bytes() == pairs


def test_every_candidate_has_a_score_by_every_metric_within_its_range(runs):
    rows = Store(runs[0]).read_view("scores").to_pylist()
    by_metric = {name: {r["generation_id"]: r for r in rows if r["metric"] == name} for name in ("lpips", "dino")}
    assert by_metric["lpips"].keys() == by_metric["dino"].keys()
    assert all(row["n"] == 2 for row in rows)
    assert all(0 <= row["value"] <= 10 for row in by_metric["lpips"].values())
    assert all(-1 <= row["value"] <= 1 for row in by_metric["dino"].values())


@pytest.mark.parametrize("scale", ["constants", "rank"])
def test_a_mix_decides_pairs_without_a_model_and_is_published_with_its_metrics(runs, recipe, scale, tmp_path):
    out, engine = runs[0], Engine()
    report = build(recipe(mix={"lpips": 0.4, "dino": 0.6}, scale=scale), out, engine=engine)
    assert "cluster" not in vars(engine)
    scores = {(r["generation_id"], r["metric"]): r["value"] for r in Store(out).read_view("scores").to_pylist()}
    rankings = datasets.load_dataset(str(out / "dataset"), cache_dir=str(tmp_path))
    candidates = [candidate for split in rankings.values() for row in split for candidate in row["candidates"]]
    for candidate in candidates:
        every = {score["metric"]: score["value"] for score in candidate["scores"]}
        assert every.keys() == {"lpips", "dino", "mix"}
        assert candidate["score"] == every["mix"] == scores[candidate["generation_id"], "mix"]
        if scale == "constants":
            assert every["mix"] == pytest.approx(0.4 * (10 - every["lpips"]) / 10 + 0.6 * (every["dino"] + 1) / 2)
    pairs = Store(out).read_view("pairs").to_pylist()
    assert len(pairs) == report["counts"]["pairs"]["kept"] > 0
    assert all(row["metric"] == "mix" and row["chosen_score"] > row["rejected_score"] for row in pairs)
    text = (out / "dataset" / "README.md").read_text()
    assert "Pairs are decided by a mix, higher is better: dino 0.6, lpips 0.4" in text


def test_margins_within_the_backward_models_noise_are_left_out_and_counted(runs, recipe):
    out = runs[0]
    every = build(recipe(by="lpips"), out)["counts"]["pairs"]
    some = build(recipe(by="lpips", min_margin_sd=1000.0), out)["counts"]["pairs"]
    assert 0 < some["within_noise"] == every["kept"] - some["kept"]
    assert "1000 paired standard errors" in (out / "dataset" / "README.md").read_text()
    assert json.loads((out / "run.json").read_text())["counts"]["pairs"]["within_noise"] == some["within_noise"]


def test_two_names_for_one_metric_are_refused(recipe, tmp_path):
    twice = [{"metric": "lpips-shapeworld"}, {"metric": "lpips-shapeworld", "name": "again"}]
    content = {**recipe().model_dump(mode="json"), "metric": None, "metrics": twice, "pairs": {**RULE, "by": "again"}}
    with pytest.raises(RecipeError, match="one model with equal settings as lpips-shapeworld and as again"):
        build(parse_recipe(content), tmp_path / "run")
