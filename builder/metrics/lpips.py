"""Learned perceptual image patch similarity, a distance (Zhang et al. 2018, arXiv 1801.03924), by its package."""

import contextlib
import io
import re
import warnings
from pathlib import Path

import lpips
import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file

from cyclepref.builder.models.loading import device, loading, pad_batch
from cyclepref.builder.models.weights import Difference, difference
from cyclepref.schemas.specs import MetricSpec

WEIGHTS_FILE = "model.safetensors"
# The package's own weights of its layers ("lin0.model.1.weight"; "lins" has the same layers as a list).
CALIBRATED = Path(lpips.__file__).parent / "weights" / "v0.1"
LAYER = re.compile(r"lin\d")


class Lpips:
    """Images against images. With `repo` it uses that folder's backbone, without the calibration that the package
    learned for its own backbones; its range is then wider than [0, 1].

    Raises:
        ModelError: if `repo` holds no model.safetensors, or weights are missing or of another shape.
    """

    def __init__(self, spec: MetricSpec):
        self.spec = spec
        self.device = device()
        own = spec.repo is not None
        with loading(spec) as found:
            # The package prints while it loads, and uses arguments that torchvision has renamed.
            with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings(action="ignore"):
                self.model = lpips.LPIPS(net=spec.net, pnet_rand=own, lpips=not own, verbose=False)
            if own:
                said = self._read_backbone(Path(str(spec.repo)) / WEIGHTS_FILE)
            else:
                said = self._check_calibration(CALIBRATED / f"{spec.net}.pth")
            found.differences += [said] if said else []
        self.model.to(self.device).eval()

    def _read_backbone(self, file: Path) -> Difference:
        weights, backbone = load_file(file), self.model.net
        said = difference(f"the backbone {self.spec.net}", backbone.state_dict(), weights)
        if not said:
            backbone.load_state_dict({name: value.float() for name, value in weights.items()})
        return said

    def _check_calibration(self, file: Path) -> Difference:
        """Compare the calibration that the package loaded with its file, since it leaves weights that the file lacks
        random."""
        layers = {name: value for name, value in self.model.state_dict().items() if LAYER.match(name)}
        return difference(f"the calibration {file.name}", layers, torch.load(file, "cpu", weights_only=True))

    @torch.inference_mode()
    def compare(self, inputs: list[Image.Image], reconstructions: list[Image.Image]) -> list[float]:
        """Distance >= 0 of each input from its reconstruction.

        An input of another size is scaled (bicubic) to cover its reconstruction and cropped at the centre, so
        that neither picture is distorted.
        """
        fitted = [
            x if x.size == y.size else ImageOps.fit(x, y.size, Image.Resampling.BICUBIC)
            for x, y in zip(inputs, reconstructions, strict=True)
        ]
        values = np.empty(len(inputs))
        for size in {image.size for image in reconstructions}:
            members = [at for at, image in enumerate(reconstructions) if image.size == size]
            for start in range(0, len(members), self.spec.batch_size):
                batch = members[start : start + self.spec.batch_size]
                values[batch] = self._distances([fitted[at] for at in batch], [reconstructions[at] for at in batch])
        return values.tolist()

    def _distances(self, inputs: list[Image.Image], reconstructions: list[Image.Image]) -> np.ndarray:
        x, y = (self._tensor(pad_batch(images, self.spec.batch_size)) for images in (inputs, reconstructions))
        return self.model(x, y).flatten()[: len(inputs)].double().cpu().numpy()

    def _tensor(self, images: list[Image.Image]) -> torch.Tensor:
        """RGB in [-1, 1], as LPIPS expects, shape (batch, 3, height, width)."""
        pixels = np.stack([np.asarray(image, dtype=np.float32) for image in images])
        return (torch.from_numpy(pixels).permute(0, 3, 1, 2) / 127.5 - 1).to(self.device)
