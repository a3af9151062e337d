"""Where inputs come from: an image folder, a prompt file, a column of parquet files or of a dataset, ShapeWorld;
DCI, prompt lists with categories and compositional prompts have files of their own.

A source lists its items without decoding them (`items`: a name and a stamp that changes when the item does), and
reads the named ones (`read`: bytes of an image file, or a text). An item's name and content are untrusted: they can
make only their own row fail.
"""

from typing import Any

from cyclepref.builder.sources.columns import LocalDataset, Parquet
from cyclepref.builder.sources.compositional import Compositional
from cyclepref.builder.sources.dci import Dci
from cyclepref.builder.sources.image_folder import Images
from cyclepref.builder.sources.prompt_file import Prompts
from cyclepref.builder.sources.shapeworld import ShapeWorld
from cyclepref.builder.sources.source import Source
from cyclepref.builder.sources.tsv import Tsv
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import (
    CompositionalPrompts,
    DatasetColumn,
    DciFolder,
    ImageFolder,
    ParquetColumn,
    PromptFile,
    ShapeWorldInputs,
    TsvColumn,
    modality_fault,
)


def open_source(spec: Any, modality: Modality) -> Source:
    """The source that a recipe's `inputs` names.

    Raises:
        RecipeError: if it does not exist, is empty, or does not give this modality.
    """
    if fault := modality_fault(spec.source, modality):
        raise RecipeError(f"inputs.source {fault}")
    kinds = {
        ImageFolder: Images,
        PromptFile: Prompts,
        ParquetColumn: Parquet,
        DatasetColumn: LocalDataset,
        ShapeWorldInputs: ShapeWorld,
        DciFolder: Dci,
        TsvColumn: Tsv,
        CompositionalPrompts: Compositional,
    }
    return kinds[type(spec)](spec, modality)
