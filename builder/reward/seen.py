"""What a reward model was trained on: ids of its training inputs, in a file beside its weights.

They are content ids (see schemas/ids.py), so that an input is known again in any dataset, under any name.
"""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

from builder.images import UnreadableImage, content_id, decode
from builder.layouts import open_layout
from builder.rankings import ArrowImages, LoadError, Rankings
from schemas.ids import text_id

FILE = "train_inputs.txt"


def write_seen(folder: Path, splits: Iterable[Rankings]) -> None:
    """Write the ids of all inputs of the splits that a model in `folder` was trained on, a line each, in order."""
    ids = set().union(*map(ids_of, splits))
    (folder / FILE).write_text("".join(f"{id_}\n" for id_ in sorted(ids)), encoding="utf-8")


def ids_of(split: Rankings) -> set[str]:
    """The ids by which the inputs of a split are known: their content ids, and the dataset's own."""
    ids = set(split.inputs["input_id"].to_pylist())
    if split.cycle.input == "text":
        return ids | set(map(text_id, split.inputs["text"].to_pylist()))
    # In datasets that a build published, an input's own id is of its content.
    return ids if isinstance(split.images, ArrowImages) else ids | _of_images(split)


def _of_images(split: Rankings) -> set[str]:
    ids = set()
    for row in range(split.inputs.num_rows):
        try:
            ids.add(content_id(decode(split.images.of_input(row))))
        except (UnreadableImage, LoadError):  # what cannot be read was not learned from
            continue
    return ids


def read_seen(model: str | Path) -> set[str] | None:
    """The ids of a model's training inputs: from its FILE, or from the datasets that its metrics.json names, where
    they still are. None where neither says it."""
    listed = _file(model, FILE)
    if listed is not None:
        return set(listed.read_text(encoding="utf-8").split())
    ids: set[str] = set()
    for dataset in trained_with(model).get("datasets", []):
        try:
            ids |= ids_of(open_layout(dataset).read("train"))
        except LoadError:  # moved or deleted: nothing is known of it
            return None
    return ids or None


def trained_with(model: str | Path) -> dict[str, Any]:
    """The content of a model's metrics.json; empty where it has none, or one that is none of ours."""
    path = _file(model, "metrics.json")
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path else {}
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _file(model: str | Path, name: str) -> Path | None:
    folder = Path(model).expanduser()
    if folder.exists():
        return folder / name if (folder / name).is_file() else None
    try:
        return Path(hf_hub_download(str(model), name))
    except (EntryNotFoundError, LocalEntryNotFoundError, OfflineModeIsEnabled, HfHubHTTPError, ValueError):
        return None
