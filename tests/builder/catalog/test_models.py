"""Captioners and text-to-image pipelines: batch in, same length and order out, a row blind to its neighbours."""

import pytest
from pydantic import ValidationError

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.models import load_model
from cyclepref.builder.models.captioners import clean
from cyclepref.builder.models.protocols import Caption
from cyclepref.builder.run.content import Contents
from cyclepref.builder.shapeworld import grammar, render, scenes
from cyclepref.builder.stages.generate import Generator, drawn
from cyclepref.builder.stages.steps import attempt
from cyclepref.schemas.ids import resample_seed
from cyclepref.schemas.specs import CaptionerSpec, Spec

SCENES = scenes.sample_scenes(5, seed=11, held_out=True)
PICTURES = [render.render(scene, 0) for scene in SCENES]
PROMPTS = [grammar.describe(scene) for scene in SCENES]


def spec(name: str, **settings) -> Spec:
    return CATALOG[name].model_copy(update={"batch_size": 4, **settings})


@pytest.mark.parametrize("name", ["shapeworld-blip", "shapeworld-llava"])
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_a_caption_does_not_depend_on_its_batch(name, temperature):
    captioner = load_model(spec(name, temperature=temperature))
    seeds = [None] * 5 if temperature == 0 else [7, 8, 9, 10, 11]
    together = captioner.caption(PICTURES, seeds)
    alone = [captioner.caption([picture], [seed])[0] for picture, seed in zip(PICTURES, seeds, strict=True)]
    backwards = captioner.caption(PICTURES[::-1], seeds[::-1])[::-1]
    assert together == alone == backwards


def test_a_seed_decides_a_sampled_caption():
    captioner = load_model(spec("shapeworld-blip", temperature=3.0))
    captions = [caption.text for caption in captioner.caption(PICTURES[:1] * 4, [1, 1, 2, 3])]
    assert captions[0] == captions[1]
    assert len(set(captions)) > 1


def test_a_caption_that_ends_by_token_limit_is_marked():
    captions = load_model(spec("shapeworld-blip", max_new_tokens=2)).caption(PICTURES[:1], [None])
    assert captions[0].truncated


@pytest.mark.parametrize(
    ("raw", "cleaned"),
    [("  a \n cat\t", "a cat"), ("<s>a cat</s>", "a cat"), ("a cat<|im_end|>", "a cat"), ("3 < 4 > 2", "3 < 4 > 2")],
)
def test_captions_are_cleaned_of_markup_and_whitespace(raw, cleaned):
    assert clean(raw) == cleaned


@pytest.mark.parametrize("name", ["shapeworld-sd3", "shapeworld-sd"])
def test_a_painting_depends_on_its_prompt_and_seed_alone(name):
    pipeline = load_model(spec(name, steps=2))
    together = [painting.image.tobytes() for painting in pipeline.paint(PROMPTS, [1, 2, 3, 4, 5])]
    alone = [
        pipeline.paint([prompt], [seed])[0].image.tobytes() for prompt, seed in zip(PROMPTS, range(1, 6), strict=True)
    ]
    assert together == alone
    assert len(set(together)) == 5
    assert pipeline.paint(PROMPTS[:1], [99])[0].image.tobytes() != together[0]
    assert pipeline.paint(PROMPTS[:1], [1])[0].image.size == (64, 64)


def test_a_prompt_that_no_text_encoder_reads_whole_is_marked():
    pipeline = load_model(spec("shapeworld-sd", steps=1))
    short, long = pipeline.paint([PROMPTS[0], " ".join(PROMPTS)], [0, 0])
    assert (short.truncated, long.truncated) == (False, True)


def test_a_row_that_raises_does_not_take_its_batch_with_it():
    def fragile(rows):
        if 3 in rows:
            raise ValueError("three")
        return [row * 10 for row in rows]

    results = attempt(fragile, [0, 1, 2, 3, 4])
    assert [str(result) for result in results] == ["0", "10", "20", "three", "40"]


class Stub:
    """Stands for a model that has gone wrong; a real one cannot be made to."""

    def __init__(self, spec, output):
        self.spec, self.output = spec, output

    def caption(self, images, seeds):
        return [self.output] * len(images)

    paint = caption


@pytest.mark.parametrize(
    ("name", "refused", "error"),
    [
        ("shapeworld-blip", None, "EmptyCaption"),
        ("shapeworld-sd", None, "BlackImage"),
        ("shapeworld-sd", False, "BlackImage"),
        ("shapeworld-sd", True, "SafetyRefusal"),
    ],
)
def test_an_empty_caption_and_a_black_image_are_failures_and_not_data(name, refused, error, monkeypatch):
    import pyarrow as pa
    from PIL import Image

    from cyclepref.builder.common.images import encode
    from cyclepref.builder.models.protocols import Caption, Painting

    black = Painting(Image.new("RGB", (4, 4)), False, refused=refused)
    stub = Stub(CATALOG[name], Caption("", "", False) if error == "EmptyCaption" else black)
    monkeypatch.setattr("cyclepref.builder.stages.generate.load_model", lambda spec: stub)
    block = pa.table(
        {
            "seed": pa.array([1]),
            "source_text": pa.array([None if error == "EmptyCaption" else "a"], pa.string()),
            "source_image": pa.array([encode(PICTURES[0]) if error == "EmptyCaption" else None], pa.binary()),
        }
    )
    [row] = Generator(CATALOG[name])(block, Contents(block, ["source"], 4))
    assert type(row.result).__name__ == error


def mute(seeds_with_words: set[int]):
    """A model that says something at these seeds alone."""
    return lambda sources, seeds: [
        Caption("a", "a", False) if s in seeds_with_words else Caption("", "", False) for s in seeds
    ]


def test_a_sample_without_an_output_is_drawn_again_with_another_seed_and_the_others_are_not():
    second, third = resample_seed(2, 1), resample_seed(2, 2)
    run = mute({1, third})
    assert [(row.seed, row.draw) for row in drawn(run, ["x", "y"], [1, 2], 3)] == [(1, 0), (third, 2)]
    assert [(row.seed, row.draw) for row in drawn(run, ["y"], [2], 3)] == [(third, 2)]
    [row] = drawn(run, ["y"], [2], 1)
    assert (type(row.result).__name__, row.seed, row.draw) == ("EmptyCaption", second, 1)


def test_an_error_that_is_no_draws_fault_is_not_drawn_again():
    def run(sources, seeds):
        asked.append(seeds)
        raise OSError("a disk")

    asked: list[list[int]] = []
    [row] = drawn(run, ["x"], [1], 5)
    assert (str(row.result), row.draw, asked) == ("a disk", 0, [[1]])


def test_greedy_decoding_cannot_be_drawn_again():
    with pytest.raises(ValidationError, match="resample 2 has no effect at temperature 0"):
        CaptionerSpec(name="c", repo="r", prompt_style="none", resample=2)
    assert (
        CaptionerSpec(name="c", repo="r", prompt_style="none", temperature=1, resample=2).identity()
        == CaptionerSpec(name="c", repo="r", prompt_style="none", temperature=1).identity()
    )
