"""How well a text-to-image pipeline denoises an input image, given the candidate text: a diffusion model as a judge.

Diffusion classifiers (Li et al. 2023, Your Diffusion Model is Secretly a Zero-Shot Classifier, arXiv 2303.16203) pick
the text with the least expected loss of the pipeline's own training objective, which bounds -log P(x | y) from above.
Candidates of one input are compared under the same noise at the same levels, so that what the noise does to all of them
cancels (section 3.2 there).
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from cyclepref.builder.common.images import content_id
from cyclepref.builder.models.loading import ModelError, pad_batch
from cyclepref.builder.models.painters import DiffusersPipeline
from cyclepref.schemas.direct_specs import DenoisingSpec
from cyclepref.schemas.ids import digest

PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline", "StableDiffusion3Pipeline")


class DenoisingLoss:
    """Images against texts, by a Stable Diffusion pipeline: 1, 2 or XL, of any prediction type, or 3.

    Raises:
        ModelError: if the spec names no pipeline, or one of another kind, or it cannot be loaded.
    """

    def __init__(self, spec: DenoisingSpec):
        if spec.model is None:
            raise ModelError(f"{spec.name}: no pipeline: name one in settings.model, or use it in an i2t2i recipe")
        self.spec = spec
        self._pipeline = DiffusersPipeline(spec.model).pipeline
        kind = type(self._pipeline).__name__
        if kind not in PIPELINES:
            raise ModelError(f"{spec.name}: {kind} is not one of {', '.join(PIPELINES)}: set model in its settings")
        self._losses = self._of_flow if kind == "StableDiffusion3Pipeline" else self._of_unet

    @torch.inference_mode()
    def compare(self, inputs: list[Image.Image], candidates: list[str]) -> list[float]:
        """The mean squared error of each image's denoising under the text beside it, in [0, `spec.high`], the mean over
        `spec.draws` noise levels; what is larger is `spec.high`.

        The error is of what the pipeline was trained to predict, noise, velocity or flow, in units of the latents. An
        image is scaled and cropped at the centre to the pipeline's size. Batches have a fixed shape.
        """
        size, spec = self.spec.batch_size, self.spec
        images = {content_id(image): image for image in inputs}
        keys = [content_id(image) for image in inputs]
        latents = self._in_batches(self._encode, list(images.values()))
        made = dict(zip(images, latents, strict=True))
        noises = {key: self._noise(key, made[key].shape) for key in images}
        texts = list(dict.fromkeys(candidates))
        words = dict(zip(texts, self._in_batches(self._read, texts), strict=True))
        todo = [(row, draw) for row in range(len(inputs)) for draw in range(spec.draws)]
        losses = np.empty((len(inputs), spec.draws))
        for start in range(0, len(todo), size):
            batch = pad_batch(todo[start : start + size], size)
            x, noise = (torch.stack(each) for each in zip(
                *((made[keys[row]], noises[keys[row]][draw]) for row, draw in batch), strict=True))  # fmt: skip
            told = [torch.stack(each) for each in zip(*(words[candidates[row]] for row, _ in batch), strict=True)]
            level = torch.tensor([(draw + 0.5) / spec.draws for _, draw in batch])
            found = self._losses(x, noise, level, *told).double().cpu().numpy()
            for (row, draw), value in zip(batch[: len(todo) - start], found, strict=False):
                losses[row, draw] = value
        return np.minimum(losses.mean(1), spec.high).tolist()

    def _in_batches(self, make: Callable[[list[Any]], list[Any]], items: list[Any]) -> list[Any]:
        """What `make` makes of items, a batch of the full size at a time."""
        size, made = self.spec.batch_size, []
        for start in range(0, len(items), size):
            batch = items[start : start + size]
            made += make(pad_batch(batch, size))[: len(batch)]
        return made

    def _noise(self, key: str, shape: torch.Size) -> torch.Tensor:
        """The noise of each draw, shape (draws, channels, height, width), by the input's content and the seed alone;
        made on the CPU, so that it is the same on every device."""
        generator = torch.Generator("cpu").manual_seed(int(digest("denoising", self.spec.seed, key)[:15], 16))
        return torch.randn((self.spec.draws, *shape), generator=generator)

    def _encode(self, images: list[Image.Image]) -> list[torch.Tensor]:
        """The latents of each image as the denoiser knows them: (channels, height, width) in float32 on the CPU."""
        vae, size = self._pipeline.vae, (self.spec.model.width, self.spec.model.height)
        fitted = [ImageOps.fit(image.convert("RGB"), size, Image.Resampling.BICUBIC) for image in images]
        pixels = torch.from_numpy(np.stack([np.asarray(image, dtype=np.float32) for image in fitted]))
        if vae.dtype != torch.float32:  # in half precision some autoencoders overflow
            vae.to(torch.float32)
        encoded = vae.encode((pixels.permute(0, 3, 1, 2) / 127.5 - 1).to(vae.device))
        latents = encoded.latents if hasattr(encoded, "latents") else encoded.latent_dist.mode()
        shift = getattr(vae.config, "shift_factor", None) or 0.0
        return list(((latents - shift) * vae.config.scaling_factor).float().cpu())

    def _read(self, texts: list[str]) -> list[tuple[torch.Tensor, ...]]:
        """What the pipeline's text encoders make of each text: its tokens' embeddings, and the pooled one if there is
        one."""
        pipeline, arguments = self._pipeline, {"do_classifier_free_guidance": False, "num_images_per_prompt": 1}
        names = ("prompt_2", "prompt_3") if hasattr(pipeline, "tokenizer_3") else ()
        if self.spec.model.max_sequence_length is not None:
            arguments["max_sequence_length"] = self.spec.model.max_sequence_length
        device = pipeline._execution_device
        found = pipeline.encode_prompt(prompt=list(texts), device=device, **dict.fromkeys(names), **arguments)
        # Words, words of the negative prompt, and the pooled ones of both.
        return list(zip(*(found[at].cpu() for at in (0, 2) if at < len(found)), strict=True))

    def _of_unet(
        self, x: torch.Tensor, noise: torch.Tensor, level: torch.Tensor, words: torch.Tensor, *pooled: torch.Tensor
    ) -> torch.Tensor:
        """The loss of each row of a UNet; `level` in (0, 1) is the place of its step in the schedule of training."""
        scheduler, unet = self._pipeline.scheduler, self._pipeline.unet
        step = (level * scheduler.config.num_train_timesteps).long()
        kept = scheduler.alphas_cumprod.cpu()[step].float()[:, None, None, None]
        signal, spread = kept.sqrt(), (1 - kept).sqrt()
        targets = {"epsilon": noise, "v_prediction": signal * noise - spread * x, "sample": x}
        more = [{"text_embeds": self._put(each), "time_ids": self._sizes(len(x))} for each in pooled]
        noisy = self._put(signal * x + spread * noise)
        told = {"added_cond_kwargs": more[0]} if more else {}
        output = unet(noisy, step.to(unet.device), self._put(words), **told).sample
        return _error(output, targets[scheduler.config.prediction_type])

    def _of_flow(
        self, x: torch.Tensor, noise: torch.Tensor, level: torch.Tensor, words: torch.Tensor, pooled: torch.Tensor
    ) -> torch.Tensor:
        """The loss of each row of a rectified flow (Esser et al. 2024, arXiv 2403.03206): `level` is the share of
        noise."""
        share, steps = level[:, None, None, None], self._pipeline.scheduler.config.num_train_timesteps
        output = self._pipeline.transformer(
            hidden_states=self._put((1 - share) * x + share * noise), timestep=self._put(level * steps),
            encoder_hidden_states=self._put(words), pooled_projections=self._put(pooled),
        ).sample  # fmt: skip
        return _error(output, noise - x)

    def _sizes(self, count: int) -> torch.Tensor:
        """What SDXL is told of an image's size: whole and uncropped."""
        size = (self.spec.model.height, self.spec.model.width)
        return self._put(torch.tensor([[*size, 0, 0, *size]] * count))

    def _put(self, values: torch.Tensor) -> torch.Tensor:
        """On the denoiser's device, in its dtype."""
        denoiser = getattr(self._pipeline, "unet", None) or self._pipeline.transformer
        return values.to(denoiser.device, denoiser.dtype)


def _error(output: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """The mean squared error of each row."""
    return (output.float().cpu() - wanted).square().flatten(1).mean(1)
