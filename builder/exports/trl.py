"""Formats for TRL's trainers (trl 1.16, docs "Dataset formats and types"): conversations whose answer is a caption.

The vision layouts are an image folder of the datasets library: `STEM/metadata.parquet` names the files of each row's
`images`, so that an image is stored once however many pairs it is in, and is decoded when a row is read. The text
layouts do not contain the image: they are for trainers that take no pictures.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from cyclepref.builder.exports.writing import ExportSplit, ImageFiles, write_parquet, write_rows

TEXT, BOOL, FLOAT = pa.string(), pa.bool_(), pa.float64()
PLAIN = pa.list_(pa.struct([("role", TEXT), ("content", TEXT)]))
TYPED = pa.list_(pa.struct([("role", TEXT), ("content", pa.list_(pa.struct([("type", TEXT), ("text", TEXT)])))]))

# The datasets library turns this column into `images`, a list of pictures.
FILE_NAMES = ("images_file_names", pa.list_(TEXT))
# Columns of the pair; the margin is in the metric's own units, except where TRL applies it (`write_reward`).
ABOUT = [("margin", FLOAT), ("pair_id", TEXT)]
REWARD = pa.schema([("prompt", PLAIN), ("chosen", PLAIN), ("rejected", PLAIN), *ABOUT])
KTO = pa.schema([("prompt", PLAIN), ("completion", PLAIN), ("label", BOOL), *ABOUT])
DPO_VISION = pa.schema([FILE_NAMES, ("prompt", TYPED), ("chosen", TYPED), ("rejected", TYPED), *ABOUT])
KTO_VISION = pa.schema([FILE_NAMES, ("prompt", TYPED), ("completion", TYPED), ("label", BOOL), *ABOUT])


def write_reward(part: ExportSplit, folder: Path) -> None:
    """`RewardTrainer`: prompt, chosen, rejected, and `margin` in units of `part.unit`. If the column exists, the loss
    subtracts it from the difference of rewards: -log sigmoid(r_chosen - r_rejected - margin) (Llama 2, arXiv
    2307.09288, eq. 2); so it is left out if `part.unit` is null."""
    if part.unit is None:
        schema = REWARD.remove(REWARD.get_field_index("margin"))
        rows = (_preference(row, part.prompt, _plain) for row in part.rows())
    else:
        schema, unit = REWARD, part.unit
        rows = ({**_preference(row, part.prompt, _plain), "margin": row["margin"] / unit} for row in part.rows())
    write_rows(folder, part.stem, schema, rows)


def write_kto(part: ExportSplit, folder: Path) -> None:
    """`KTOTrainer`: a pair is two rows, its chosen caption with the label true and its rejected one with false, as in
    TRL's own `unpair_preference_dataset`. A caption that wins one pair and loses another has rows with both labels;
    with `top_vs_bottom` there are none of these. `margin` is the pair's; the trainer ignores it."""
    rows = (each for row in part.rows() for each in _unpaired(row, part.prompt, _plain))
    write_rows(folder, part.stem, KTO, rows)


def write_dpo_vision(part: ExportSplit, folder: Path) -> None:
    """`DPOTrainer` with a vision-language model: images, prompt, chosen, rejected, and `margin`, which it ignores."""
    names = _image_names(part, folder)
    rows = ({**_preference(row, part.prompt, _typed), FILE_NAMES[0]: [names(row)]} for row in part.rows())
    write_parquet(folder / part.stem / "metadata.parquet", DPO_VISION, rows)


def write_kto_vision(part: ExportSplit, folder: Path) -> None:
    """`KTOTrainer` with a vision-language model: as `write_kto`, with images."""
    names = _image_names(part, folder)
    rows = (
        {**each, FILE_NAMES[0]: [names(row)]} for row in part.rows() for each in _unpaired(row, part.prompt, _typed)
    )
    write_parquet(folder / part.stem / "metadata.parquet", KTO_VISION, rows)


def _image_names(part: ExportSplit, folder: Path):
    files, read = ImageFiles(folder / part.stem), part.rankings.images.of_input
    return lambda row: files.put(row["input_id"], lambda: read(row["row"]))


def _preference(row: dict[str, Any], prompt: str, message) -> dict[str, Any]:
    sides = {side: message("assistant", row[f"{side}_text"]) for side in ("chosen", "rejected")}
    return {"prompt": message("user", prompt), **sides, "margin": row["margin"], "pair_id": row["pair_id"]}


def _unpaired(row: dict[str, Any], prompt: str, message) -> Iterator[dict[str, Any]]:
    for side, label in (("chosen", True), ("rejected", False)):
        completion = message("assistant", row[f"{side}_text"])
        yield {
            "prompt": message("user", prompt), "completion": completion, "label": label, "margin": row["margin"],
            "pair_id": row["pair_id"],
        }  # fmt: skip


def _plain(role: str, text: str) -> list[dict[str, Any]]:
    return [{"role": role, "content": text}]


def _typed(role: str, text: str) -> list[dict[str, Any]]:
    """A message of typed parts; the user's shows the image before the question."""
    image = [{"type": "image", "text": None}] if role == "user" else []
    return [{"role": role, "content": [*image, {"type": "text", "text": text}]}]
