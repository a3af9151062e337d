"""`model.preprocess`: from colours to what the towers read, as for files, with gradients."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_duals import make_dual

from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.preprocess import pixels


@pytest.fixture(scope="module", params=["blip", "clip", "siglip"])
def model(request, captioner) -> RewardModel:
    if request.param == "blip":
        return RewardModel.from_captioner(captioner, head_sizes=[8])
    return make_dual(request.param, captioner)


def smooth(width: int, height: int) -> Image.Image:
    """A picture whose colours stay away from black and white, so that resizing cuts none."""
    across, down = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 2, height))
    waves = [np.sin(across + 2 * down), np.cos(2 * across), np.sin(across * down)]
    return Image.fromarray((128 + 90 * np.stack(waves, axis=-1)).astype(np.uint8))


def colours(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 255


@pytest.mark.parametrize("size", [(16, 16), (40, 24), (9, 30)])
def test_colours_become_what_a_file_becomes(model, size):
    image = smooth(*size)
    found, expected = model.preprocess(colours(image)), pixels(model.processor, [image])
    assert found.shape == expected.shape
    # Files are rounded to bytes on the way, and a level is up to 0.016 deviations of a channel.
    torch.testing.assert_close(found, expected, atol=0.032, rtol=0)


def test_rewards_of_colours_are_differentiable(model):
    images = colours(smooth(20, 24)).double().requires_grad_()
    model = copy.deepcopy(model).double()

    def reward(images: torch.Tensor) -> torch.Tensor:
        return model.reward_of_pixels(pixel_values=model.preprocess(images), texts="a plain picture").sum()

    (gradient,) = torch.autograd.grad(reward(images), images)
    assert (gradient.abs().sum(dim=1) > 0).float().mean() > 0.5  # all but what the crop leaves out
    step = torch.zeros_like(images)
    step[0, 1, 12, 10] = 1e-4
    with torch.no_grad():
        slope = (reward(images + step) - reward(images - step)) / 2e-4
    assert gradient[0, 1, 12, 10].item() == pytest.approx(slope.item(), rel=1e-3, abs=1e-9)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 8, 8), r"got torch.float32 \(3, 8, 8\)"),
        (torch.zeros(1, 4, 8, 8), r"\(images, 3, height, width\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "got torch.uint8"),
        (torch.zeros(0, 3, 8, 8), r"got torch.float32 \(0, 3, 8, 8\)"),
        (torch.full((1, 3, 8, 8), -1.0), r"in \[0, 1\], got -1 to -1: a decoder's -1 to 1 is"),
        (torch.full((1, 3, 8, 8), 200.0), "got 200 to 200"),
        (torch.full((1, 3, 8, 8), torch.nan), "got nan to nan"),
    ],
)
def test_what_are_no_colours_is_refused(captioner, images, message):
    model = RewardModel.from_captioner(captioner, head_sizes=[8])
    with pytest.raises(RewardError, match=message):
        model.preprocess(images)
