"""CLIP score as a baseline: the cosine of image and text embeddings by any CLIP, SigLIP or other dual encoder.

Hessel et al. 2021 (arXiv 2104.08718) scale it by 2.5 and cut it at 0. For ordering the scale has no effect, and the cut
would make ties.
"""

import logging
from typing import Any

import torch
from torch.nn.functional import normalize
from transformers import AutoModel

from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.evaluation.decoded import Shown, by_input, flat, key_of
from cyclepref.builder.reward.evaluation.errors import EvaluationError
from cyclepref.builder.reward.network import read_processor
from cyclepref.builder.reward.weights import load_whole

logger = logging.getLogger(__name__)


class Clip:
    """A dual encoder from a folder or the Hub. Texts longer than it reads are cut, with a warning.

    Raises:
        EvaluationError: if there is no model, or it does not embed images and texts in one space.
    """

    def __init__(self, name: str, place: str, batch_size: int, device: torch.device):
        self.name, self._batch_size, self._device = name, batch_size, device
        try:
            model, _ = load_whole(AutoModel.from_pretrained, place, trust_remote_code=False)
            self._processor = read_processor(place, model.config.get_text_config().vocab_size)
        except RewardError as error:
            raise EvaluationError(f"{place} has no readable CLIP or SigLIP: {error}") from error
        if not all(hasattr(model, f"get_{kind}_features") for kind in ("image", "text")):
            kind = model.config.model_type
            raise EvaluationError(f"{place} is a {kind!r}, which cannot embed images and texts: give a CLIP or SigLIP")
        self._model = model.to(device).eval()
        self._length = self._model.config.text_config.max_position_embeddings
        # SigLIP was trained on texts padded to its full length, and reads its last token.
        self._padding = "max_length" if self._model.config.model_type.startswith("siglip") else True

    @torch.inference_mode()
    def score(self, inputs: list[Shown]) -> list[list[float]]:
        """Cosines in [-1, 1]; each distinct image and text is embedded once per call."""
        images, texts = flat(inputs)
        columns = [self._embed(images, self._images), self._embed(texts, self._texts)]
        cosines = (columns[0] * columns[1]).sum(dim=1)
        if not cosines.isfinite().all():
            raise EvaluationError(f"{self.name} gives a cosine that is not a finite number: its weights are broken")
        return by_input(inputs, cosines.tolist())

    def _embed(self, things: list[Any], embed: Any) -> torch.Tensor:
        keys = {id(thing): thing if isinstance(thing, str) else key_of(thing) for thing in things}
        kinds = {keys[id(thing)]: thing for thing in things}
        distinct, size = list(kinds.values()), self._batch_size
        made = [embed(distinct[start : start + size]) for start in range(0, len(distinct), size)]
        place = {key: at for at, key in enumerate(kinds)}
        return normalize(torch.cat(made).float().cpu(), dim=1)[[place[keys[id(thing)]] for thing in things]]

    def _images(self, images: list[Any]) -> torch.Tensor:
        made = self._processor.image_processor(images=images, return_tensors="pt").to(self._device)
        return self._model.get_image_features(**made).pooler_output

    def _texts(self, texts: list[str]) -> torch.Tensor:
        options = {"truncation": True, "max_length": self._length, "return_tensors": "pt"}
        whole = self._processor.tokenizer(texts, padding=False, truncation=False, verbose=False)["input_ids"]
        cut = sum(len(ids) > self._length for ids in whole)
        if cut:
            logger.warning("%d of %d texts were cut to the %d tokens that %s reads", cut, len(texts), self._length,
                           self.name)  # fmt: skip
        made = self._processor.tokenizer(texts, padding=self._padding, **options).to(self._device)
        return self._model.get_text_features(**made).pooler_output
