"""Loads a reward model from a folder, a Hub id, a checkpoint file, or by the name of a published model."""

from pathlib import Path

import torch

from cyclepref.builder.reward.config import RewardConfig
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.released.checkpoint import PICKLED, TOKENIZER, hub_weights, read_tokenizer, read_weights
from cyclepref.builder.reward.released.convert import convert, kind_of
from cyclepref.builder.reward.start import read_config


def load_published(
    name: str | Path, kind: str, device: str | torch.device | None, tokenizer: str | Path = TOKENIZER
) -> RewardModel:
    """A reward model for use, on `device` (see `usable_device`), in evaluation mode.

    `name` is a folder that `save_pretrained` wrote, a checkpoint file in the layout of `kind` (which is converted), or
    a Hub id of either. `tokenizer` is for checkpoints, which have none.

    Raises:
        RewardError: if there is no such model.
    """
    path, where = Path(name), usable_device(device)
    if path.is_file():
        model = convert(read_weights(path), kind, read_tokenizer(tokenizer))
    elif path.suffix in (".safetensors", *PICKLED):
        raise RewardError(f"no checkpoint at {path}")
    elif path.is_dir() or _is_ours(str(name)):
        model = RewardModel.from_pretrained(name)
    else:
        model = convert(read_weights(hub_weights(str(name))), kind, read_tokenizer(tokenizer))
    return model.to(where).eval()


def usable_device(device: str | torch.device | None = None) -> torch.device:
    """The device of this name; without a name the GPU if there is one, else the CPU.

    Raises:
        RewardError: if there is no such device.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=device).device
    except (RuntimeError, AssertionError, TypeError) as error:  # torch's errors for an unknown device
        raise RewardError(
            f"cannot use the device {str(device)!r}: {' '.join(str(error).split()):.300}; use cpu, cuda or cuda:1"
        ) from error


def published_repo(kind: str) -> str:
    """The Hub repository of a published model; `kind` is one of `KINDS`."""
    return kind_of(kind).repo


def _is_ours(repo: str) -> bool:
    try:
        return read_config(repo).model_type == RewardConfig.model_type
    except RewardError:  # without a config that transformers knows it may hold a checkpoint in the original layout
        return False
