"""Whole builds through real Ray with the shipped models: accounting, resuming, order, tracing, splits."""

import json
import os
import shutil
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from cyclepref.builder.build import build
from cyclepref.builder.dataset.views import split_of
from cyclepref.builder.engine.cluster import EngineError
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.run.store import Store
from cyclepref.builder.shapeworld import render, scenes
from cyclepref.builder.shapeworld.models import WEIGHTS
from cyclepref.builder.sources.open import open_source
from cyclepref.builder.stages import load_check
from cyclepref.builder.stages.accounting import BuildError
from cyclepref.builder.stages.ingest import item_rows
from cyclepref.schemas.ids import fingerprint, generation_id, sample_seed
from cyclepref.schemas.recipe import Recipe, RecipeError, Splits, parse_recipe
from cyclepref.schemas.sources import ImageFolder

pytestmark = pytest.mark.usefixtures("ray_local")

FAST = {"steps": 2}


def image_recipe(folder: Path, **changes) -> Recipe:
    content = {
        "name": "test",
        "cycle": "i2t2i",
        "inputs": {"source": "images", "path": str(folder)},
        "forward": [
            {"model": "shapeworld-blip"},
            {"model": "shapeworld-llava"},
            {"model": "shapeworld-blip", "name": "sampled", "samples": 2, "settings": {"temperature": 2.0}},
        ],
        "backward": {"model": "shapeworld-sd3", "settings": FAST},
        "metric": {"metric": "lpips-shapeworld"},
        "pairs": {"min_margin": 0.0, "poor_chosen": None},
        "splits": {"train": 0.5, "validation": 0.2, "test": 0.3},
        "max_failure_rate": 0.4,
    }
    return parse_recipe({**content, **changes})


