"""The origin of a reward model for the Hub's metadata in its card: licence, base model, datasets."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from cyclepref.builder.dataset.licences import UNKNOWN, strictest
from cyclepref.builder.reward.start_names import EMBEDDED

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# The licences under which authors released models, for models whose card on the Hub names none or cannot be read.
STARTS = {"openai/clip-vit-large-patch14": "mit", "openai/clip-vit-base-patch32": "mit"}
CARD = "README.md"


@dataclass(frozen=True)
class Origin:
    """`licence` is an id of the Hub, or the licence's name if the Hub's id is "other"; `unknown` are the models and
    datasets whose licence is not known; `models` and `datasets` are those on the Hub."""

    licence: str = UNKNOWN
    licence_id: str = UNKNOWN
    unknown: list[str] = field(default_factory=list)
    base_model: str | None = None
    datasets: list[str] = field(default_factory=list)


def about_training(metrics: dict[str, Any]) -> Origin:
    """The origin of a trained model, from the content of its metrics.json."""
    start = str(metrics["start"])
    given = {_name(start): _licence_of(start, "model")}
    places = [str(dataset) for dataset in metrics["datasets"]]
    given |= {_name(place): _licence_of(place, "dataset") for place in places}
    licence_id, licence, unknown = strictest(given)
    base = start if _on_hub(start) else None
    return Origin(licence, licence_id, unknown, base, [place for place in map(_place, places) if _on_hub(place)])


def head(origin: Origin, *tags: str) -> str:
    """The card's metadata, with the lines around it."""
    content: dict[str, Any] = {
        "library_name": "transformers",
        "tags": ["cyclepref", "reward-model", "image-text-alignment", *tags],
        "license": origin.licence_id,
    }
    if origin.licence_id == "other":
        content["license_name"] = origin.licence
    if origin.base_model:
        content["base_model"] = origin.base_model
    if origin.datasets:
        content["datasets"] = origin.datasets
    return f"---\n{yaml.safe_dump(content, sort_keys=False, allow_unicode=True)}---\n"


def _place(dataset: str) -> str:
    """A dataset's place without a leading FORMAT:."""
    return dataset if _is_here(dataset) else dataset.rpartition(":")[2]


def _name(place: str) -> str:
    """A place as a card names it; a folder of this machine is named without its path."""
    return Path(place).name if _is_here(place) else place


def _is_here(place: str) -> bool:
    try:
        return Path(place).exists()
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return False


def _on_hub(place: str) -> bool:
    return bool(HUB_ID.fullmatch(place)) and not _is_here(place) and not place.startswith(EMBEDDED)


def _licence_of(place: str, kind: str) -> str | None:
    """The licence in the card of a model or dataset, in a folder or on the Hub."""
    if place.startswith(EMBEDDED):
        return "mit"
    place = _place(place)
    if place in STARTS:
        return STARTS[place]
    if _is_here(place):
        cards = [Path(place) / CARD, Path(place) / "dataset" / CARD]
        return next((_named_in(card) for card in cards if card.is_file()), None)
    try:
        return _named_in(Path(hf_hub_download(place, CARD, repo_type=kind)))
    # Without a card or a network the licence is not known, and our card says so.
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError):
        return None


def _named_in(card: Path) -> str | None:
    try:
        _, text, _ = card.read_text(encoding="utf-8").split("---", 2)
        content = yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        return None
    if not isinstance(content, dict):
        return None
    name = content.get("license_name") if content.get("license") == "other" else content.get("license")
    return name if isinstance(name, str) else None
