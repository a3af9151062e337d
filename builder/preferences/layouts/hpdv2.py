"""HPDv2 (arXiv 2306.09341; its dataset card): a prompt's images, ranked by annotators (test) or one preferred (train).

The images lie in a folder apart from the annotations: paths are looked up in the folder of the JSON file, and in
`test/`, `train/` or `images/` below it.
"""

from pathlib import Path
from typing import Any

from cyclepref.builder.preferences.layouts.imagereward import check
from cyclepref.builder.preferences.layouts.items import Form, Judged, by_order, picture, text


def read(where: str, row: dict[str, Any], roots: tuple[Path, ...]) -> Judged:
    """`{"prompt", "image_path": [path], "rank": [number]}`, the smallest rank the best; or `{"prompt", "file_path":
    [path], "human_preference": [0 or 1]}`. Equal ranks are ties."""
    key = "image_path" if "image_path" in row else "file_path"
    label = "rank" if "rank" in row else "human_preference"
    paths, values = row[key], row[label]
    check(where, paths, values, key, label)
    pairs, margins, ties = by_order(-value if label == "rank" else value for value in values)
    images = [picture(f"{where}, image {at}", path, roots) for at, path in enumerate(paths, 1)]
    prompt = text(f"{where}, prompt", row["prompt"])
    known = margins if label == "rank" else None
    return Judged("image", where, prompt, images, [""] * len(images), None, pairs, known, ties)


def fits(row: dict[str, Any]) -> bool:
    """Whether a row has the keys of either split."""
    paths = {"image_path", "file_path"} & set(row)
    return "prompt" in row and bool(paths) and bool({"rank", "human_preference"} & set(row))


FORM = Form("hpdv2", None, fits, read)