def pairs_bytes(out: Path) -> bytes:
    return (out / "pairs" / "part-0.parquet").read_bytes()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Five distinct pictures, one of them twice, one broken file, and one that is no picture at all."""
    path = tmp_path_factory.mktemp("photos")
    for at, scene in enumerate(scenes.sample_scenes(5, seed=3, held_out=True)):
        render.render(scene, at).save(path / f"{at}.png")
    shutil.copy(path / "0.png", path / "again.png")
    (path / "broken.png").write_bytes((path / "1.png").read_bytes()[:80])
    (path / "empty.jpg").write_bytes(b"")
    (path / "notes.txt").write_text("not an input")
    return path


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory, engine) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("run")
    return out, build(image_recipe(folder), out, engine=engine)


def test_every_input_and_every_row_is_accounted_for(run):
    out, report = run
    inputs = report["counts"]["inputs"]
    assert inputs == {"read": 8, "unique": 5, "duplicate": 1, "failed": 2}
    for stage in ("candidates", "reconstructions", "scores"):
        for count in report["counts"][stage].values():
            assert count["wanted"] == count["ok"] + count["failed"]
    candidates = Store(out).read_view("candidates").to_pylist()
    assert len(candidates) == 5 * 4
    assert {row["status"] for row in candidates} <= {"ok", "failed"}
    assert len({row["generation_id"] for row in candidates}) == len(candidates)


def test_an_unreadable_input_is_a_failure_row_with_stage_name_and_reason(run):
    failures = [row for row in Store(run[0]).rows("failures").to_pylist() if row["stage"] == "inputs"]
    assert {row["source"] for row in failures} == {"broken.png", "empty.jpg"}
    assert all(row["error_class"] and row["message"] and row["id"] for row in failures)


def test_a_finished_run_is_a_no_op_that_starts_no_cluster(run, folder):
    out, before = run
    parts = sorted(path.name for path in (out / "store").rglob("*.parquet"))
    engine = Engine()
    after = build(image_recipe(folder), out, engine=engine)
    assert "cluster" not in vars(engine)
    assert parts == sorted(path.name for path in (out / "store").rglob("*.parquet"))
    assert all(count["reused"] == count["ok"] for count in after["counts"]["candidates"].values())
    assert after["counts"]["dataset"] == before["counts"]["dataset"]


@pytest.mark.slow  # test_determinism asks the same of a smaller build
def test_permuting_inputs_and_models_changes_no_pair(run, folder, tmp_path, engine):
    renamed = tmp_path / "photos"
    renamed.mkdir()
    for path in folder.glob("*.png"):
        shutil.copy(path, renamed / f"{'zyxwvutsrq'[ord(path.stem[0]) % 10]}_{path.name}")
    recipe = image_recipe(renamed)
    recipe = recipe.model_copy(update={"forward": recipe.forward[::-1]})
    build(recipe, tmp_path / "run", engine=engine)
    assert pairs_bytes(tmp_path / "run") == pairs_bytes(run[0])


def test_what_is_lost_is_made_again_just_as_it_was(run, folder, tmp_path, engine):
    out = tmp_path / "run"
    shutil.copytree(run[0], out)
    for table in ("generations", "similarities"):
        sorted((out / "store" / table).iterdir())[0].unlink()
    for view in ("candidates", "scores", "pairs", "dataset"):
        shutil.rmtree(out / view)
    report = build(image_recipe(folder), out, engine=engine)
    assert pairs_bytes(out) == pairs_bytes(run[0])
    again = {stage: sum(c["ok"] - c["reused"] for c in report["counts"][stage].values()) for stage in ("scores",)}
    assert again["scores"] > 0


def test_every_candidate_can_be_traced_to_model_settings_seed_and_code(run):
    store = Store(run[0])
    models = {row["fingerprint"]: row for row in store.rows("models").to_pylist()}
    made = {row["generation_id"]: row for row in store.rows("generations").to_pylist()}
    for row in store.read_view("candidates").to_pylist():
        known = models[row["fingerprint"]]
        assert fingerprint(json.loads(known["identity"])) == row["fingerprint"]
        seed = sample_seed(0, row["input_id"], row["sample_index"], "forward") if row["model"] == "sampled" else None
        assert row["seed"] == seed
        assert row["generation_id"] == generation_id(row["input_id"], row["fingerprint"], seed)
        assert row["status"] == "failed" or made[row["generation_id"]]["code_version"]


def test_reconstructions_of_one_input_share_their_seed(run):
    store = Store(run[0])
    candidates = store.read_view("candidates").to_pylist()
    seeds: dict[str, set] = {}
    for row in store.rows("generations").to_pylist():
        for candidate in candidates:
            if row["source_id"] == candidate["content_id"] and row["model"] == "shapeworld-sd3":
                seeds.setdefault(candidate["input_id"], set()).add(row["seed"])
    expected = {row["input_id"]: sample_seed(0, row["input_id"], 0, "backward") for row in candidates}
    assert all(expected[input_] in found for input_, found in seeds.items())


def test_the_dataset_opens_plainly_holds_each_image_once_and_splits_by_input(run):
    out, report = run
    rankings = datasets.load_dataset(str(out / "dataset"), cache_dir=str(out / "cache"))
    pairs = datasets.load_dataset(str(out / "dataset"), "pairs", cache_dir=str(out / "cache"))
    inputs = [row["input_id"] for split in rankings.values() for row in split]
    assert len(inputs) == len(set(inputs)) == 5
    splits = Splits(train=0.5, validation=0.2, test=0.3)
    for name, split in rankings.items():
        assert all(split_of(row["input_id"], splits) == name for row in split)
        ids = {candidate["generation_id"] for row in split for candidate in row["candidates"]}
        for pair in pairs.get(name, ()):
            assert {pair["chosen_id"], pair["rejected_id"]} <= ids
    assert sum(len(split) for split in pairs.values()) == report["counts"]["pairs"]["kept"]


def test_too_many_failures_stop_the_run_with_the_most_frequent_reasons(folder, tmp_path, engine):
    with pytest.raises(BuildError, match=r"(?s)inputs: image: \d of 8 rows failed.*UnreadableImage.*--retry-failed"):
        build(image_recipe(folder, max_failure_rate=0.1), tmp_path / "run", engine=engine)


@pytest.mark.slow  # test_demo goes round this cycle, test_sources reads blank lines
def test_a_prompt_file_goes_round_the_other_cycle_and_its_blank_line_is_left_out(tmp_path, engine):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("two red circles on a white background\n\none blue star on a black background\n")
    recipe = parse_recipe(
        {
            "name": "test",
            "cycle": "t2i2t",
            "inputs": {"source": "prompts", "path": str(prompts)},
            "forward": [
                {"model": "shapeworld-sd", "samples": 2, "settings": FAST},
                {"model": "shapeworld-sd3", "settings": FAST},
            ],
            "backward": {"model": "shapeworld-llava"},
            "metric": {"metric": "sbert"},
            "pairs": {"min_margin": 0.0, "poor_chosen": None},
            "max_failure_rate": 0.5,
        }
    )
    report = build(recipe, tmp_path / "run", engine=engine)
    assert report["counts"]["inputs"] == {"read": 2, "unique": 2, "duplicate": 0, "failed": 0}
    assert Store(tmp_path / "run").rows("failures").num_rows == 0
    scores = pq.read_table(tmp_path / "run" / "scores").to_pylist()
    assert all(-1.001 <= row["value"] <= 1.001 and row["n"] == 1 for row in scores)


def test_a_dataset_of_another_recipe_is_replaced_even_if_the_run_file_is_older(run, folder, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(run[0], out)
    before = (out / "run.json").read_bytes()
    build(image_recipe(folder, pairs={"min_margin": 0.5, "poor_chosen": None}), out)
    (out / "run.json").write_bytes(before)  # as if that build had been killed after the dataset
    report = build(image_recipe(folder), out)
    pairs = datasets.load_dataset(str(out / "dataset"), "pairs", cache_dir=str(tmp_path / "cache"))
    assert sum(len(split) for split in pairs.values()) == report["counts"]["pairs"]["kept"]


def test_two_names_for_one_model_with_equal_settings_are_refused(folder, tmp_path):
    forward = [{"model": "shapeworld-blip"}, {"model": "shapeworld-blip", "name": "b", "settings": {"batch_size": 2}}]
    with pytest.raises(RecipeError, match="one model with equal settings as shapeworld-blip and as b"):
        build(image_recipe(folder, forward=forward), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_files_of_one_name_size_and_time_in_two_folders_are_two_inputs(tmp_path):
    for name, colour in (("a", 10), ("b", 200)):
        (tmp_path / name).mkdir()
        for at in range(2):
            path = tmp_path / name / f"{at}.bmp"
            Image.new("RGB", (64, 64), (colour, at, 0)).save(path)
            os.utime(path, (1, 1))
    keys = [
        set(item_rows(source, source.items(), "image")["source_key"].to_pylist())
        for source in (open_source(ImageFolder(source="images", path=str(tmp_path / n)), "image") for n in "ab")
    ]
    assert not keys[0] & keys[1]


def test_another_threshold_is_another_dataset_for_readers_too_and_needs_no_cluster(run, folder, tmp_path):
    """The datasets library serves its cached rows for any folder of the same name with the same card."""
    out = tmp_path / "run"
    shutil.copytree(run[0], out)
    everything = datasets.load_dataset(str(out / "dataset"), "pairs", cache_dir=str(tmp_path / "cache"))
    margins = sorted(row["margin"] for split in everything.values() for row in split)
    rule = {"min_margin": margins[len(margins) // 2], "poor_chosen": None}
    engine = Engine()
    report = build(image_recipe(folder, pairs=rule), out, engine=engine)
    assert "cluster" not in vars(engine)
    fewer = datasets.load_dataset(str(out / "dataset"), "pairs", cache_dir=str(tmp_path / "cache"))
    assert sum(len(split) for split in fewer.values()) == report["counts"]["pairs"]["kept"] < len(margins)


def test_a_long_build_finds_a_backward_model_that_cannot_be_loaded_before_it_makes_a_candidate(
    folder, tmp_path, monkeypatch, engine
):
    monkeypatch.setattr(load_check, "LONG_BUILD", 1)
    broken = tmp_path / "sd3"
    shutil.copytree(WEIGHTS / "sd3", broken)
    weights = next((broken / "transformer").glob("*.safetensors"))
    tensors = load_file(weights)
    tensors.pop("proj_out.weight")
    save_file(tensors, weights, metadata={"format": "pt"})
    models = {
        "forward": [{"model": "shapeworld-blip", "samples": 2, "settings": {"temperature": 2.0}}],
        "backward": {"model": "shapeworld-sd3", "settings": {"repo": str(broken)}},
    }
    with pytest.raises(EngineError, match=r"(?s)a worker failed: .*transformer .* has no weights for proj_out\.weight"):
        build(image_recipe(folder, **models), tmp_path / "run", engine=engine)
    assert not Store(tmp_path / "run").parts("generations")
