"""Where a recipe's inputs come from: one section for each kind of source."""

from typing import Annotated, Literal

from pydantic import Field

from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.rules import Section


class ImageFolder(Section):
    """Every image file under a folder, at any depth."""

    source: Literal["images"]
    path: str
    limit: Annotated[int, Field(ge=1)] | None = None


class PromptFile(Section):
    """A UTF-8 text file with one prompt on each line."""

    source: Literal["prompts"]
    path: str
    limit: Annotated[int, Field(ge=1)] | None = None


class ParquetColumn(Section):
    """One column of a parquet file or of a folder of them: texts, image bytes or {bytes, path} structs."""

    source: Literal["parquet"]
    path: str
    column: str
    limit: Annotated[int, Field(ge=1)] | None = None


class DatasetColumn(Section):
    """One column of a local dataset folder, written by `save_to_disk` or readable by `load_dataset(path)`."""

    source: Literal["dataset"]
    path: str
    column: str
    split: str = "train"
    limit: Annotated[int, Field(ge=1)] | None = None


class ShapeWorldInputs(Section):
    """Scenes of the embedded world that its models were not trained on, as images or as prompts.

    `seed` draws a sequence of scenes; `limit` of them are taken after the first `offset`, so that two recipes with one
    seed can use disjoint scenes.
    """

    source: Literal["shapeworld"]
    limit: Annotated[int, Field(ge=1)]
    offset: Annotated[int, Field(ge=0)] = 0
    seed: int = 0


class DciFolder(Section):
    """Densely Captioned Images (arXiv 2312.08578) as it unpacks: `annotations/*.json`, `photos/`, `splits.json`.

    A cycle that starts from images reads the photos, one that starts from texts the short captions. `split` is one
    of those in splits.json (train, valid, test); null takes every annotation in the folder.
    """

    source: Literal["dci"]
    path: str
    split: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None


class TsvColumn(Section):
    """One column of a tab-separated prompt list whose first line names the columns, as PartiPrompts' does.

    `where` keeps the rows whose cells are among the values given for each column it names, for example
    `{Category: [Animals, Vehicles], Challenge: [Quantity]}`.
    """

    source: Literal["tsv"]
    path: str
    column: str = "Prompt"
    where: dict[str, Annotated[list[str], Field(min_length=1)]] = Field(default={})
    limit: Annotated[int, Field(ge=1)] | None = None


PromptKind = Literal[
    "colour", "count", "background", "colour-count", "colour-background", "count-background", "colour-count-background"
]


class CompositionalPrompts(Section):
    """The compositional prompts of Lee et al. 2023 (arXiv 2302.12192): objects in a colour, number or place, or in
    several of these at once; see builder/sources/compositional.py for the lists and the wording.

    `held_out` says what to do with the five objects that the paper keeps for its evaluation (bear, tiger, rabbit, rose,
    wolf). `seed` shuffles; a smaller `limit` gives the first prompts of a larger one.
    """

    source: Literal["compositional"]
    kinds: Annotated[list[PromptKind], Field(min_length=1)]
    held_out: Literal["exclude", "only", "include"] = "exclude"
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0


Inputs = Annotated[
    ImageFolder
    | PromptFile
    | ParquetColumn
    | DatasetColumn
    | ShapeWorldInputs
    | DciFolder
    | TsvColumn
    | CompositionalPrompts,
    Field(discriminator="source"),
]

SOURCES: dict[str, type[Section]] = {
    "images": ImageFolder,
    "prompts": PromptFile,
    "parquet": ParquetColumn,
    "dataset": DatasetColumn,
    "shapeworld": ShapeWorldInputs,
    "dci": DciFolder,
    "tsv": TsvColumn,
    "compositional": CompositionalPrompts,
}


def modality_fault(source: str, modality: Modality) -> str | None:
    """Why a source does not suit a cycle that starts from this modality; None if it does."""
    gives = {"images": "image", "prompts": "text", "tsv": "text", "compositional": "text"}.get(source, modality)
    if gives == modality:
        return None
    use = "images" if modality == "image" else "prompts"
    return (
        f"{source!r} gives {gives}s, and this cycle starts from {modality}s: "
        f"use {use}, dci, parquet or dataset, or the other cycle"
    )
