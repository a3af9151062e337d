"""RLHF-V and RLAIF-V (arXiv 2312.00849, 2405.17220; their dataset cards): an image, a question, and two answers."""

from pathlib import Path
from typing import Any

from cyclepref.builder.common.files import from_json
from cyclepref.builder.preferences.layouts.items import Form, Judged, JudgedError, picture, text


def read(where: str, row: dict[str, Any], roots: tuple[Path, ...]) -> Judged:
    """`{"image", "question", "chosen", "rejected"}`, or RLHF-V's `{"image", "text"}`, whose text is JSON of the last
    three. The answers are the candidates. The question is not read: a reward model scores an image with one text."""
    said = row if "chosen" in row else _inner(where, row["text"])
    answers = [text(f"{where}, {side}", said.get(side)) for side in ("chosen", "rejected")]
    image = picture(f"{where}, image", row["image"], roots)
    name = str(row.get("idx", where))
    same = answers[0] == answers[1]
    return Judged("text", name, image, answers, ["", ""], None, [] if same else [(0, 1)], None, int(same))


def _inner(where: str, packed: Any) -> dict[str, Any]:
    try:
        said = from_json(packed) if isinstance(packed, str) else packed
    except ValueError as error:
        raise JudgedError(f"{where}: its text is not JSON ({error})") from error
    if not isinstance(said, dict):
        raise JudgedError(f"{where}: its text must be JSON of question, chosen and rejected, got {packed!r:.80}")
    return said


def fits(row: dict[str, Any]) -> bool:
    """Whether a row has the keys of RLAIF-V or of RLHF-V."""
    packed = isinstance(row.get("text"), str) and '"chosen"' in row["text"]
    return "image" in row and ({"question", "chosen", "rejected"} <= set(row) or packed)


FORM = Form("rlhf-v", None, fits, read)
