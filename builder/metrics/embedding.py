"""Cosine similarity of image embeddings by any vision backbone of the transformers library: DINOv2, CLIP, SigLIP..."""

import numpy as np
import torch
from PIL import Image
from transformers import AutoImageProcessor, AutoModel

from cyclepref.builder.common.images import content_id
from cyclepref.builder.metrics.vectors import Vectors
from cyclepref.builder.models.loading import device, loading, pad_batch, quiet, source_of
from cyclepref.schemas.specs import MetricSpec


class ImageEmbedding:
    """Images against images, each distinct image embedded once.

    Pooling: the model's own image features (`get_image_features`: CLIP, SigLIP), else its pooled output (DINOv2: the
    CLS token after the last norm), else its first token, CLS. A pooling layer without weights in the checkpoint is not
    used.

    Raises:
        ModelError: if the repo or folder is not a vision backbone, or lacks weights.
    """

    def __init__(self, spec: MetricSpec):
        self.spec = spec
        self.device = device()
        quiet()
        where, pin = source_of(spec)
        with loading(spec, leave_out=["pooler"]):
            self.processor = AutoImageProcessor.from_pretrained(where, **pin)
            model, info = AutoModel.from_pretrained(where, use_safetensors=True, output_loading_info=True, **pin)
        self._pooled = not info["missing_keys"]
        self.model = model.to(self.device).eval()
        self._vectors = Vectors(self._embed, content_id)

    def compare(self, inputs: list[Image.Image], reconstructions: list[Image.Image]) -> list[float]:
        """Cosine in [-1, 1] of each input with its reconstruction. Each image is resized by the model's own image
        processor alone: CLIP and DINOv2 crop it at the centre, SigLIP squashes it."""
        return self._vectors.cosines(inputs, reconstructions).tolist()

    @torch.inference_mode()
    def _embed(self, images: list[Image.Image]) -> np.ndarray:
        """Pooled features, shape (images, dimension), made at a fixed batch shape."""
        size, vectors = self.spec.batch_size, []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            pixels = self.processor(images=pad_batch(batch, size), return_tensors="pt").to(self.device)
            vectors.append(self._features(pixels)[: len(batch)].double().cpu().numpy())
        return np.concatenate(vectors)

    def _features(self, pixels: dict[str, torch.Tensor]) -> torch.Tensor:
        if hasattr(self.model, "get_image_features"):
            return self.model.get_image_features(**pixels).pooler_output
        output = self.model(**pixels)
        pooled = getattr(output, "pooler_output", None) if self._pooled else None
        return (output.last_hidden_state[:, 0] if pooled is None else pooled).flatten(1)
