"""Every text-to-image family of the catalog: its real architecture, tiny and random, saved as the Hub has it and
loaded by the code that loads the large ones."""

import numpy as np
import pytest
from tiny_painters import FAMILIES, save

from builder.models import load_model
from schemas.specs import PainterSpec

PROMPTS = ["a red dog", "two blue circle", "large green cat on grass near a square", "sky", "a small square under sky"]
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
    assert [painting.truncated for painting in paintings] == [False] * 5 or "stable_diffusion" in name
    same_noise = pixels(painter.paint(PROMPTS[:2], [7, 7]))
    assert abs(same_noise[0] - same_noise[1]).max() > 2, "another prompt gives another image"
    same_prompt = pixels(painter.paint(PROMPTS[:1] * 3, [7, 8, 7]))
    assert abs(same_prompt[0] - same_prompt[1]).max() > 2, "another seed gives another image"
    assert (same_prompt[0] == same_prompt[2]).all()
