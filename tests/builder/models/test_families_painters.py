"""Every text-to-image family of the catalog: its real architecture, tiny and random, saved as the Hub has it and
loaded by the code that loads the large ones."""

import numpy as np
import pytest
from tiny_painters import FAMILIES, save

from cyclepref.builder.models import load_model
from cyclepref.builder.models.loading import ModelError
from cyclepref.schemas.specs import PainterSpec

PROMPTS = ["a red dog", "two blue circle", "large green cat on grass near a square", "sky", "a small square under sky"]
# The third prompt has more letters than the tiny CLIP reads; where a T5 reads it too, nothing of it is lost.
CLIP = {
    "stable_diffusion": ("tokenizer",), "stable_diffusion_xl": ("tokenizer", "tokenizer_2"),
    "kandinsky_2_2": ("prior_tokenizer",), "stable_diffusion_3": ("tokenizer", "tokenizer_2"), "flux": ("tokenizer",),
}  # fmt: skip
CLIP_ALONE = {"stable_diffusion", "stable_diffusion_xl", "kandinsky_2_2"}
SEEDS = [3, 1, 4, 15, 9]


def painter_of(name, folder, **changes):
    repo, settings = save(name, folder)
    return load_model(PainterSpec(name=name, repo=repo, **{"batch_size": 5, **settings, **changes}))


def pixels(paintings):
    """Images as one array, shape (images, height, width, 3), values 0 to 255."""
    return np.stack([np.asarray(painting.image, dtype=np.int16) for painting in paintings])


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_paints_a_batch_as_it_paints_each_prompt(name, tmp_path):
    painter = painter_of(name, tmp_path)
    paintings = painter.paint(PROMPTS, SEEDS)
    together = pixels(paintings)
    painter.spec = painter.spec.model_copy(update={"batch_size": 1})
    alone = pixels([painter.paint([prompt], [seed])[0] for prompt, seed in zip(PROMPTS, SEEDS, strict=True)])
    assert together.shape == (5, painter.spec.height, painter.spec.width, 3)
    assert abs(together - alone).max() <= 2, "levels of 255"
    assert [painting.truncated for painting in paintings] == [at == 2 and name in CLIP_ALONE for at in range(5)]
    assert [painting.cut_by for painting in paintings] == [CLIP.get(name, ()) if at == 2 else () for at in range(5)]
    same_noise = pixels(painter.paint(PROMPTS[:2], [7, 7]))
    assert abs(same_noise[0] - same_noise[1]).max() > 2, "another prompt gives another image"
    same_prompt = pixels(painter.paint(PROMPTS[:1] * 3, [7, 8, 7]))
    assert abs(same_prompt[0] - same_prompt[1]).max() > 2, "another seed gives another image"
    assert (same_prompt[0] == same_prompt[2]).all()


@pytest.mark.parametrize(
    ("name", "limit"), [("flux", 6), ("pixart_sigma", 6), ("sana", 20), ("qwen_image", 20), ("z_image", 20)]
)
def test_a_prompt_beyond_max_sequence_length_is_marked(name, limit, tmp_path):
    painter = painter_of(name, tmp_path, max_sequence_length=limit)
    assert [painting.truncated for painting in painter.paint(PROMPTS, SEEDS)] == [
        False,
        False,
        True,
        False,
        name != "flux" and name != "pixart_sigma",
    ]


def test_a_safety_checkers_refusal_is_told_from_an_image_that_is_black(tmp_path):
    painter = painter_of("stable_diffusion", tmp_path)
    assert [painting.refused for painting in painter.paint(PROMPTS[:2], SEEDS[:2])] == [False, False]
    painter.pipeline.safety_checker.concept_embeds_weights.data.fill_(-2.0)
    refused = painter.paint(PROMPTS[:1], SEEDS[:1])[0]
    assert (refused.refused, refused.image.getbbox()) == (True, None)


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        (
            "flux",
            {"arguments": {"clip_skip": 2}},
            "FluxPipeline does not take clip_skip: remove the setting; it takes prompt",
        ),
        ("stable_diffusion", {"max_sequence_length": 77}, "StableDiffusionPipeline does not take max_sequence_length"),
        ("flux", {"arguments": {"width": 8}}, "arguments names width, which the spec sets by its own fields"),
        ("flux", {"scheduler": "Nope"}, "unknown scheduler 'Nope': choose from .*DDIMScheduler"),
        (
            "flux",
            {"scheduler_config": {"shifts": 1}},
            "FlowMatchEulerDiscreteScheduler has no setting shifts: choose from .*shift",
        ),
        ("sana", {"cpu_offload": "model"}, "cpu_offload needs a GPU"),
        ("flux", {"variant": "fp16"}, "cannot load .* as a text-to-image: .*fp16"),
    ],
)
def test_a_setting_that_a_pipeline_does_not_have_is_refused(name, changes, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        painter_of(name, tmp_path, **changes)


def test_a_scheduler_is_replaced_by_class_and_settings(tmp_path):
    changes = {"scheduler": "EulerDiscreteScheduler", "scheduler_config": {"timestep_spacing": "trailing"}}
    scheduler = painter_of("stable_diffusion", tmp_path, **changes).pipeline.scheduler
    assert type(scheduler).__name__ == "EulerDiscreteScheduler"
    assert scheduler.config.timestep_spacing == "trailing"


def test_memory_options_leave_the_image_as_it_is(tmp_path):
    plain = pixels(painter_of("stable_diffusion", tmp_path).paint(PROMPTS, SEEDS))
    saving = painter_of("stable_diffusion", tmp_path, vae_slicing=True, attention_slicing=True)
    assert abs(pixels(saving.paint(PROMPTS, SEEDS)) - plain).max() <= 2, "levels of 255"
