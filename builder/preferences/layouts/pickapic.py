"""Pick-a-Pic v2 (arXiv 2305.01569; its dataset's features): two images of a prompt as bytes, and which one a user
preferred."""

import math
from pathlib import Path
from typing import Any

from cyclepref.builder.preferences.layouts.items import Form, Judged, JudgedError, by_order, picture, text


def read(where: str, row: dict[str, Any], roots: tuple[Path, ...]) -> Judged:
    """`{"caption", "jpg_0", "jpg_1", "label_0", "label_1", "image_0_uid", "image_1_uid", "model_0", "model_1",
    "has_label"}`, the last five optional; labels are 1 and 0, or 0.5 both for a tie. Rows without a label have no
    pair."""
    labels = [row[f"label_{side}"] for side in (0, 1)]
    if not all(isinstance(label, int | float) and math.isfinite(label) for label in labels):
        raise JudgedError(f"{where}: label_0 and label_1 must be finite numbers, got {labels!r:.80}")
    pairs, _, ties = by_order(labels) if row.get("has_label", True) else ([], [], 0)
    images = [
        picture(f"{where}, jpg_{side}", row[f"jpg_{side}"], roots, row.get(f"image_{side}_uid")) for side in (0, 1)
    ]
    models = [str(row.get(f"model_{side}") or "") for side in (0, 1)]
    return Judged("image", where, text(f"{where}, caption", row["caption"]), images, models, None, pairs, None, ties)


FORM = Form("pickapic", None, lambda row: {"caption", "jpg_0", "jpg_1", "label_0", "label_1"} <= set(row), read)
