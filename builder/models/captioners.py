"""Image-to-text models of the transformers library, by AutoModelForImageTextToText and AutoProcessor."""

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LogitsProcessor, LogitsProcessorList
from transformers.generation import TemperatureLogitsWarper, TopPLogitsWarper

from builder.models import Caption
from builder.models.cleaning import clean
from builder.models.loading import device, pad_batch, quiet, source_of
from schemas.specs import CaptionerSpec


class TransformersCaptioner:
    """One captioner on one device, always run at its full batch size.

    Raises:
        OSError, ValueError: from transformers, if the repo or folder is not a model of this kind.
    """

    def __init__(self, spec: CaptionerSpec):
        self.spec = spec
        self.device = device()
        quiet()
        where, pin = source_of(spec)
        self.processor = AutoProcessor.from_pretrained(where, **pin)
        self.tokenizer = self.processor.tokenizer
        # Only the new tokens are read back, from a fixed position, so short prompts are padded on the left.
        self.tokenizer.padding_side = "left"
        dtype = getattr(torch, spec.dtype)
        model = AutoModelForImageTextToText.from_pretrained(where, dtype=dtype, use_safetensors=True, **pin)
        self.model = model.to(self.device).eval()

    @torch.inference_mode()
    def caption(self, images: list[Image.Image], seeds: list[int | None]) -> list[Caption]:
        """One caption an image, in order. `images`: RGB of any size. A seed of None means greedy decoding."""
        captions: list[Caption] = []
        size = self.spec.batch_size
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            padded, noise = pad_batch(batch, size), pad_batch(seeds[start : start + size], size)
            captions += self._caption_batch(padded, noise)[: len(batch)]
        return captions

    def _caption_batch(self, images: list[Image.Image], seeds: list[int | None]) -> list[Caption]:
        inputs = self.processor(images=images, return_tensors="pt", **self._text(len(images))).to(
            self.device, dtype=self.model.dtype
        )
        # BLIP-like models are given no prompt and return the caption alone; the others repeat the prompt.
        given = inputs["input_ids"].shape[1] if "input_ids" in inputs and not self._returns_new_only() else 0
        tokens = self.model.generate(
            **inputs,
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.spec.max_new_tokens,
            logits_processor=self._sampling(seeds),
        )
        new = tokens[:, given:].cpu()
        raw = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [Caption(clean(text), text, self._ended_by_limit(row)) for text, row in zip(raw, new, strict=True)]

    def _text(self, count: int) -> dict[str, list[str] | bool]:
        """The processor's text arguments in the model's prompt style."""
        if self.spec.prompt_style == "none":
            return {}
        if self.spec.prompt_style == "prefix":
            return {"text": [self.spec.prompt] * count, "padding": True}
        content = [{"type": "image"}, {"type": "text", "text": self.spec.prompt}]
        prompt = self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        return {"text": [prompt] * count, "padding": True}

    def _returns_new_only(self) -> bool:
        """Encoder-decoder models return new tokens alone."""
        return bool(getattr(self.model.config, "is_encoder_decoder", False))

    def _sampling(self, seeds: list[int | None]) -> LogitsProcessorList:
        if self.spec.greedy:
            return LogitsProcessorList()
        warpers = [TemperatureLogitsWarper(self.spec.temperature)]
        if self.spec.top_p < 1:
            warpers.append(TopPLogitsWarper(self.spec.top_p))
        return LogitsProcessorList([*warpers, GumbelNoise([int(seed) for seed in seeds])])

    def _ended_by_limit(self, tokens: torch.Tensor) -> bool:
        """Whether none of the new tokens, shape (n,), ends the text."""
        eos = self.model.generation_config.eos_token_id
        ends = torch.tensor([eos] if isinstance(eos, int) else eos or [])
        return not torch.isin(tokens, ends).any().item()


class GumbelNoise(LogitsProcessor):
    """Sampling with one generator a row: the argmax of logits plus Gumbel noise is a draw from their softmax.

    transformers samples a batch from one global generator, which would make a row depend on its neighbours.
    (The Gumbel-max trick: Gumbel 1954; Maddison, Tarlow and Minka 2014, arXiv 1411.0030.)
    """

    def __init__(self, seeds: list[int]):
        self.generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Add noise to logits of shape (batch, vocabulary)."""
        # Exponential draws: -log of one is Gumbel noise.
        draws = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=g) for g in self.generators])
        return scores - draws.log().to(scores.device)
