"""Reads weight files, from disk or from the Hub, without running code that they may contain."""

from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi, hf_hub_download
from safetensors.torch import load_file
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from cyclepref.builder.reward.errors import RewardError

PICKLED = (".pt", ".pth", ".bin")
# The tokenizer of these models, as in salesforce/BLIP's init_tokenizer.
TOKENIZER = "bert-base-uncased"


def read_weights(path: str | Path) -> Any:
    """The content of a .safetensors, .pt, .pth or .bin file, on the CPU; a pickle's code is not run.

    Raises:
        RewardError: if the file does not exist, has another ending, or holds more than tensors.
    """
    path = Path(path)
    if not path.is_file():
        raise RewardError(f"no checkpoint at {path}: give the file itself, one of .safetensors, {', '.join(PICKLED)}")
    if path.suffix not in (".safetensors", *PICKLED):
        raise RewardError(f"{path} ends in {path.suffix!r}: a checkpoint is one of .safetensors, {', '.join(PICKLED)}")
    try:
        return load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
    # Readers raise all kinds of exceptions for broken files: each means that the file is not a checkpoint.
    except Exception as error:
        raise RewardError(
            f"{path} cannot be read as tensors ({type(error).__name__}): it is broken, or holds more than tensors, "
            "which could run code and is not loaded"
        ) from error


def hub_weights(repo: str, revision: str | None = None) -> Path:
    """Download the only weights file of a Hub repository; safetensors are preferred.

    Raises:
        RewardError: if the Hub cannot be reached, or the repository has no such file, or several.
    """
    try:
        names = HfApi().list_repo_files(repo, revision=revision)
        found = [name for name in names if name.endswith(".safetensors")]
        found = found or [name for name in names if name.endswith(PICKLED)]
        if len(found) == 1:
            return Path(hf_hub_download(repo, found[0], revision=revision))
    except (OSError, ValueError) as error:
        raise RewardError(
            f"cannot get the weights of {repo} ({type(error).__name__}): check the network, or download the file and "
            "convert it with `cyclepref convert-reward`"
        ) from error
    raise RewardError(f"{repo} has {len(found)} files of weights ({', '.join(found[:5])}): download one and convert it")


def read_tokenizer(name: str | Path = TOKENIZER) -> PreTrainedTokenizerBase:
    """A tokenizer by Hub id or folder.

    Raises:
        RewardError: if it cannot be loaded.
    """
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    # Readers raise all kinds of exceptions for broken files.
    except Exception as error:
        raise RewardError(
            f"cannot load the tokenizer {name} ({type(error).__name__}): these models use bert-base-uncased; name a "
            "folder that has it"
        ) from error
