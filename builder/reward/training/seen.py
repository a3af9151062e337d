"""The ids of a reward model's training inputs, in a file beside its weights.

They are content ids (see schemas/ids.py), so that an input is recognised in any dataset, under any name.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    OfflineModeIsEnabled,
)

from cyclepref.builder.common.images import UnreadableImage, content_id, decode
from cyclepref.builder.preferences.layouts.as_rankings import open_layout
from cyclepref.builder.preferences.published import ArrowImages
from cyclepref.builder.preferences.rankings import LoadError, Rankings
from cyclepref.builder.reward.errors import RewardError
from cyclepref.schemas.ids import text_id

TRAIN_INPUTS_FILE = "train_inputs.txt"


class Seen(NamedTuple):
    """A model's training data: ids of its inputs; a text about what is missing in them, or "" if they are complete; the
    cycles of its pairs."""

    ids: set[str]
    missing: str = ""
    cycles: tuple[str, ...] = ()


_REPAIR = (
    ": it lists the inputs that the model was trained on, and is damaged; get it again from the model's source, or "
    "delete it to go on without a check for leaks"
)
NOT_SAID = "the model does not say what it was trained on"
NOT_SAID_BEFORE = "the model began with one that does not say what it was trained on"


def write_seen(folder: Path, splits: Iterable[Rankings], before: Iterable[str] = ()) -> None:
    """Write the ids of all inputs that the model in `folder` was trained on, those of its start (`before`) included,
    sorted, one on each line."""
    ids = set(before).union(*map(ids_of, splits))
    (folder / TRAIN_INPUTS_FILE).write_text("".join(f"{id_}\n" for id_ in sorted(ids)), encoding="utf-8")


def ids_of(split: Rankings) -> set[str]:
    """The ids of a split's inputs: their content ids, and the dataset's own ids if it has any."""
    ids = set(split.inputs["input_id"].to_pylist()) if split.ids_given else set()
    if split.cycle.input == "text":
        return ids | set(map(text_id, split.inputs["text"].to_pylist()))
    # In datasets that a build published, an input's own id is its content id.
    return ids if isinstance(split.images, ArrowImages) else ids | _of_images(split)


def _of_images(split: Rankings) -> set[str]:
    ids = set()
    for row in range(split.inputs.num_rows):
        try:
            ids.add(content_id(decode(split.images.of_input(row))))
        except (UnreadableImage, LoadError):  # an unreadable image was not learned from
            continue
    return ids


def read_seen(model: str | Path, revision: str | None = None) -> Seen:
    """The training data of a model in a folder or on the Hub: from its TRAIN_INPUTS_FILE, or else from the datasets
    that its metrics.json names, if they still exist.

    Raises:
        RewardError: if its TRAIN_INPUTS_FILE exists but is empty or not text.
    """
    try:
        listed, told = _file(model, TRAIN_INPUTS_FILE, revision), _told(model, revision)
    except _NotFetched as error:
        return Seen(set(), f"the list of what the model was trained on could not be fetched ({error})")
    accuracy = told.get("pairwise_accuracy")
    cycles = tuple(sorted(accuracy)) if isinstance(accuracy, dict) else ()
    if listed is not None:
        ids = _ids_in(listed)
        return Seen(ids, NOT_SAID_BEFORE if told.get("seen_before") == "unknown" else "", cycles)
    ids = set()
    datasets = told.get("datasets")
    for dataset in datasets if isinstance(datasets, list) else []:
        try:
            ids |= ids_of(open_layout(dataset).read("train"))
        except LoadError:  # moved or deleted: its inputs are unknown
            return Seen(set(), NOT_SAID, cycles)
    return Seen(ids, "" if ids else NOT_SAID, cycles)


def _ids_in(file: Path) -> set[str]:
    """The ids that a model's TRAIN_INPUTS_FILE lists."""
    try:
        ids = set(file.read_text(encoding="utf-8").split())
    except UnicodeDecodeError as error:
        raise RewardError(f"{file} is not UTF-8 ({error.reason} at byte {error.start}){_REPAIR}") from error
    except OSError as error:
        raise RewardError(f"cannot read {file}: {error.strerror or error}") from error
    if not ids:
        raise RewardError(f"{file} is empty{_REPAIR}")
    return ids


def _told(model: str | Path, revision: str | None) -> dict[str, Any]:
    """The content of a model's metrics.json; empty if it has none, or one that CyclePref did not write."""
    path = _file(model, "metrics.json", revision)
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


class _NotFetched(Exception):
    """A file that may be on the Hub, which could not be reached."""


def _file(model: str | Path, name: str, revision: str | None) -> Path | None:
    folder = Path(model).expanduser()
    if folder.exists():
        return folder / name if (folder / name).is_file() else None
    try:
        return Path(hf_hub_download(str(model), name, revision=revision))
    except (LocalEntryNotFoundError, OfflineModeIsEnabled) as error:  # before EntryNotFoundError, its base class
        raise _NotFetched(type(error.__cause__ or error).__name__) from error
    except (EntryNotFoundError, HFValidationError):
        return None
    except HfHubHTTPError as error:
        raise _NotFetched(type(error).__name__) from error
