"""DetailCaps-4870 (arXiv 2405.19092; its dataset's columns): an image, captions by several models, and a score of each.

GPT-4 gave the scores, with captions corrected by people as reference. A plain form takes captions with any scores.
"""

import math
from pathlib import Path
from typing import Any

from cyclepref.builder.common.files import from_json
from cyclepref.builder.preferences.layouts.imagereward import check
from cyclepref.builder.preferences.layouts.items import Form, Judged, JudgedError, by_order, picture, text


def read(where: str, row: dict[str, Any], roots: tuple[Path, ...]) -> Judged:
    """`{"image": name, "binary": bytes, "GPT4_Eval": JSON of model -> score, and a column with the caption of each of
    these models}`; or `{"image", "captions": [text], "scores": [number], "models": [name]}`, the last one optional."""
    if "GPT4_Eval" in row:
        marks = _marks(where, row["GPT4_Eval"])
        models, values = list(marks), list(marks.values())
        captions: Any = [row.get(model) for model in models]
        image = picture(f"{where}, image {row.get('image')!r:.80}", row["binary"], roots)
    else:
        captions, values = row["captions"], row["scores"]
        image = picture(f"{where}, image", row["image"], roots)
        models = [str(name) for name in row.get("models") or [""] * len(captions)]
    check(where, captions, values, "captions", "scores")
    check(where, models, values, "models", "scores")
    captions = [text(f"{where}, caption {at}", caption) for at, caption in enumerate(captions, 1)]
    pairs, margins, ties = by_order(values)
    return Judged("text", where, image, captions, models, [float(value) for value in values], pairs, margins, ties)


def _marks(where: str, packed: Any) -> dict[str, float]:
    try:
        marks = from_json(packed) if isinstance(packed, str) else packed
        found = {model: float(mark) for model, mark in sorted(marks.items())}
    except (ValueError, TypeError, AttributeError) as error:
        raise JudgedError(f"{where}: GPT4_Eval must be JSON of model -> score, got {packed!r:.80}") from error
    if not all(map(math.isfinite, found.values())):
        raise JudgedError(f"{where}: GPT4_Eval has a score that is not a finite number: {packed!r:.120}")
    return found


def fits(row: dict[str, Any]) -> bool:
    """Whether a row has scored captions."""
    return {"binary", "GPT4_Eval"} <= set(row) or {"image", "captions", "scores"} <= set(row)


FORM = Form("detailcaps", "the dataset's scores", fits, read)
