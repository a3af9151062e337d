import math
from pathlib import Path
from types import SimpleNamespace

import lpips as lpips_package
import pyarrow as pa
import pytest
import torch
from PIL import Image

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.catalog.metrics import LPIPS_OWN_HIGH
from cyclepref.builder.catalog.resolve import metric_spec, resolve
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.models.loading import ModelError
from cyclepref.builder.run.content import Contents
from cyclepref.builder.run.store import Store
from cyclepref.builder.shapeworld import render, scenes
from cyclepref.builder.stages.compare import SCORING, Comparer, NotANumber
from cyclepref.schemas.recipe import MetricChoice
from cyclepref.schemas.specs import Spec

TEXTS = ["one red circle on a white background", "two red circles on a white background", "a cat", "four"]


@pytest.fixture(scope="module")
def sbert():
    return load_metric(CATALOG["sbert"])


@pytest.fixture(scope="module")
def lpips():
    return load_metric(CATALOG["lpips-shapeworld"])


def test_sbert_is_a_cosine_that_knows_equal_from_near_from_far(sbert):
    same, near, far = sbert.compare([TEXTS[0]] * 3, TEXTS[:3])
    assert same == pytest.approx(1, abs=1e-6)
    assert 1 > near > far


def test_an_sbert_value_does_not_depend_on_its_neighbours_to_the_last_bit(sbert):
    many = sbert.compare([TEXTS[0]] * 40, [*TEXTS, *(f"{TEXTS[1]} {n}" for n in range(36))])
    alone = [sbert.compare([TEXTS[0]], [text])[0] for text in TEXTS]
    assert many[:4] == alone


def test_weights_that_are_not_the_promised_ones_are_refused():
    with pytest.raises(ModelError, match=r"has sha256 53aa.*and sbert needs 0000"):
        load_metric(CATALOG["sbert"].model_copy(update={"sha256": "0000"}))


def test_lpips_is_a_distance_that_grows_with_what_differs(lpips):
    first, other = (render.render(scene, 0) for scene in scenes.sample_scenes(2, seed=4, held_out=True))
    jittered = render.render(scenes.sample_scenes(1, seed=4, held_out=True)[0], 1)
    same, near, far = lpips.compare([first] * 3, [first, jittered, other])
    assert same == pytest.approx(0, abs=1e-6)
    assert same < near < far


def test_an_lpips_value_does_not_depend_on_its_batch(lpips):
    pictures = [render.render(scene, 0) for scene in scenes.sample_scenes(5, seed=4, held_out=True)]
    together = lpips.compare(pictures, pictures[1:] + pictures[:1])
    alone = [lpips.compare([x], [y])[0] for x, y in zip(pictures, pictures[1:] + pictures[:1], strict=True)]
    assert together == pytest.approx(alone, abs=1e-6)


def test_an_input_of_another_size_is_cropped_and_not_squashed(lpips):
    scene = render.render(scenes.sample_scenes(1, seed=4, held_out=True)[0], 0)
    wide = Image.new("RGB", (128, 64), "white")
    wide.paste(scene, (32, 0))
    assert lpips.compare([wide], [scene])[0] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("net", ["alex", "vgg", "squeeze"])
def test_no_lpips_can_leave_its_declared_range(net):
    """Features are unit vectors without negative entries: a layer's distance is at most twice its largest weight."""
    calibrated = Path(lpips_package.__file__).parent / "weights" / "v0.1" / f"{net}.pth"
    weights = list(torch.load(calibrated, map_location="cpu", weights_only=True).values())
    assert all(weight.min() >= 0 for weight in weights)
    bound = sum(2 * weight.max().item() for weight in weights)
    assert bound <= CATALOG[f"lpips-{net}"].high < bound + 0.1
    assert len(weights) * 2 == LPIPS_OWN_HIGH[net]


def test_the_range_of_an_lpips_over_a_backbone_of_ones_own_is_another():
    choice = MetricChoice(metric="lpips-alex", settings={"repo": CATALOG["lpips-shapeworld"].repo})
    assert metric_spec(choice, "image").high == CATALOG["lpips-shapeworld"].high


def test_lpips_stays_within_its_range_on_the_most_different_pictures(lpips):
    noise = [Image.effect_noise((64, 64), 200).convert("RGB") for _ in range(2)]
    plain = [Image.new("RGB", (64, 64), colour) for colour in ("black", "white", "red")]
    values = lpips.compare([*noise, *plain], [*plain, *noise])
    assert all(0 < value <= CATALOG["lpips-shapeworld"].high for value in values)


def test_any_sentence_transformers_folder_is_an_sbert(sbert, tmp_path):
    sbert.model.save_pretrained(str(tmp_path))
    spec = resolve(metric_spec(MetricChoice(metric=str(tmp_path), name="mine"), "text"), {}).spec
    assert (spec.kind, spec.higher_is_better) == ("sbert", True)
    assert load_metric(spec).compare(TEXTS[:1], TEXTS[1:2]) == sbert.compare(TEXTS[:1], TEXTS[1:2])
    replaced = metric_spec(MetricChoice(metric="sbert", settings={"repo": str(tmp_path)}), "text")
    assert replaced.sha256 is None


def test_a_metrics_nan_is_a_failure_with_its_reason(monkeypatch):
    def broken(inputs, reconstructions):
        return [math.nan if text == "bad" else 0.5 for text in reconstructions]

    model = SimpleNamespace(spec=Spec(name="broken", batch_size=4), compare=broken)
    monkeypatch.setattr("cyclepref.builder.stages.compare.load_metric", lambda spec: model)
    none = pa.array([None, None], pa.binary())
    block = pa.table({"x_text": ["a", "a"], "x_image": none, "y_text": ["good", "bad"], "y_image": none})
    good, bad = Comparer(model.spec)(block, Contents(block, ["x", "y"], 4))
    assert good == 0.5
    assert isinstance(bad, NotANumber)


def test_an_error_that_is_not_unicode_is_a_failure_with_its_reason(tmp_path):
    ids = {"similarity_id": "1" * 32, "content_id": "2" * 32, "model": "m", "attempt": 1}
    store = Store(tmp_path)
    SCORING.write(pa.Table.from_pylist([ids]), [OSError("no file \udcff")], 0, store=store)
    [row] = store.rows("failures").to_pylist()
    assert row["message"] == r"no file \udcff"
