"""How likely a captioner finds an input text, given the candidate image: log P(x | y), with nothing sampled.

VisualGPTScore (Lin et al. 2024, Revisiting the Role of Language Priors in Vision-Language Models, arXiv 2306.01879)
scores images for a text so, by the logarithm. One forward pass tells every token's probability, where a sampled
caption tells one draw.
"""

import inspect
from collections import defaultdict
from typing import Any

import numpy as np
import torch
from PIL import Image

from cyclepref.builder.models.captioners import TransformersCaptioner
from cyclepref.builder.models.loading import ModelError, pad_batch
from cyclepref.schemas.direct_specs import LikelihoodSpec


class Likelihood:
    """Texts against images, by any captioner that transformers loads.

    Raises:
        ModelError: if the spec names no model, or the captioner cannot be loaded.
    """

    def __init__(self, spec: LikelihoodSpec):
        if spec.model is None:
            raise ModelError(f"{spec.name}: no captioner: name one in settings.model, or use it in a t2i2t recipe")
        self.spec = spec
        self._captioner = TransformersCaptioner(spec.model)
        self._start = _start_tokens(self._captioner.model)
        keeps = inspect.signature(self._captioner.model.forward).parameters
        self._keeps_logits = "logits_to_keep" in keeps

    def compare(self, inputs: list[str], candidates: list[Image.Image]) -> list[float]:
        """The mean natural log-probability, in [`spec.low`, 0], of each text's tokens, given the image beside it, the
        captioner's prompt and the text's tokens before; a mean below `spec.low` is `spec.low`. Without `spec.logarithm`
        the mean probability, in [0, 1]: there a token that is nearly impossible counts as one wrong token, while a mean
        of logarithms is decided by it alone.

        Neither the prompt's tokens count nor the token that would end the text: long descriptions of an image go on
        after a short prompt has ended. Texts of one token count go together, at a fixed batch shape, so that no value
        depends on its neighbours by their padding. NaN for a text without tokens.
        """
        tokenizer = self._captioner.tokenizer
        tokens = [tokenizer(text, add_special_tokens=False)["input_ids"] for text in inputs]
        by_length: dict[int, list[int]] = defaultdict(list)
        for at, ids in enumerate(tokens):
            by_length[len(ids)].append(at)
        values, size = np.full(len(inputs), np.nan), self.spec.batch_size
        for members in (by_length[length] for length in sorted(by_length) if length):
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                ids = torch.tensor(pad_batch([tokens[at] for at in batch], size))
                values[batch] = self._means(pad_batch([candidates[at] for at in batch], size), ids)[: len(batch)]
        return np.maximum(values, self.spec.low).tolist()

    @torch.inference_mode()
    def _means(self, images: list[Image.Image], tokens: torch.Tensor) -> np.ndarray:
        """What `compare` gives for each row of tokens, shape (batch, length), under the image of that row."""
        model, length = self._captioner.model, tokens.shape[1]
        tokens = tokens.to(model.device)
        keep = {"logits_to_keep": length} if self._keeps_logits else {}
        logits = model(**self._forced(self._captioner.prepare(images), tokens), use_cache=False, **keep).logits
        # The logits at a position are of the token after it, and the last token is not given.
        said = logits[:, -length:].float().log_softmax(-1).gather(-1, tokens[..., None])[..., 0]
        said = said if self.spec.logarithm else said.exp()
        return said.double().mean(1).cpu().numpy()

    def _forced(self, prepared: Any, tokens: torch.Tensor) -> dict[str, Any]:
        """The model's inputs for an answer that is already known: all of its tokens but the last, after the prompt."""
        # Some processors give the labels of training too.
        inputs, before = {name: value for name, value in prepared.items() if name != "labels"}, tokens[:, :-1]
        begin = torch.tensor([self._start], device=tokens.device).expand(len(tokens), -1)
        if _is_encoder_decoder(self._captioner.model):
            return {**inputs, "decoder_input_ids": torch.cat([begin, before], 1)}
        if "input_ids" not in inputs:
            return {**inputs, "input_ids": torch.cat([begin, before], 1)}
        if self._captioner.model.config.model_type == "blip":
            inputs = _blip_prompt(inputs, self._start[0])
        # PaliGemma tells so what is only read forwards.
        answer = 1 if self._captioner.model.config.model_type == "paligemma" else 0
        shape = inputs["input_ids"].shape
        for name, value in inputs.items():
            if name == "attention_mask":
                inputs[name] = torch.cat([value, value.new_ones(before.shape)], 1)
            elif name.endswith("token_type_ids") and value.shape == shape:
                inputs[name] = torch.cat([value, value.new_full(before.shape, answer)], 1)
        return {**inputs, "input_ids": torch.cat([inputs["input_ids"], before], 1)}


def _is_encoder_decoder(model: torch.nn.Module) -> bool:
    return bool(model.config.is_encoder_decoder or getattr(model.config.get_text_config(), "is_encoder_decoder", False))


def _blip_prompt(inputs: dict[str, Any], begin: int) -> dict[str, Any]:
    """A beginning of a caption as BLIP's `generate` gives it to the decoder: with its own first token, and open at the
    end."""
    ids, mask = inputs["input_ids"][:, :-1].clone(), inputs["attention_mask"][:, :-1]
    ids[:, 0] = begin
    return {**inputs, "input_ids": ids, "attention_mask": mask}


def _start_tokens(model: torch.nn.Module) -> list[int]:
    """What stands before the first token of an answer where the processor gives no prompt for it: a decoder's start,
    and the token that it is forced to begin with, or what a captioner begins with that is given an image alone."""
    config = model.config.get_text_config()
    if not _is_encoder_decoder(model):
        queries = getattr(model.config, "num_query_tokens", 0)
        return [*([model.config.image_token_id] * queries if queries else []), config.bos_token_id]
    forced = model.generation_config.forced_bos_token_id
    begin = model.generation_config.decoder_start_token_id
    return [config.decoder_start_token_id if begin is None else begin, *([] if forced is None else [forced])]
