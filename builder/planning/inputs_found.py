"""What a folder or file holds, looked at from outside: pictures, prompts, columns; and the recipe's section for it."""

import csv
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cyclepref.builder.common.images import ENDINGS
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.recipe import RecipeError

# Of a large folder so many entries tell what it holds.
LOOKED_AT = 10_000
TEXT_ENDINGS = (".txt",)
# Names that columns of prompts and of pictures usually have, the likeliest first.
TEXT_COLUMNS = ("prompt", "caption", "text", "short_caption")
IMAGE_COLUMNS = ("image", "jpg", "png", "picture")


@dataclass(frozen=True)
class FoundInputs:
    """The `inputs` section of a recipe, what its items are, and a sentence about what was found."""

    section: dict[str, Any]
    modality: Modality
    about: str


def look_at(path: Path, column: str | None = None) -> FoundInputs:
    """Find out which source a path is.

    Raises:
        RecipeError: if there is nothing, or nothing that a source reads; the message says which sources there are.
    """
    if not path.exists():
        raise RecipeError(f"{path}: there is nothing (looked for {path.absolute()}): give the path of your inputs")
    if path.is_dir():
        return _folder(path, column)
    ending = path.suffix.lower()
    if ending == ".parquet":
        return _columns(path, "parquet", pq.read_schema(path), column)
    if ending == ".tsv":
        return _tsv(path, column)
    if ending in TEXT_ENDINGS:
        return FoundInputs(
            {"source": "prompts", "path": str(path)}, "text", f"{path}: a file with a prompt on each line"
        )
    if ending in ENDINGS:
        raise RecipeError(f"{path} is one picture: give the folder that it is in")
    raise RecipeError(_no_source(path, f"a file that ends in {ending or 'nothing'}"))


def _folder(path: Path, column: str | None) -> FoundInputs:
    if (path / "annotations").is_dir() and (path / "splits.json").is_file():
        return FoundInputs({"source": "dci", "path": str(path), "split": "train"}, "image", f"{path}: DCI's archive")
    if (path / "dataset_info.json").is_file() and (path / "state.json").is_file():
        return _saved_dataset(path, column)
    endings: dict[str, int] = {}
    for at, file in enumerate(path.rglob("*")):
        if at >= LOOKED_AT:
            break
        if file.is_file():
            endings[file.suffix.lower()] = endings.get(file.suffix.lower(), 0) + 1
    pictures = sum(count for ending, count in endings.items() if ending in ENDINGS)
    if pictures and pictures >= endings.get(".parquet", 0):
        return FoundInputs({"source": "images", "path": str(path)}, "image", f"{path}: a folder of pictures")
    if endings.get(".parquet"):
        first = sorted(path.rglob("*.parquet"))[0]
        return _columns(path, "parquet", pq.read_schema(first), column)
    if endings.get(".tar"):
        raise RecipeError(
            f"{path} holds .tar files, as WebDataset's shards are: unpack them into a folder of pictures, or save them "
            "as parquet with a column of pictures"
        )
    raise RecipeError(_no_source(path, "a folder without pictures and without parquet files"))


def _saved_dataset(path: Path, column: str | None) -> FoundInputs:
    import datasets

    schema = datasets.load_from_disk(str(path)).features.arrow_schema
    return _columns(path, "dataset", schema, column)


def _columns(path: Path, source: str, schema: pa.Schema, column: str | None) -> FoundInputs:
    kinds = {field.name: kind for field in schema if (kind := _kind(field.type))}
    if column is not None and column not in kinds:
        raise RecipeError(f"--column {column}: {path} has no such column of texts or pictures: it has {_list(kinds)}")
    if not kinds:
        raise RecipeError(f"{path} has no column of texts or pictures: its columns are {', '.join(schema.names)}")
    chosen = column or _likeliest(kinds, path)
    about = f"{path}: {source} with the columns {_list(kinds)}"
    return FoundInputs({"source": source, "path": str(path), "column": chosen}, kinds[chosen], about)


def _kind(type_: pa.DataType) -> Modality | None:
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        return "text"
    struct = pa.types.is_struct(type_) and type_.get_field_index("bytes") >= 0
    return "image" if struct or pa.types.is_binary(type_) or pa.types.is_large_binary(type_) else None


def _likeliest(kinds: dict[str, Modality], path: Path) -> str:
    named = [name for name in (*IMAGE_COLUMNS, *TEXT_COLUMNS) if name in kinds]
    if not named and len(kinds) > 1:
        raise RecipeError(f"{path}: which column are the inputs? Give --column: it has {_list(kinds)}")
    return named[0] if named else next(iter(kinds))


def _tsv(path: Path, column: str | None) -> FoundInputs:
    with path.open(encoding="utf-8", newline="") as file:
        names = next(csv.reader(file, delimiter="\t"), [])
    wanted = column or next((name for name in names if name.lower() in TEXT_COLUMNS), None)
    if wanted not in names:
        raise RecipeError(f"{path}: which column are the prompts? Give --column: it has {', '.join(names)}")
    return FoundInputs({"source": "tsv", "path": str(path), "column": wanted}, "text", f"{path}: a table of prompts")


def _list(kinds: dict[str, Modality]) -> str:
    return ", ".join(f"{name} ({kind}s)" for name, kind in kinds.items())


def _no_source(path: Path, what: str) -> str:
    return (
        f"{path} is {what}: inputs are a folder of pictures, a .txt file with a prompt on each line, a .tsv table, "
        "parquet with a column of texts or pictures, a dataset saved to disk, or DCI's archive"
    )
