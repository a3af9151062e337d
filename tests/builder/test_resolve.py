"""Names, settings and fingerprints of models: what a recipe says wrongly is told before anything runs."""

import shutil

import pytest

from builder.models.catalog import CATALOG, WEIGHTS
from builder.models.resolve import metric_spec, model_spec, resolve
from builder.sources import open_source
from schemas.recipe import MetricChoice, ModelChoice, RecipeError
from schemas.sources import ImageFolder, PromptFile


def choice(model: str, **changes) -> ModelChoice:
    return ModelChoice(model=model, **changes)


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (choice("shapeworld-blipp"), "captioner", r"unknown captioner 'shapeworld-blipp' \(did you mean"),
        (choice("nothing"), "captioner", "unknown captioner 'nothing': `cyclepref models --kind captioner` lists"),
        (choice("sdxl"), "captioner", "sdxl is a text-to-image model, and this place needs a captioner"),
        (choice("sdxl", settings={"step": 3}), "text-to-image", r"step: unknown setting \(did you mean 'steps'"),
        (choice("sdxl", settings={"name": "x"}), "text-to-image", "settings.name: is what the model is, and"),
        (choice("sdxl", settings={"steps": 0}), "text-to-image", "settings.steps: must be 1 or more, got 0"),
        (choice("org/painter"), "text-to-image", "settings.steps: is missing"),
        (choice("shapeworld-blip", samples=2), "captioner", "samples: is 2, but greedy decoding gives one caption"),
    ],
)  # fmt: skip
def test_a_wrong_choice_of_model_is_explained(wrong, kind, message):
    with pytest.raises(RecipeError, match=message):
        model_spec(wrong, kind)


@pytest.mark.parametrize(
    ("metric", "modality", "message"),
    [
        ("lpip", "image", r"unknown metric 'lpip' \(did you mean 'lpips-vgg'.*`cyclepref models --kind metric` lists"),
        ("sbert", "image", "sbert compares texts"),
    ],
)
def test_a_wrong_metric_is_explained(metric, modality, message):
    with pytest.raises(RecipeError, match=message):
        metric_spec(MetricChoice(metric=metric), modality)


def test_a_recipe_cannot_turn_a_metrics_direction():
    settings = {"higher_is_better": True}
    with pytest.raises(RecipeError, match=r"settings.higher_is_better: is what the model is, and no setting"):
        metric_spec(MetricChoice(metric="lpips-alex", settings=settings), "image")


def test_a_folder_that_is_not_there_is_explained():
    with pytest.raises(RecipeError, match=r"no folder \./nope/model"):
        resolve(model_spec(choice("./nope/model"), "captioner"), {})


def test_a_source_that_is_missing_or_of_the_other_modality_is_explained(tmp_path):
    with pytest.raises(RecipeError, match="no such folder"):
        open_source(ImageFolder(source="images", path=str(tmp_path / "none")), "image").items()
    with pytest.raises(RecipeError, match="no image files"):
        open_source(ImageFolder(source="images", path=str(tmp_path)), "image").items()
    with pytest.raises(RecipeError, match="'prompts' gives texts, and this cycle starts from images"):
        open_source(PromptFile(source="prompts", path="x"), "image")


def test_a_fingerprint_sees_what_changes_an_output_and_nothing_else():
    def print_of(**settings) -> str:
        return resolve(model_spec(choice("shapeworld-sd3", settings=settings), "text-to-image"), {}).fingerprint

    same = print_of()
    assert print_of(batch_size=3) == print_of(num_gpus=1.0) == same
    assert len({same, print_of(steps=7), print_of(guidance=9.0), print_of(dtype="float16")}) == 4


def test_weights_are_known_by_their_content_and_not_by_their_path(tmp_path):
    lock: dict = {}
    moved = tmp_path / "moved"
    shutil.copytree(WEIGHTS / "blip", moved)
    (moved / "README.md").write_text("a card changes no output")
    at_home = resolve(model_spec(choice("shapeworld-blip"), "captioner"), lock)
    settings = {"prompt_style": "none", "max_new_tokens": 16}
    elsewhere = resolve(model_spec(choice(str(moved), name="m", settings=settings), "captioner"), lock)
    assert elsewhere.fingerprint == at_home.fingerprint
    (moved / "model.safetensors").write_bytes(b"other weights")
    changed = resolve(model_spec(choice(str(moved), name="m", settings=settings), "captioner"), lock)
    assert changed.fingerprint != at_home.fingerprint


def test_a_locked_revision_is_not_asked_for_again():
    lock = {"org/model@main": "0" * 40}
    found = resolve(model_spec(choice("org/model"), "captioner"), lock)
    assert found.identity["revision"] == found.spec.revision == "0" * 40


def test_a_hub_model_that_is_not_cached_offline_says_so():
    with pytest.raises(RecipeError, match="org/model: cannot find org/model at revision 'main'"):
        resolve(model_spec(choice("org/model"), "captioner"), {})


def test_names_in_the_catalog_are_unique_and_all_models_resolve_as_their_kind():
    for name, spec in CATALOG.items():
        assert spec.name == name
