"""What is known of a model's size and work before it is loaded: from the catalog, its own folder, or its name."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.schemas.direct_specs import DirectSpec
from cyclepref.schemas.specs import ModelSpec, PainterSpec

# "llava-1.5-13b-hf", "Qwen3-VL-8B", "sana_1600M": a number of parameters as names carry it.
SIZE = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)([bBmM])(?![A-Za-z0-9])")
# Bytes of a parameter by the dtype in a safetensors header.
BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "I64": 8, "I32": 4}


@dataclass(frozen=True)
class Known:
    """A model's spec with `parameters` and `step_tflop` filled in as far as they are known, and the assumption behind
    that, if it is one."""

    spec: Any
    assumption: str | None = None


def known(spec: Any) -> Known:
    """Fill in what the spec of a model, or of the model of a metric, does not say about its size."""
    if isinstance(spec, DirectSpec) and spec.model is not None:
        inner = known(spec.model)
        return Known(spec.model_copy(update={"model": inner.spec}), inner.assumption)
    if not isinstance(spec, ModelSpec):
        return Known(spec)
    filled: dict[str, Any] = {}
    row = _row_of(spec.repo)
    if isinstance(spec, PainterSpec) and spec.step_tflop is None and isinstance(row, PainterSpec):
        filled["step_tflop"] = row.step_tflop
    if spec.parameters is None and row is not None:
        filled["parameters"] = row.parameters
    assumption = None
    if spec.parameters is None and filled.get("parameters") is None:
        filled["parameters"], assumption = _guessed(spec)
    return Known(spec.model_copy(update=filled), assumption)


def _guessed(spec: ModelSpec) -> tuple[int | None, str | None]:
    folder = Path(spec.repo)
    if folder.is_dir():
        return parameters_in(folder) or None, None
    if found := SIZE.search(spec.repo.rpartition("/")[2]):
        count = float(found[1]) * (1e9 if found[2] in "bB" else 1e6)
        return int(count), f"{spec.name} has {found[0]} parameters, as its name says"
    return None, f"nothing is known of the size of {spec.name}: set `parameters` in its settings"


def _row_of(repo: str) -> ModelSpec | None:
    """The catalog's row with these weights; a copy of them in another repository has the same last name."""
    rows = [row for row in CATALOG.values() if isinstance(row, ModelSpec) and row.parameters]
    same = [row for row in rows if row.repo == repo]
    alike = [row for row in rows if row.repo.rpartition("/")[2].lower() == repo.rpartition("/")[2].lower()]
    return next(iter([*same, *alike]), None)


def parameters_in(folder: Path) -> int:
    """The parameters of all safetensors files below a folder, by their headers."""
    return sum(_parameters(file) for file in sorted(folder.rglob("*.safetensors")))


def _parameters(file: Path) -> int:
    with file.open("rb") as content:
        header = json.loads(content.read(int.from_bytes(content.read(8), "little")))
    tensors = [tensor for name, tensor in header.items() if name != "__metadata__"]
    return sum(
        (tensor["data_offsets"][1] - tensor["data_offsets"][0]) // BYTES.get(tensor["dtype"], 4) for tensor in tensors
    )
