"""Loading all of a model's weights, with an error that names those that do not fit."""

import re
from pathlib import Path
from typing import Any

from transformers.utils import logging as transformers_logging

from cyclepref.builder.reward.errors import RewardError

# Buffers that older versions of transformers stored, and newer ones compute.
NO_WEIGHTS = re.compile(r"(.+\.)?position_ids")
NAMED = 5


def load_whole(load: Any, path: str | Path, **arguments: Any) -> tuple[Any, dict[str, Any]]:
    """The model that `load` (a `from_pretrained`) makes from the weights at `path`, and the library's loading report.

    The library only warns of a missing weight, which would be random and different in each process.

    Raises:
        RewardError: if the weights cannot be read, or some are missing, unexpected or of another shape; the message
            names them.
    """
    options = {"output_loading_info": True, "ignore_mismatched_sizes": True, "use_safetensors": True} | arguments
    shown = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # its table of weights that do not fit would repeat our error
    try:
        model, info = load(path, **options)
    except RewardError:
        raise
    # Readers raise all kinds of exceptions for broken files (SafetensorError, KeyError...).
    except Exception as error:
        raise RewardError(
            f"cannot load the weights of {path} ({type(error).__name__}: {' '.join(str(error).split()):.300}): they "
            "are broken or missing; save or download the model again"
        ) from error
    finally:
        transformers_logging.set_verbosity(shown)
    found = {
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(name for name in info["unexpected_keys"] if not NO_WEIGHTS.fullmatch(name)),
        "of another shape": sorted(
            f"{name} {tuple(given)} instead of {tuple(wanted)}" for name, given, wanted in info["mismatched_keys"]
        ),
    }
    faults = [f"{len(names)} {what}: {_some(names)}" for what, names in found.items() if names]
    if faults:
        raise RewardError(f"the weights of {path} do not fit its config: {'; '.join(faults)}")
    return model, info


def _some(names: list[str]) -> str:
    return ", ".join(names[:NAMED]) + (", ..." if len(names) > NAMED else "")
