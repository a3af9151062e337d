"""The denoising loss of an image under a text, of each kind of pipeline, against a hand computation."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
from tiny_painters import save

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.common.images import content_id
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.metrics.denoising import DenoisingLoss
from cyclepref.builder.models.loading import ModelError, quiet
from cyclepref.schemas.direct_specs import DenoisingSpec
from cyclepref.schemas.specs import PainterSpec

KINDS = ["stable_diffusion", "stable_diffusion_xl", "stable_diffusion_3"]
TEXTS = ["a red dog", "two blue circle", "large green cat", "sky", "a small square under sky"]
IMAGE, OTHER = (
    Image.effect_mandelbrot((48, 32), (-2 + at / 2, -1.5, 1, 1.5), 20 + 5 * at).convert("RGB") for at in range(2)
)


def loss_of(name: str, folder: Path, scheduler: dict | None = None, **changes) -> DenoisingLoss:
    repo, settings = save(name, folder)
    model = PainterSpec(name=name, repo=repo, **settings, scheduler_config=scheduler or {})
    named = {"name": "loss", "modality": "image", "higher_is_better": False, "low": 0, "high": 100}
    return load_metric(DenoisingSpec(**{**named, "batch_size": 4, "draws": 3, **changes}, model=model))


@pytest.fixture(scope="module", autouse=True)
def _quiet():
    quiet()


@pytest.mark.parametrize("name", KINDS)
def test_a_value_depends_neither_on_its_batch_nor_on_the_order(name, tmp_path):
    metric = loss_of(name, tmp_path)
    images = [IMAGE, OTHER, IMAGE, OTHER, OTHER]
    together = metric.compare(images, TEXTS)
    assert metric.compare(images[::-1], TEXTS[::-1])[::-1] == pytest.approx(together, abs=1e-5)
    alone = [metric.compare([image], [text])[0] for image, text in zip(images, TEXTS, strict=True)]
    assert alone == pytest.approx(together, abs=1e-5)
    one, two = metric.compare([IMAGE] * 2, TEXTS[:2])
    assert abs(one - two) > 1e-5, "another text gives another loss"


@pytest.mark.parametrize("name", KINDS)
def test_all_candidates_of_an_input_share_their_noise_and_another_seed_gives_another(name, tmp_path):
    metric = loss_of(name, tmp_path)
    first, second, same = metric.compare([IMAGE] * 3, [TEXTS[0], TEXTS[1], TEXTS[0]])
    assert first == pytest.approx(same, abs=1e-6)
    assert first != pytest.approx(second, abs=1e-6)
    metric.spec = metric.spec.model_copy(update={"seed": 1})
    assert metric.compare([IMAGE], TEXTS[:1])[0] != pytest.approx(first, abs=1e-6)


def _noise(metric: DenoisingLoss, latents: torch.Tensor) -> torch.Tensor:
    return metric._noise(content_id(IMAGE), latents.shape)


def _latents(metric: DenoisingLoss) -> torch.Tensor:
    """The picture cropped at its centre to the square of the pipeline, encoded, in the denoiser's units."""
    pixels = torch.from_numpy(np.asarray(IMAGE.crop((8, 0, 40, 32)), dtype=np.float32)).permute(2, 0, 1) / 127.5 - 1
    vae = metric._pipeline.vae
    shift = getattr(vae.config, "shift_factor", None) or 0
    return (vae.encode(pixels[None]).latent_dist.mode()[0] - shift) * vae.config.scaling_factor


@torch.inference_mode()
@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
def test_a_unets_loss_is_that_of_its_training(kind, tmp_path):
    metric = loss_of("stable_diffusion", tmp_path, {"prediction_type": kind})
    pipeline, x = metric._pipeline, _latents(metric)
    words = pipeline.encode_prompt(TEXTS[0], "cpu", 1, False)[0]
    losses = []
    for draw, noise in enumerate(_noise(metric, x)):
        step = torch.tensor([int((draw + 0.5) / 3 * 1000)])
        noisy = pipeline.scheduler.add_noise(x[None], noise[None], step)
        kept = pipeline.scheduler.alphas_cumprod[step].sqrt().item()
        target = noise if kind == "epsilon" else kept * noise - (1 - kept**2) ** 0.5 * x
        output = pipeline.unet(noisy, step, words).sample[0]
        losses.append(torch.nn.functional.mse_loss(output, target).item())
    assert metric.compare([IMAGE], TEXTS[:1])[0] == pytest.approx(np.mean(losses), rel=1e-4)


@torch.inference_mode()
def test_a_flows_loss_is_that_of_its_training(tmp_path):
    metric = loss_of("stable_diffusion_3", tmp_path)
    pipeline, x = metric._pipeline, _latents(metric)
    words, _, pooled, _ = pipeline.encode_prompt(
        TEXTS[0], None, None, do_classifier_free_guidance=False,
        max_sequence_length=metric.spec.model.max_sequence_length,
    )  # fmt: skip
    losses = []
    for draw, noise in enumerate(_noise(metric, x)):
        share = (draw + 0.5) / 3
        output = pipeline.transformer(
            hidden_states=((1 - share) * x + share * noise)[None], encoder_hidden_states=words,
            pooled_projections=pooled, timestep=torch.tensor([1000 * share]),
        ).sample[0]  # fmt: skip
        losses.append(torch.nn.functional.mse_loss(output, noise - x).item())
    assert metric.compare([IMAGE], TEXTS[:1])[0] == pytest.approx(np.mean(losses), rel=1e-4)


def test_what_is_larger_than_the_range_allows_is_brought_to_it(tmp_path):
    assert loss_of("stable_diffusion_3", tmp_path, high=0.01).compare([IMAGE], TEXTS[:1]) == [0.01]


def test_a_pipeline_of_another_kind_and_none_at_all_are_refused(tmp_path):
    with pytest.raises(ModelError, match=r"FluxPipeline is not one of StableDiffusionPipeline"):
        loss_of("flux", tmp_path)
    with pytest.raises(ModelError, match=r"name one in settings.model, or use it in an i2t2i recipe"):
        load_metric(CATALOG["denoising-loss"])
