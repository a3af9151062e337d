"""HPDv3 (arXiv 2508.03789; its dataset card): two images of a prompt, `path1` the preferred one."""

from pathlib import Path
from typing import Any

from cyclepref.builder.preferences.layouts.items import Form, Judged, picture, text


def read(where: str, row: dict[str, Any], roots: tuple[Path, ...]) -> Judged:
    """`{"prompt", "path1", "path2", "confidence", "model1", "model2"}`. The margin is the annotators' confidence (a
    share of votes), or `margin` in CyclePref's own exports, which have no votes."""
    images = [picture(f"{where}, {key}", row[key], roots) for key in ("path1", "path2")]
    prompt = text(f"{where}, prompt", row["prompt"])
    models = [str(row.get(key) or "") for key in ("model1", "model2")]
    margin = row.get("margin", row.get("confidence"))
    margins = [float(margin)] if isinstance(margin, int | float) else None
    return Judged("image", where, prompt, images, models, None, [(0, 1)], margins)


FORM = Form("hpdv3", None, lambda row: {"prompt", "path1", "path2"} <= set(row), read)
