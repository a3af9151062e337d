"""Whether a folder in the Hub's layout holds all files of a model, by names and headers: no weights are read."""

import json
import re
from pathlib import Path
from typing import Any

from cyclepref.schemas.specs import PainterSpec

# "model.fp16-00001-of-00002.safetensors": the variant stands between the name and the shard's number.
VARIANT = re.compile(r"^[^.]+(?:\.(?P<variant>[^.-]+))?(?:-\d+-of-\d+)?\.safetensors$")
# The largest safetensors header in bytes that the format allows.
LONGEST_HEADER = 100_000_000


def lacking(folder: Path, spec: Any) -> list[str]:
    """The missing parts of a model, as texts that continue its path ("has no config.json"); empty if none is
    missing."""
    if isinstance(spec, PainterSpec):
        return _pipeline(folder, spec.variant)
    if not any((folder / name).is_file() for name in ("config.json", "modules.json", "adapter_config.json")):
        return ["has no config.json"]
    places = [folder, *sorted(file.parent for file in folder.glob("*/config.json"))]
    found = [place for place in places if any(place.glob("*.safetensors*"))]
    if not found:
        return ["has no weights (*.safetensors)"]
    return [problem for place in found for problem in _weights(place, None)]


def cut_short(file: Path) -> str | None:
    """What is wrong with a safetensors file's header and length, or None.

    The file is 8 bytes with the header's length, the header (JSON: name -> dtype, shape, offsets), and the tensors.
    """
    size = file.stat().st_size
    with file.open("rb") as content:
        length = int.from_bytes(content.read(8), "little")
        if size < 8 or length > min(size - 8, LONGEST_HEADER):
            return "is cut short or not a safetensors file"
        try:
            header = json.loads(content.read(length))
            ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
        except (ValueError, LookupError, TypeError, AttributeError):
            return "has a damaged header"
    whole = 8 + length + max(ends, default=0)
    return f"has {size} bytes of {whole}" if size != whole else None


def _pipeline(folder: Path, variant: str | None) -> list[str]:
    index = folder / "model_index.json"
    if not index.is_file():
        return ["has no model_index.json"]
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
        parts = [name for name, part in content.items() if _is_component(name, part)]
    except (ValueError, AttributeError):
        return ["has a model_index.json that is not JSON"]
    problems = []
    for part in parts:
        place = folder / part
        if not place.is_dir():
            problems.append(f"has no {part}/, which its model_index.json names")
        elif (place / "config.json").is_file():  # tokenizers and schedulers have none
            there = any(place.glob("*.safetensors*"))
            problems += _weights(place, variant) if there else [f"has no weights (*.safetensors) in {part}/"]
    return problems


def _is_component(name: str, part: Any) -> bool:
    return not name.startswith("_") and isinstance(part, list) and len(part) == 2 and all(part)


def _weights(place: Path, variant: str | None) -> list[str]:
    """What is wrong with one model's weight files: those of the variant, or the plain ones if the variant has none."""
    files = {file: _variant(file) for file in place.glob("*.safetensors")}
    mine = [file for file, its in files.items() if its == variant] or [f for f, its in files.items() if its is None]
    problems = [f"{file.name} in {place.name}/ {why}" for file in sorted(mine) if (why := cut_short(file))]
    for index in sorted(place.glob("*.safetensors.index*.json")):
        if (f".{variant}." in index.name) != (variant is not None):
            continue
        try:
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, LookupError, AttributeError):
            problems.append(f"{index.name} in {place.name}/ names no shards")
            continue
        gone = sorted(shard for shard in shards if not (place / shard).is_file())
        if gone and not any("-of-" not in file.name for file in mine):
            problems.append(f"has no {', '.join(gone[:3])} ({len(gone)} of {len(shards)} shards) in {place.name}/")
    return problems


def _variant(file: Path) -> str | None:
    match = VARIANT.match(file.name)
    return match["variant"] if match else None
