"""DreamSim, a perceptual distance tuned on human judgements (Fu et al. 2023, arXiv 2306.09344), by its package.

The package loads its checkpoints with `torch.load(weights_only=True)`, so that reading them runs no code. Code of a
GitHub repository builds the models in `cyclepref.builder.metrics.requirements.REMOTE_BRANCHES`; the spec must allow
that.
"""

import contextlib
import io
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from dreamsim import dreamsim
from filelock import FileLock
from PIL import Image

from cyclepref.builder.common.images import content_id
from cyclepref.builder.metrics.requirements import check_metric
from cyclepref.builder.metrics.vectors import Vectors
from cyclepref.builder.models.loading import device, loading, pad_batch
from cyclepref.schemas.specs import MetricSpec


class DreamSim:
    """Images against images, each distinct image embedded once: the distance is 1 - cosine of two embeddings.

    Its weights are searched in, and downloaded to, `repo`, or else `dreamsim` in torch.hub's folder (TORCH_HOME).

    Raises:
        RecipeError: if the branch runs a repository's code and the spec does not trust it.
        ModelError: if the weights are not there and cannot be downloaded, or are incomplete.
    """

    def __init__(self, spec: MetricSpec):
        check_metric(spec)
        self.spec = spec
        folder = Path(spec.repo) if spec.repo else Path(torch.hub.get_dir()) / "dreamsim"
        folder.mkdir(parents=True, exist_ok=True)
        # One worker at a time downloads and unpacks; the others then find the files.
        with loading(spec), _same_hub_dir(), _quiet(), FileLock(folder / ".lock"):
            try:
                self.model, self._prepare = dreamsim(
                    device=str(device()), cache_dir=str(folder), dreamsim_type=str(spec.branch)
                )
            except OSError as error:
                raise OSError(
                    f"DreamSim's {spec.branch} is incomplete in {folder} and could not be downloaded "
                    f"({type(error).__name__}: {error}): run once with a network, or unpack the checkpoint of "
                    "DreamSim's releases there"
                ) from error
        self._vectors = Vectors(self._embed, content_id)

    def compare(self, inputs: list[Image.Image], reconstructions: list[Image.Image]) -> list[float]:
        """Distance in [0, 2] of each input from its reconstruction. As in the package, every image is resized to
        224x224, whatever its aspect ratio. Embeddings are centred, so a distance above 1 is possible but rare."""
        return (1 - self._vectors.cosines(inputs, reconstructions)).tolist()

    @torch.inference_mode()
    def _embed(self, images: list[Image.Image]) -> np.ndarray:
        """The package's embeddings, shape (images, dimension), made at a fixed batch shape."""
        size, vectors = self.spec.batch_size, []
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            pixels = torch.cat([self._prepare(image) for image in pad_batch(batch, size)]).to(device())
            vectors.append(self.model.embed(pixels)[: len(batch)].double().cpu().numpy())
        return np.concatenate(vectors)


@contextlib.contextmanager
def _same_hub_dir() -> Iterator[None]:
    """Restore torch.hub's folder, which the package changes: a metric loaded later would look for its weights there."""
    before = torch.hub.get_dir()
    try:
        yield
    finally:
        torch.hub.set_dir(before)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide what the package prints while it loads, and its libraries' warnings about renamed arguments."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
        yield
