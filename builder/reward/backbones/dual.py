"""The common part of dual encoders: image and text are embedded separately, and the head reads both side by side.

The form of Lee et al. 2023 (arXiv 2302.12192), who put an MLP on the embeddings of CLIP ViT-L/14.
"""

from abc import ABC, abstractmethod
from typing import Any

import torch


class Dual(ABC):
    """Each distinct image and text is embedded once, independently of its pairs."""

    joint = False

    @abstractmethod
    def encode_texts(self, model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """(texts, length) -> (texts, width)."""

    def read_images(self, model: Any, image_states: torch.Tensor) -> torch.Tensor:
        """The embeddings themselves."""
        return image_states

    def pair_states(
        self,
        model: Any,
        memory: torch.Tensor,
        image_index: torch.Tensor | None,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        text_index: torch.Tensor | None,
    ) -> tuple[torch.Tensor, float]:
        """Image and text embeddings of the pairs, side by side; nothing is added."""
        texts = self.encode_texts(model, input_ids, attention_mask)
        return self.join(memory, texts, image_index, text_index), 0.0

    def join(
        self,
        images: torch.Tensor,
        texts: torch.Tensor,
        image_index: torch.Tensor | None,
        text_index: torch.Tensor | None,
    ) -> torch.Tensor:
        """(n, width of images + width of texts); pair i is of image `image_index[i]` and text `text_index[i]`."""
        images = images if image_index is None else images[image_index]
        texts = texts if text_index is None else texts[text_index]
        return torch.cat([images, texts], dim=-1)
