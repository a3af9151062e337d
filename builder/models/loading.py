"""What all models share when they load and run."""

from pathlib import Path
from typing import Any, TypeVar

import diffusers
import torch
import transformers

from schemas.specs import MetricSpec, ModelSpec

Item = TypeVar("Item")


def device() -> torch.device:
    """The GPU that this process was given, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def quiet() -> None:
    """Keep progress bars and advice of transformers and diffusers out of a worker's log. A cut prompt is one of
    those warnings; it is counted in the rows instead (`truncated`)."""
    for library in (transformers.utils.logging, diffusers.utils.logging):
        library.set_verbosity_error()
        library.disable_progress_bar()


def source_of(spec: ModelSpec | MetricSpec) -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` finds a model, and the arguments that pin it."""
    if Path(str(spec.repo)).is_dir():
        return str(spec.repo), {"local_files_only": True, "trust_remote_code": spec.trust_remote_code}
    return str(spec.repo), {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}


def pad_batch(items: list[Item], size: int) -> list[Item]:
    """Repeat the last item up to `size`: at one batch shape, a row's value does not depend on its neighbours."""
    return items + items[-1:] * (size - len(items))
