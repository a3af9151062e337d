"""The layouts that pairs are exported in: what each is for, how it is written, and how the datasets library reads
it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from cyclepref.builder.exports import cycleprefdb, images, readme, trl
from cyclepref.builder.exports.writing import Counted, Exported, ExportSplit
from cyclepref.schemas.cycle import Cycle, Modality

# A column's type in a card's metadata: the name of a type, or a list of it.
Column = str | list["Column"]


@dataclass(frozen=True)
class Format:
    """A layout: its purpose, the modality of its candidates (null: either), the function that writes a split, the
    pattern of its files, its columns if the files do not show which are pictures, and the notes in its README."""

    about: str
    candidates: Modality | None
    write: Callable[[ExportSplit, Path], Counted | None]
    files: str
    columns: Callable[[Cycle], dict[str, Column]] | None = None
    notes: list[Callable[[ExportSplit, list[Exported]], list[str]]] = field(default_factory=list)


SHARDS, IMAGE_FOLDER, JSON = "{stem}-*.parquet", "{stem}/**", "{json}"
TEXT, NUMBER, WHOLE, YES_OR_NO, IMAGE = "string", "float64", "int64", "bool", "image"


def _hpdv3(cycle: Cycle) -> dict[str, Column]:
    return {
        "prompt": TEXT, "path1": IMAGE, "path2": IMAGE, "confidence": NUMBER, "choice_dist": [NUMBER], "model1": TEXT,
        "model2": TEXT, "margin": NUMBER,
    }  # fmt: skip


def _imagereward(cycle: Cycle) -> dict[str, Column]:
    return {
        "id": TEXT, "prompt": TEXT, "generations": [IMAGE], "ranking": [WHOLE], "cycle_scores": [NUMBER],
        "margin": NUMBER,
    }  # fmt: skip


def _cycleprefdb(cycle: Cycle) -> dict[str, Column]:
    kind = {"text": TEXT, "image": IMAGE}
    return {
        "id": TEXT, "input": kind[cycle.input], "generations": [kind[cycle.candidate]], "scores": [NUMBER],
        "generation_ids": [TEXT], "models": [[TEXT]], "metric": TEXT, "higher_is_better": YES_OR_NO, "pairs": [[WHOLE]],
    }  # fmt: skip


FORMATS = {
    "trl-dpo-vision": Format(
        "TRL's DPOTrainer, vision-language", "text", trl.write_dpo_vision, IMAGE_FOLDER, notes=[readme.margins]
    ),
    "trl-kto": Format(
        "TRL's KTOTrainer, text only", "text", trl.write_kto, SHARDS, notes=[readme.kto, readme.margins]
    ),
    "trl-kto-vision": Format(
        "TRL's KTOTrainer, vision-language", "text", trl.write_kto_vision, IMAGE_FOLDER,
        notes=[readme.kto, readme.margins],
    ),
    "trl-reward": Format(
        "TRL's RewardTrainer, text only", "text", trl.write_reward, SHARDS, notes=[readme.reward_margins]
    ),
    "diffusion-dpo": Format(
        "Diffusion-DPO: Pick-a-Pic v2's columns", "image", images.write_diffusion_dpo, SHARDS,
        notes=[readme.diffusion_dpo, readme.margins],
    ),
    "imagereward": Format(
        "ImageReward: JSON of rankings, image files", "image", images.write_imagereward, JSON, _imagereward,
        [readme.imagereward, readme.paths],
    ),
    "hpdv3": Format(
        "HPSv3: JSON of pairs, image files", "image", images.write_hpdv3, JSON, _hpdv3,
        [readme.hpdv3, readme.margins, readme.paths],
    ),
    "cycleprefdb": Format(
        "CycleReward: JSON of inputs, image files", None, cycleprefdb.write_cycleprefdb, JSON, _cycleprefdb,
        [readme.cycleprefdb, readme.paths],
    ),
}  # fmt: skip
