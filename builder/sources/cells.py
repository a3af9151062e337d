"""Reads a cell of a column as an input, and refuses columns that hold no inputs."""

from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from cyclepref.builder.common.files import read_file_within
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.recipe import RecipeError


class Column(Protocol):
    """A source that reads one column: `spec` names it, and rows may name files in `folder`."""

    spec: Any
    modality: Modality

    @property
    def folder(self) -> Path:
        """The folder in which rows may name files."""


def check_kind(kind: pa.DataType, source: Column, where: str) -> None:
    """Refuse a column whose type cannot hold inputs of the cycle.

    Raises:
        RecipeError: if it cannot.
    """
    while pa.types.is_dictionary(kind) or isinstance(kind, pa.ExtensionType):
        kind = kind.value_type if pa.types.is_dictionary(kind) else kind.storage_type
    of_text = any(test(kind) for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))
    of_bytes = any(test(kind) for test in (pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view))
    of_image = of_bytes or (pa.types.is_struct(kind) and {"bytes", "path"} & {field.name for field in kind})
    if pa.types.is_null(kind) or (of_text if source.modality == "text" else of_image):
        return
    holds = "texts" if of_text else "images" if of_image else f"{kind}"
    wanted = "texts" if source.modality == "text" else "images: encoded bytes, or {bytes, path} of the datasets library"
    files = "; the folder of image files that texts name is `source: images`" if source.modality == "image" else ""
    raise RecipeError(
        f"inputs.column {source.spec.column!r} of {where} holds {holds:.80}, and this cycle starts from "
        f"{source.modality}s: name a column of {wanted}{files}, or take the other cycle"
    )


def cell(values: Any, at: int, source: Column) -> bytes | str | Exception:
    """A cell as an input: text, image bytes, or a {bytes, path} struct as the datasets library stores images."""
    try:
        value = values[at]
        value = value.as_py() if isinstance(value, pa.Scalar) else value
    # Whatever the conversion raises (for example for text that is not UTF-8) concerns this cell alone.
    except Exception as error:
        return error
    if source.modality == "text":
        return value if isinstance(value, str) else TypeError(f"this row holds {_kind(value)}, not a text")
    if isinstance(value, dict):
        path, value = value.get("path"), value.get("bytes")
        if value is None and isinstance(path, str) and path:
            return read_file_within(source.folder, path)
    return value if isinstance(value, bytes) else TypeError(f"this row holds {_kind(value)}, not an encoded image")


def _kind(value: Any) -> str:
    return "nothing (null)" if value is None else f"a value of type {type(value).__name__}"
