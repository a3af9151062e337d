"""ImageReward (arXiv 2304.05977; its repository's train/src/rank_pair_dataset.py and data/*.json): a prompt's images
with their ranking by experts."""

import math
from pathlib import Path
from typing import Any

from cyclepref.builder.preferences.layouts.items import Form, Judged, JudgedError, by_order, picture, text


def read(where: str, row: dict[str, Any], roots: tuple[Path, ...]) -> Judged:
    """`{"id", "prompt", "generations": [path], "ranking": [int]}`, 1 the best; equal ranks are ties."""
    paths, ranking = row["generations"], row["ranking"]
    check(where, paths, ranking, "generations", "ranking")
    pairs, margins, ties = by_order(-rank for rank in ranking)
    images = [picture(f"{where}, image {at}", path, roots) for at, path in enumerate(paths, 1)]
    prompt = text(f"{where}, prompt", row["prompt"])
    name = str(row.get("id", where))
    return Judged("image", name, prompt, images, [""] * len(images), None, pairs, margins, ties)


def check(where: str, candidates: Any, values: Any, first: str, second: str) -> None:
    """Refuse anything but two lists of one length, the second of numbers.

    Raises:
        JudgedError: names the row.
    """
    lists = isinstance(candidates, list) and isinstance(values, list) and len(candidates) == len(values)
    if not lists or not all(isinstance(value, int | float) and math.isfinite(value) for value in values):
        raise JudgedError(f"{where}: needs {first} and {second}, lists of one length, the second of finite numbers")


FORM = Form("imagereward", None, lambda row: {"prompt", "generations", "ranking"} <= set(row), read)
