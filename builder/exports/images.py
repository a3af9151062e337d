"""Formats for trainers of text-to-image pipelines and of their rewards: two or more images of one prompt."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from cyclepref.builder.exports.writing import ExportSplit, ImageFiles, write_json_list, write_rows
from cyclepref.builder.pairing.pair import UNIT
from cyclepref.schemas.ids import digest

TEXT, FLOAT, BOOL = pa.string(), pa.float64(), pa.bool_()
PICKAPIC = pa.schema(
    [
        ("caption", TEXT), ("jpg_0", pa.binary()), ("jpg_1", pa.binary()), ("label_0", FLOAT), ("label_1", FLOAT),
        ("image_0_uid", TEXT), ("image_1_uid", TEXT), ("model_0", TEXT), ("model_1", TEXT), ("are_different", BOOL),
        ("has_label", BOOL), ("num_example_per_prompt", pa.int64()), ("margin", FLOAT),
    ]
)  # fmt: skip


def write_diffusion_dpo(part: ExportSplit, folder: Path) -> None:
    """Diffusion-DPO (arXiv 2311.12908) and diffusers' train_diffusion_dpo: the columns of Pick-a-Pic v2, and `margin`.

    `jpg_0` and `jpg_1` are encoded bytes in any format, which these scripts decode themselves; so an image is repeated
    in each of its pairs. A hash of the seed and the pair decides the winner's side.
    """
    rows = (_sided(part, row, len(group)) for _, group in part.groups() for row in group)
    write_rows(folder, part.stem, PICKAPIC, rows)


def _sided(part: ExportSplit, row: dict[str, Any], count: int) -> dict[str, Any]:
    second = int(digest("side", part.seed, row["chosen_id"], row["rejected_id"])[:8], 16) & 1
    made: dict[str, Any] = {"caption": row["caption"], "are_different": True, "has_label": True}
    for side, won in (("chosen", True), ("rejected", False)):
        at = second if won else 1 - second
        made[f"jpg_{at}"] = part.rankings.images.of_candidate(row[side])
        made[f"label_{at}"] = float(won)
        made[f"image_{at}_uid"], made[f"model_{at}"] = row[f"{side}_id"], row[f"{side}_model"]
    return {**made, "num_example_per_prompt": count, "margin": row["margin"]}


def write_hpdv3(part: ExportSplit, folder: Path) -> None:
    """HPSv3 (arXiv 2508.03789): JSON lists of pairs, `path1` always the preferred; paths are absolute, since its reader
    opens them unchanged.

    `confidence` and `choice_dist` are for annotators' votes, which cycle scores do not have. So they are 1 and [1, 0]
    for every pair, the reader's own defaults: its threshold leaves out no pair, and its soft labels equal hard ones.
    `margin` is the difference of the scores.
    """
    files = ImageFiles(folder, part.root)
    write_json_list(folder / part.json, (_voted(part, files, row) for row in part.rows()))


def _voted(part: ExportSplit, files: ImageFiles, row: dict[str, Any]) -> dict[str, Any]:
    paths = [_put(part, files, row[f"{side}_id"], row[side]) for side in ("chosen", "rejected")]
    return {
        "prompt": row["caption"], "path1": paths[0], "path2": paths[1], "confidence": 1.0, "choice_dist": [1.0, 0.0],
        "model1": row["chosen_model"], "model2": row["rejected_model"], "margin": row["margin"],
    }  # fmt: skip


def write_imagereward(part: ExportSplit, folder: Path) -> None:
    """ImageReward (arXiv 2304.05977, train/src/rank_pair_dataset.py): `id`, `prompt`, `generations` (absolute paths,
    which its reader joins to any folder) and their `ranking`, 1 the best; its reader pairs every two of different rank.

    An input is one item if its ranking gives exactly the kept pairs. Otherwise (a threshold left some out, which a
    ranking cannot express) each pair is an item of two, so that the reader sees exactly these pairs. `cycle_scores` are
    the generations' scores, `margin` is the smallest of the item's pairs.
    """
    files = ImageFiles(folder, part.root)
    scores = np.asarray(part.rankings.candidates["value"])
    units = np.rint(scores / UNIT).astype(np.int64)
    items = (
        {
            "id": id_, "prompt": group[0]["caption"], "generations": [_put(part, files, *one) for one in shown],
            "ranking": ranking, "cycle_scores": [float(scores[place]) for _, place in shown],
            "margin": min(row["margin"] for row in rows),
        }
        for _, group in part.groups()
        for id_, shown, ranking, rows in _items(group, units if part.rankings.higher_is_better else -units)
    )  # fmt: skip
    write_json_list(folder / part.json, items)


def _items(group: list[dict[str, Any]], values: np.ndarray):
    """(id, [(generation_id, place)], ranking, pairs) of each item that an input's pairs make."""
    places = {row[side]: row[f"{side}_id"] for row in group for side in ("chosen", "rejected")}
    order = sorted(places, key=lambda place: (-values[place], places[place]))
    levels = sorted({int(values[place]) for place in order}, reverse=True)
    ranking = [levels.index(int(values[place])) + 1 for place in order]
    implied = sum(a < b for at, a in enumerate(ranking) for b in ranking[at + 1 :])
    if implied == len(group):
        yield group[0]["input_id"], [(places[place], place) for place in order], ranking, group
        return
    for row in group:
        yield row["pair_id"], [(row["chosen_id"], row["chosen"]), (row["rejected_id"], row["rejected"])], [1, 2], [row]


def _put(part: ExportSplit, files: ImageFiles, id_: str, place: int) -> str:
    return files.put(id_, lambda: part.rankings.images.of_candidate(place))
