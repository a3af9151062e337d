"""Makes reward models with the towers of a pretrained model and a new head."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    BlipForConditionalGeneration,
    BlipForImageTextRetrieval,
    CLIPModel,
    PreTrainedConfig,
    PreTrainedModel,
    SiglipModel,
)

from cyclepref.builder.catalog.resolve import COMMIT, commit_of
from cyclepref.builder.reward.config import RewardConfig
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.network import read_processor
from cyclepref.builder.reward.weights import load_whole
from cyclepref.schemas.recipe import RecipeError

Parts = dict[str, dict[str, torch.Tensor]]
DUAL_PARTS = ("vision_model", "text_model", "visual_projection", "text_projection")


def read_config(path: str | Path, revision: str | None = None, **hub: Any) -> PreTrainedConfig:
    """The config of a model at a Hub id or in a folder; `hub` as `from_pretrained` takes them (token, cache_dir...).

    Raises:
        RewardError: if there is no config that transformers knows.
    """
    if Path(path).expanduser().is_absolute() and not Path(path).is_dir():
        raise RewardError(f"no folder at {path}: give a folder with a model, or a Hub id")
    try:
        # Otherwise transformers asks on the terminal whether to run a folder's own code.
        return AutoConfig.from_pretrained(path, revision=revision, **{"trust_remote_code": False, **hub})
    except RewardError as error:
        raise RewardError(f"the config of {path}: {error}") from error
    # The library raises all kinds of errors for a broken config: KeyError, TypeError, errors of its own validation.
    except Exception as error:
        said = " ".join(str(error).split()) or "no message"
        raise RewardError(f"{path} has no model that transformers can read: {said:.500}") from error


def start_revision(place: str | Path, revision: str | None, begun: str | None = None) -> str | None:
    """The commit of a start on the Hub, None for a folder. `begun` is the "id@commit" with which a training began that
    is now resumed; it is kept if no revision is given, so that a branch that moved does not change the training.

    Raises:
        RewardError: if the Hub has no such repository or revision, or cannot be reached.
    """
    if Path(place).is_dir() or (revision and COMMIT.fullmatch(revision)):
        return revision
    if begun and not revision and begun.startswith(f"{place}@"):
        return begun.rpartition("@")[2]
    try:
        return commit_of("what training starts from", str(place), revision or "main")
    except RecipeError as error:
        raise RewardError(str(error)) from error


def start(model_class: type, path: str | Path, revision: str | None, config: dict[str, Any]) -> Any:
    """A `model_class` (`RewardModel`) with the towers of the model at `path`; `config` sets fields of `RewardConfig`.

    Raises:
        RewardError: if no backbone has the model's architecture.
    """
    found = read_config(path, revision)
    if found.model_type not in STARTS:
        kinds = ", ".join(STARTS)
        raise RewardError(f"a reward model starts from one of {kinds}, but {path} is {found.model_type!r}")
    towers, parts = STARTS[found.model_type](found, path, revision)
    settings = {"text_config": found.text_config, "vision_config": found.vision_config, **towers, **config}
    model = model_class(RewardConfig(backbone=found.model_type, **settings))
    for name, weights in parts.items():
        if name in dict(model.named_children()):
            model.get_submodule(name).load_state_dict(weights)
    model.processor = read_processor(path, model.config.text_config.vocab_size, revision=revision)
    return model.eval()


def _blip(found: PreTrainedConfig, path: str | Path, revision: str | None) -> tuple[dict[str, Any], Parts]:
    """The towers of a captioner (with its caption decoder) or of an image-text matcher (with its image-grounded text
    encoder)."""
    if "BlipForImageTextRetrieval" in (found.architectures or ()):
        matcher = _load(BlipForImageTextRetrieval, path, revision)
        return {}, {"vision_model": matcher.vision_model.state_dict(), "text_model": matcher.text_encoder.state_dict()}
    captioner = _load(BlipForConditionalGeneration, path, revision)
    predictions = captioner.text_decoder.cls.predictions
    likelihood = {f"transform.{name}": weight for name, weight in predictions.transform.state_dict().items()}
    return {}, {
        "vision_model": captioner.vision_model.state_dict(),
        "text_model": captioner.text_decoder.bert.state_dict(),
        "likelihood": {**likelihood, "bias": predictions.decoder.bias.data},
    }


def _clip(found: PreTrainedConfig, path: str | Path, revision: str | None) -> tuple[dict[str, Any], Parts]:
    return {"projection_dim": found.projection_dim}, _children(_load(CLIPModel, path, revision))


def _siglip(found: PreTrainedConfig, path: str | Path, revision: str | None) -> tuple[dict[str, Any], Parts]:
    return {}, _children(_load(SiglipModel, path, revision))


def _children(model: PreTrainedModel) -> Parts:
    return {name: part.state_dict() for name, part in model.named_children() if name in DUAL_PARTS}


def _load(kind: type[PreTrainedModel], path: str | Path, revision: str | None) -> PreTrainedModel:
    """In single precision."""
    return load_whole(kind.from_pretrained, path, revision=revision, dtype=torch.float32)[0]


STARTS: dict[str, Callable[..., tuple[dict[str, Any], Parts]]] = {"blip": _blip, "clip": _clip, "siglip": _siglip}
