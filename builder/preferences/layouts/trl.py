"""TRL's preferences with images (trl 1.16, docs "Dataset formats and types"): an image, a prompt, and two answers."""

import math
from pathlib import Path
from typing import Any

from cyclepref.builder.preferences.layouts.items import Form, Judged, JudgedError, picture, text

# An image folder's metadata has the last one instead of `images`.
IMAGES = ("image", "images", "images_file_names")


def read(where: str, row: dict[str, Any], roots: tuple[Path, ...]) -> Judged:
    """`{"images": [image], "prompt", "chosen", "rejected"}`, or `image`; answers are texts, or conversations that end
    with them. The answers are the candidates. The prompt is not read: a reward model scores an image with one text.
    `margin`, if present, says how far apart they are."""
    answers = [text(f"{where}, {side}", _answer(row[side])) for side in ("chosen", "rejected")]
    name = next(name for name in IMAGES if name in row)
    image = picture(f"{where}, {name}", row[name], roots)
    same = answers[0] == answers[1]
    margins = None if same or row.get("margin") is None else [_margin(where, row["margin"])]
    return Judged("text", where, image, answers, ["", ""], None, [] if same else [(0, 1)], margins, int(same))


def _answer(said: Any) -> Any:
    """The text of a conversation's last message, which is a text itself or a list of typed parts."""
    if isinstance(said, list) and said and isinstance(said[-1], dict):
        said = said[-1].get("content")
    if isinstance(said, list):
        said = "".join(str(part.get("text") or "") for part in said if isinstance(part, dict))
    return said


def _margin(where: str, margin: Any) -> float:
    if not isinstance(margin, int | float) or not 0 <= margin < math.inf:
        raise JudgedError(f"{where}: margin must be a number of 0 or more, got {margin!r:.80}")
    return float(margin)


def fits(row: dict[str, Any]) -> bool:
    """Whether a row has an image and two answers."""
    return {"chosen", "rejected"} <= set(row) and bool(set(IMAGES) & set(row))


FORM = Form("trl", None, fits, read)
