"""Cosine similarity of sentence embeddings (Reimers and Gurevych 2019, arXiv 1908.10084)."""

import hashlib
import importlib.util
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from cyclepref.builder.metrics.requirements import OFFLINE_PACKAGE, OFFLINE_REPO
from cyclepref.builder.metrics.vectors import Vectors
from cyclepref.builder.models.loading import device, loading, pad_batch, quiet, source_of
from cyclepref.schemas.specs import MetricSpec


class Sbert:
    """Texts against texts, by any sentence-transformers model; each distinct text is embedded once.

    Raises:
        ModelError: if the weights do not match the spec's sha256, are incomplete, or are not on this machine and cannot
            be downloaded.
    """

    def __init__(self, spec: MetricSpec):
        self.spec = spec
        quiet()
        # The encoder's own pooling layer is never used: sentence-transformers pools by modules of its own.
        with loading(spec, leave_out=["pooler"]):
            where, pin = _find(spec)
            self.model = SentenceTransformer(where, device=str(device()), model_kwargs={"use_safetensors": True}, **pin)
        self.model.eval()
        self._vectors = Vectors(self._embed, str)

    def compare(self, inputs: list[str], reconstructions: list[str]) -> list[float]:
        """Cosine in [-1, 1] of each input with its reconstruction."""
        return self._vectors.cosines(inputs, reconstructions).tolist()

    @torch.inference_mode()
    def _embed(self, texts: list[str]) -> np.ndarray:
        """Embeddings, shape (texts, dimension). Texts of one token count go together, at a fixed batch shape:
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
        return vectors


def _find(spec: MetricSpec) -> tuple[str, dict[str, Any]]:
    """The folder or Hub id of the weights and the arguments that pin it, checked against the spec's sha256 if there is
    one."""
    where, pin = source_of(spec)
    if where == OFFLINE_REPO and spec.sha256:
        found = importlib.util.find_spec(OFFLINE_PACKAGE)
        packaged = found is not None and found.origin is not None
        where = str(Path(found.origin).parent / "model") if packaged else _download(where)
        pin = {"local_files_only": True}
    if spec.sha256:
        actual = hashlib.sha256((Path(where) / "model.safetensors").read_bytes()).hexdigest()
        if actual != spec.sha256:
            raise ValueError(
                f"{where}/model.safetensors has sha256 {actual}, and {spec.name} needs {spec.sha256}: "
                "reinstall the package or remove the cached model"
            )
    return where, pin


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
