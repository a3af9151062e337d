"""Names, settings and fingerprints of models: what a recipe says wrongly is told before anything runs."""

import shutil

import pytest

from cyclepref.builder.catalog.catalog import CATALOG, WEIGHTS
from cyclepref.builder.catalog.resolve import metric_spec, model_spec, resolve
from cyclepref.builder.sources.open import open_source
from cyclepref.schemas.recipe import MetricChoice, ModelChoice, RecipeError
from cyclepref.schemas.sources import ImageFolder, PromptFile


def choice(model: str, **changes) -> ModelChoice:
    return ModelChoice(model=model, **changes)


@pytest.mark.parametrize(
    ("wrong", "kind", "message"),
    [
        (choice("shapeworld-blipp"), "captioner", r"unknown captioner 'shapeworld-blipp' \(did you mean"),
        (choice("nothing"), "captioner", "unknown captioner 'nothing': `cyclepref models --kind captioner` lists"),
        (choice("sdxl"), "captioner", "sdxl is a text-to-image model, but this place needs a captioner"),
        (choice("sdxl", settings={"step": 3}), "text-to-image", r"step: unknown setting \(did you mean 'steps'"),
        (choice("sdxl", settings={"name": "x"}), "text-to-image", "settings.name: belongs to the model and"),
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
    with pytest.raises(RecipeError, match=r"settings.higher_is_better: belongs to the model and cannot be set"):
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


def weights_of(folder, lock=None) -> str:
    return resolve(model_spec(choice(str(folder)), "captioner"), {} if lock is None else lock).identity["weights"]


@pytest.fixture
def pipeline(tmp_path):
    """A folder with weights at its top and in a folder within, and a folder beside it that others may link to."""
    for name in ("model/unet/w.safetensors", "model/config.json", "shared/w.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    return tmp_path


def test_weights_in_a_linked_folder_are_part_of_the_fingerprint(pipeline):
    lock: dict = {}
    before = weights_of(pipeline / "model", lock)
    (pipeline / "model" / "transformer").symlink_to("../shared")
    linked = weights_of(pipeline / "model", lock)
    (pipeline / "shared" / "w.safetensors").write_bytes(b"edited, of another length")
    edited = weights_of(pipeline / "model", lock)
    assert len({before, linked, edited}) == 3
    (pipeline / "model" / "transformer").unlink()
    shutil.copytree(pipeline / "shared", pipeline / "model" / "transformer")
    assert weights_of(pipeline / "model") == edited, "a link and a copy are the same weights"


def test_two_links_to_one_folder_are_two_components(pipeline):
    (pipeline / "model" / "text_encoder").symlink_to("../shared")
    one = weights_of(pipeline / "model")
    (pipeline / "model" / "text_encoder_2").symlink_to("../shared")
    assert weights_of(pipeline / "model") != one


def test_a_link_that_leads_back_to_its_own_folder_is_not_followed(pipeline):
    before = weights_of(pipeline / "model")
    (pipeline / "model" / "again").symlink_to(".")
    (pipeline / "model" / "unet" / "up").symlink_to("..")
    assert weights_of(pipeline / "model") == before
    (pipeline / "model" / "around").symlink_to("..")  # to what lies beside the model, which has it in turn
    assert weights_of(pipeline / "model") != before


def test_a_folder_in_the_hubs_cache_has_the_hash_of_its_files(pipeline, tmp_path):
    """There every file is a link to a blob, and no folder is."""
    plain, snapshot, blobs = (
        tmp_path / "model",
        tmp_path / "cache" / "snapshots" / "c0ffee",
        tmp_path / "cache" / "blobs",
    )
    blobs.mkdir(parents=True)
    for at, file in enumerate(sorted(f for f in plain.rglob("*") if f.is_file())):
        (blobs / str(at)).write_bytes(file.read_bytes())
        link = snapshot / file.relative_to(plain)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blobs / str(at))
    assert weights_of(snapshot) == weights_of(plain)
    assert weights_of(plain) == "60f25353bebf68c3ff43bb76d8c8c9bf", "as runs have stored it"
