"""Image-to-text models of the transformers library, by AutoModelForImageTextToText and AutoProcessor."""

from typing import Any

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, BatchFeature, LogitsProcessor, LogitsProcessorList
from transformers.quantizers import AutoQuantizationConfig

from cyclepref.builder.models.cleaning import clean
from cyclepref.builder.models.loading import check_fits, device, loading, pad_batch, quiet, source_of, spread
from cyclepref.builder.models.protocols import Caption
from cyclepref.builder.models.sampling import Sampling
from cyclepref.schemas.specs import CaptionerSpec


class TransformersCaptioner:
    """One captioner on one device or spread over several, always run at its full batch size.

    Raises:
        ModelError: if the repo or folder is not a model of this kind, has no chat template for prompt_style chat,
            lacks a package, or does not fit the GPU.
    """

    def __init__(self, spec: CaptionerSpec):
        self.spec = spec
        quiet()
        check_fits(spec)
        with loading(spec):
            where, pin = source_of(spec)
            self.processor = AutoProcessor.from_pretrained(where, **pin)
            self.tokenizer = self._tokenizer()
            self.model = AutoModelForImageTextToText.from_pretrained(
                where, dtype=getattr(torch, spec.dtype), use_safetensors=True, **self._options(), **pin
            ).eval()
        if spread(spec) is None and spec.quantization_config is None:
            self.model.to(device())
        self._ends = _end_tokens(self.model, self.tokenizer)
        # Florence-2 forces an end token at the limit, so that the last allowed token does not tell whether the text
        # ended.
        self._forced_end = any(config.forced_eos_token_id is not None for config in _generation_configs(self.model))

    @torch.inference_mode()
    def caption(self, images: list[Image.Image], seeds: list[int | None]) -> list[Caption]:
        """One caption for each image, in order. `images`: RGB of any size. A seed of None means greedy decoding."""
        captions: list[Caption] = []
        size = self.spec.batch_size
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            padded, noise = pad_batch(batch, size), pad_batch(seeds[start : start + size], size)
            captions += self._caption_batch(padded, noise)[: len(batch)]
        return captions

    def prepare(self, images: list[Image.Image]) -> BatchFeature:
        """The model's inputs: pixels in its dtype, and the prompt in its style, padded on the left."""
        how = {"padding": True, "return_tensors": "pt"}
        if self.spec.prompt_style == "none":
            inputs = self.processor(images=images, return_tensors="pt")
        elif self.spec.prompt_style == "prefix":
            inputs = self.processor(images=images, text=[self.spec.prompt] * len(images), **how)
        else:
            inputs = self.processor.apply_chat_template(
                [self._question(image) for image in images],
                add_generation_prompt=True, tokenize=True, return_dict=True, processor_kwargs=how,
            )  # fmt: skip
        return inputs.to(self.model.device, dtype=self.model.dtype)

    def _caption_batch(self, images: list[Image.Image], seeds: list[int | None]) -> list[Caption]:
        first = FirstStep()
        tokens = self.model.generate(
            **self.prepare(images),
            do_sample=False,
            num_beams=1,
            max_new_tokens=self.spec.max_new_tokens,
            logits_processor=LogitsProcessorList([first, *self._sampling(seeds)]),
        )
        new = tokens[:, first.given :].cpu()
        raw = self.tokenizer.batch_decode(new, skip_special_tokens=True)
        return [Caption(clean(text), text, self._ended_by_limit(row)) for text, row in zip(raw, new, strict=True)]

    def _tokenizer(self) -> Any:
        """The processor's tokenizer, set up for batches of prompts of different lengths."""
        tokenizer = getattr(self.processor, "tokenizer", None)
        if tokenizer is None:
            raise ValueError("its processor cannot read images with text: it has no tokenizer")
        if self.spec.prompt_style == "chat" and getattr(self.processor, "chat_template", None) is None:
            raise ValueError("its processor has no chat template: set prompt_style to prefix or none")
        # New tokens are read from a fixed position on, so short prompts are padded on the left.
        tokenizer.padding_side = "left"
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        return tokenizer

    def _options(self) -> dict[str, Any]:
        """The arguments of `from_pretrained` that the spec asks for."""
        options: dict[str, Any] = {}
        if self.spec.attention:
            options["attn_implementation"] = self.spec.attention
        if self.spec.quantization_config is not None:
            options["quantization_config"] = AutoQuantizationConfig.from_dict(dict(self.spec.quantization_config))
        if device_map := spread(self.spec):
            options["device_map"] = device_map
        elif self.spec.quantization_config is not None:
            options["device_map"] = {"": device()}  # quantised layers cannot move to another device later
        return options

    def _question(self, image: Image.Image) -> list[dict[str, Any]]:
        content = [{"type": "image", "image": image}, {"type": "text", "text": self.spec.prompt}]
        return [{"role": "user", "content": content}]

    def _sampling(self, seeds: list[int | None]) -> list[LogitsProcessor]:
        if self.spec.greedy:
            return []
        spec = self.spec
        return [Sampling([int(seed) for seed in seeds], spec.max_new_tokens, spec.temperature, spec.top_p)]

    def _ended_by_limit(self, tokens: torch.Tensor) -> bool:
        """Whether the new tokens of a row, shape (n,), are as many as allowed, and the last does not end the text."""
        free = tokens[:-1] if self._forced_end else tokens
        return len(tokens) >= self.spec.max_new_tokens and not self._ends & set(free[-1:].tolist())


def _generation_configs(model: torch.nn.Module) -> list[Any]:
    """The generation configs of a model and of the models in it, since some families generate by an inner language
    model."""
    found = [getattr(part, "generation_config", None) for part in model.modules()]
    return [config for config in found if config is not None]


def _end_tokens(model: torch.nn.Module, tokenizer: Any) -> set[int]:
    """Tokens that end a text or pad it after its end; BLIP ends texts with its separator."""
    ends: set[int] = {tokenizer.pad_token_id}
    for config in _generation_configs(model):
        eos = config.eos_token_id
        ends |= {eos} if isinstance(eos, int) else set(eos or [])
    if model.config.model_type == "blip":
        ends.add(model.config.text_config.sep_token_id)
    return ends


class FirstStep(LogitsProcessor):
    """Records how many tokens at the beginning of the output are not generated: the prompt if the model repeats it, the
    decoder's start token, or none. Families differ, so it is observed at the first step."""

    def __init__(self) -> None:
        self.given: int | None = None

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Read the length of tokens, shape (batch, length), before the first of logits (batch, vocabulary)."""
        if self.given is None:
            self.given = input_ids.shape[1]
        return scores
