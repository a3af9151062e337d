"""Text-to-image pipelines of the diffusers library, by DiffusionPipeline."""

import inspect

import torch
from diffusers import DiffusionPipeline

from builder.models import Painting
from builder.models.loading import device, pad_batch, quiet, source_of
from schemas.specs import PainterSpec


class DiffusersPipeline:
    """One text-to-image pipeline on one device, always run at its full batch size.

    Raises:
        OSError, ValueError: from diffusers, if the repo or folder is not a pipeline.
    """

    def __init__(self, spec: PainterSpec):
        self.spec = spec
        quiet()
        where, pin = source_of(spec)
        dtype = getattr(torch, spec.dtype)
        pipeline = DiffusionPipeline.from_pretrained(where, dtype=dtype, use_safetensors=True, **pin)
        self.pipeline = pipeline.to(device())
        self.pipeline.set_progress_bar_config(disable=True)
        self._accepted = inspect.signature(self.pipeline.__call__).parameters

    @torch.inference_mode()
    def paint(self, prompts: list[str], seeds: list[int]) -> list[Painting]:
        """One image of the spec's size a prompt, in order. One CPU generator an image, so that the noise is the
        same on every device and in every batch."""
        paintings: list[Painting] = []
        size = self.spec.batch_size
        for start in range(0, len(prompts), size):
            batch = prompts[start : start + size]
            padded, noise = pad_batch(batch, size), pad_batch(seeds[start : start + size], size)
            paintings += self._paint_batch(padded, noise)[: len(batch)]
        return paintings

    def _paint_batch(self, prompts: list[str], seeds: list[int]) -> list[Painting]:
        spec = self.spec
        optional = {"negative_prompt": spec.negative_prompt, "max_sequence_length": spec.max_sequence_length}
        output = self.pipeline(
            prompt=prompts,
            num_inference_steps=spec.steps,
            guidance_scale=spec.guidance,
            width=spec.width,
            height=spec.height,
            generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            **{name: value for name, value in optional.items() if value is not None and name in self._accepted},
        )
        return [
            Painting(image.convert("RGB"), self._truncates(prompt))
            for image, prompt in zip(output.images, prompts, strict=True)
        ]

    def _truncates(self, prompt: str) -> bool:
        """Whether every text encoder of the pipeline cuts this prompt."""
        tokenizers = [getattr(self.pipeline, name, None) for name in ("tokenizer", "tokenizer_2", "tokenizer_3")]
        limits = [(t, min(t.model_max_length, 10_000)) for t in tokenizers if t is not None]
        return all(len(tokenizer(prompt).input_ids) > limit for tokenizer, limit in limits)
