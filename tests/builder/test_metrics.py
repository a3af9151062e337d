import math

import pyarrow as pa
import pytest
from PIL import Image

from builder.metrics import load_metric
from builder.models.catalog import CATALOG
from builder.score import Comparer
from builder.shapeworld import render, scenes

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
    with pytest.raises(ValueError, match=r"has sha256 53aa.*and sbert needs 0000"):
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


def test_a_metrics_nan_is_a_failure_with_its_reason():
    class Broken:
        def compare(self, inputs, reconstructions):
            return [math.nan if text == "bad" else 0.5 for text in reconstructions]

    comparer = Comparer.__new__(Comparer)
    comparer.metric, comparer.batch_size = Broken(), 4
    none = pa.array([None, None], pa.binary())
    block = pa.table(
        {"similarity_id": ["1", "2"], "x_text": ["a", "a"], "x_image": none, "y_text": ["good", "bad"], "y_image": none}
    )
    good, bad = comparer(block).to_pylist()
    assert (good["value"], good["error_class"]) == (0.5, None)
    assert (bad["value"], bad["error_class"]) == (None, "NotANumber")
