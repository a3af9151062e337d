"""ImageRewardDB (the dataset card of THUDM/ImageRewardDB): one row for each image, with its rank among those of its
prompt.

Its images come in archives; they are looked up under the folder of the metadata, where these were unpacked.
"""

from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from cyclepref.builder.preferences.layouts.imagereward import check
from cyclepref.builder.preferences.layouts.items import Form, Judged, by_order, picture, text

COLUMNS = ("image_path", "rank", "overall_rating")


def grouped(rows: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One row for each prompt, joined from its images' rows, which are consecutive."""
    for prompt_id, images in groupby(rows, key=lambda row: row.get("prompt_id")):
        mine = list(images)
        yield mine[0] | {"prompt_id": prompt_id} | {name: [row.get(name) for row in mine] for name in COLUMNS}


def read(where: str, row: dict[str, Any], roots: tuple[Path, ...]) -> Judged:
    """`{"image_path", "prompt_id", "prompt", "rank", "overall_rating"}` of all images of a prompt; rank 1 is the best,
    equal ranks are ties, and the rating, 1 to 7, is the candidate's score."""
    paths, ranks, ratings = (row[name] for name in COLUMNS)
    check(where, paths, ranks, "image_path", "rank")
    check(where, paths, ratings, "image_path", "overall_rating")
    pairs, margins, ties = by_order(-rank for rank in ranks)
    images = [picture(f"{where}, image {at}", path, roots) for at, path in enumerate(paths, 1)]
    prompt, scores = text(f"{where}, prompt", row["prompt"]), [float(rating) for rating in ratings]
    return Judged("image", str(row["prompt_id"]), prompt, images, [""] * len(images), scores, pairs, margins, ties)


def fits(row: dict[str, Any]) -> bool:
    """Whether a row has its columns."""
    return {"prompt_id", "prompt", *COLUMNS} <= set(row)


FORM = Form("imagerewarddb", "overall rating", fits, read, grouped)
