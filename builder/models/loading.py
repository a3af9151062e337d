"""Loading and running, as far as all models share it."""

import importlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import torch

from cyclepref.builder.models.weights import Watched, imported, watched
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.specs import MetricSpec, ModelSpec

Item = TypeVar("Item")


class ModelError(CyclePrefError, RuntimeError):
    """A model that cannot be loaded, or a setting that it does not have. The message is one line, since Ray shows only
    the last line."""


def device() -> torch.device:
    """The GPU that this process was given, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def quiet() -> None:
    """Keep progress bars and advice of transformers and diffusers out of a worker's log. A cut prompt is one of
    those warnings; it is counted in the rows instead (`truncated`)."""
    for utils in (imported("transformers", "utils"), imported("diffusers", "utils")):
        if utils is not None:
            utils.logging.set_verbosity_error()
            utils.logging.disable_progress_bar()


def source_of(spec: ModelSpec | MetricSpec) -> tuple[str, dict[str, Any]]:
    """Where `from_pretrained` finds a model, and the arguments that pin it."""
    if Path(str(spec.repo)).is_dir():
        return str(spec.repo), {"local_files_only": True, "trust_remote_code": spec.trust_remote_code}
    return str(spec.repo), {"revision": spec.revision, "trust_remote_code": spec.trust_remote_code}


@contextmanager
def loading(spec: ModelSpec | MetricSpec, leave_out: Iterable[str] = ()) -> Iterator[Watched]:
    """Load a model in this block: an error of its libraries, or a fault that they do not report, becomes one clear
    line.

    `leave_out` names unused parts that may be missing as a whole (see `cyclepref.builder.models.weights`). The block
    may add differences that it finds itself to the `Watched` that it is given.

    Raises:
        ModelError: if a package is missing, the repo or folder is gated, absent or another kind of model, or weights
            are missing or do not fit the config.
    """
    where = spec.repo or f"the weights of the package {spec.kind}"
    if spec.trust_remote_code:
        # A model's own code may load its parts by either library, so both have to be watched.
        for library in ("transformers", "diffusers"):
            importlib.import_module(library)
    with watched(spec.repo, leave_out) as found:
        try:
            yield found
        except CyclePrefError:
            raise
        except ImportError as error:
            raise ModelError(f"{spec.name}: a package is missing for {where}: {_line(error)}") from error
        except torch.OutOfMemoryError as error:
            raise ModelError(f"{spec.name}: the GPU's memory ran out while loading {where}. {_LESS_MEMORY}") from error
        except Exception as error:
            if not found.differences:
                part = f"{found.failed}: " if found.failed else ""
                kind = f"metric ({spec.kind})" if isinstance(spec, MetricSpec) else spec.kind
                hint = _DAMAGED if _is_damaged(error) else ""
                raise ModelError(f"{spec.name}: cannot load {where} as a {kind}: {part}{_line(error)}{hint}") from error
            raise ModelError(_unfit(spec, where, found)) from error
    if found.differences:
        raise ModelError(_unfit(spec, where, found))


def _is_damaged(error: BaseException) -> bool:
    """Whether a file of weights could not be read. Some libraries report that only in the cause of their error."""
    if type(error).__name__ in ("SafetensorError", "UnpicklingError"):
        return True
    return error.__context__ is not None and _is_damaged(error.__context__)


def _unfit(spec: ModelSpec | MetricSpec, where: str, found: Watched) -> str:
    said = "; ".join(map(str, found.differences))
    return f"{spec.name}: {where} does not hold the model that its config describes: {said}. {_WHOLE}"


def check_fits(spec: ModelSpec) -> None:
    """Refuse a model or dtype that this process's GPUs cannot hold, before gigabytes are read.

    Raises:
        ModelError: says how much memory is needed, and how much there is.
    """
    if not torch.cuda.is_available():
        return
    if spec.dtype == "bfloat16" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ModelError(f"{spec.name}: {torch.cuda.get_device_name()} has no bfloat16: set dtype to float16")
    if spec.memory_gb is None or getattr(spec, "cpu_offload", None):
        return
    count = torch.cuda.device_count() if spread(spec) else 1
    there = sum(torch.cuda.get_device_properties(at).total_memory for at in range(count)) / 1e9
    if spec.memory_gb > there:
        raise ModelError(
            f"{spec.name}: not enough GPU memory: about {spec.memory_gb:g} GB needed in {spec.dtype} (an estimate), "
            f"and the GPU has {there:.1f} GB. {_LESS_MEMORY}"
        )


def spread(spec: ModelSpec) -> str | None:
    """The device map of a model on several GPUs, None for one device."""
    wanted = getattr(spec, "device_map", None)
    return wanted or ("auto" if hasattr(spec, "device_map") and spec.num_gpus > 1 else None)


_DAMAGED = ": the file is damaged or cut short, so download or copy it again"
_WHOLE = (
    "Weights that are missing would be random numbers, other ones in each process: download or copy the model again, "
    "or name one whose config and weights belong together"
)
_LESS_MEMORY = (
    "Use a larger GPU, dtype bfloat16, num_gpus above 1 or a quantization_config (captioners), "
    "or cpu_offload: model (pipelines)"
)


def _line(error: Exception) -> str:
    """An error's class and message on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def pad_batch(items: list[Item], size: int) -> list[Item]:
    """Repeat the last item up to `size`: at one batch shape, a row's value does not depend on its neighbours."""
    return items + items[-1:] * (size - len(items))
