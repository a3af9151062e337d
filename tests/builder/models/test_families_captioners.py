"""Every captioner family of the catalog: its real architecture, tiny and random, saved as the Hub has it and loaded by
the code that loads the large ones."""

import pytest
import torch
from PIL import Image
from tiny_captioners import FAMILIES, save

from cyclepref.builder.models import load_model
from cyclepref.builder.models.loading import quiet
from cyclepref.schemas.specs import CaptionerSpec

SIZES = [(40, 40), (90, 30), (30, 90), (64, 48), (33, 71)]
IMAGES = [
    Image.effect_mandelbrot(size, (-2 + at / 4, -1.5, 1, 1.5 - at / 5), 20 + at).convert("RGB").rotate(50 * at)
    for at, size in enumerate(SIZES)
]


def captioner_of(name, folder, **changes):
    repo, settings = save(name, folder)
    return load_model(
        CaptionerSpec(name=name, repo=repo, **{"max_new_tokens": 6, "batch_size": 5, **settings, **changes})
    )


def logits_of(captioner, images):
    """Logits of the first new token, shape (images, vocabulary)."""
    with torch.inference_mode():
        output = captioner.model.generate(
            **captioner.prepare(images), do_sample=False, max_new_tokens=1, output_logits=True,
            return_dict_in_generate=True,
        )  # fmt: skip
    return output.logits[0]


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    quiet()


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_captions_a_batch_as_it_captions_each_image(name, tmp_path):
    captioner = captioner_of(name, tmp_path)
    together = captioner.caption(IMAGES, [None] * 5)
    logits = logits_of(captioner, IMAGES)
    captioner.spec = captioner.spec.model_copy(update={"batch_size": 1})
    alone = [captioner.caption([image], [None])[0] for image in IMAGES]
    one_by_one = torch.cat([logits_of(captioner, [image]) for image in IMAGES])
    assert torch.allclose(logits, one_by_one, atol=1e-4)
    differences = [(logits[i] - logits[j]).abs().max() for i in range(5) for j in range(i)]
    assert min(differences) > 1e-3, "another image gives other logits"
    assert [caption.raw for caption in together] == [caption.raw for caption in alone]
    assert len(together) == 5
    assert all("Write" not in c.raw.split()[:1] for c in together)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_familys_sampled_caption_is_decided_by_its_seed(name, tmp_path):
    captioner = captioner_of(name, tmp_path, temperature=3.0)
    seeds = [11, 12, 13, 14, 15]
    captions = captioner.caption(IMAGES, seeds)
    assert captioner.caption(IMAGES[::-1], seeds[::-1])[::-1] == captions
    assert len({c.raw for c in captioner.caption(IMAGES[:1] * 5, seeds)}) > 1
