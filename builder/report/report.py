"""`cyclepref report`: a run directory as one page."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclepref.builder.common.progress import stage
from cyclepref.builder.report.audit.charts import audit_charts
from cyclepref.builder.report.charts import charts
from cyclepref.builder.report.core import core
from cyclepref.builder.report.facts import facts
from cyclepref.builder.report.gallery import MOST_INPUTS, Gallery, read_gallery
from cyclepref.builder.report.page import render, write_page, write_pictures
from cyclepref.builder.report.reward_charts import evaluation_charts, training_charts
from cyclepref.builder.report.thumbnails import strips
from cyclepref.builder.run.store import Store
from cyclepref.builder.shapeworld import grammar
from cyclepref.builder.study.agreement import truths
from cyclepref.schemas.run_files import RunJson


@dataclass(frozen=True)
class Written:
    """A page that was written: the file, the folder beside it (None if all is in the file), and inputs shown of all."""

    file: Path
    folder: Path | None
    inputs: int
    total: int


def report(
    place: str | Path, out: str | Path = "report.html", *, most: int = MOST_INPUTS, reward: str | Path | None = None,
    evaluation: str | Path | None = None, price_per_hour: float | None = None,
) -> Written:  # fmt: skip
    """Write a run as one HTML file that needs no network. `most` inputs are shown at most; `reward` is the folder of a
    reward model, `evaluation` a file of `cyclepref evaluate --json`; `price_per_hour` is what an hour of the machines
    costs.

    Raises:
        StoreError: if there is no run, or it is damaged.
        RewardFileError: if there is no such reward model or evaluation.
        ReportError: if the page cannot be written.
    """
    store, file = Store(place), Path(out).expanduser()
    head = facts(store, price_per_hour)
    gallery = read(store, most)
    drawn = charts(store, gallery, head["pairs"])
    drawn += audit_charts(store)
    drawn += training_charts(Path(reward).expanduser()) if reward else []
    drawn += evaluation_charts(Path(evaluation).expanduser()) if evaluation else []
    with stage("thumbnails", len(gallery.inputs)) as tick:
        made = zip(gallery.inputs, strips(store, gallery), strict=True)
        pictures = write_pictures(((0, each.id, strip) for each, strip in made), file, tick)
    data = {"runs": [core(gallery, head["folder"])]}
    write_page(file, render(head["title"], [head], data, drawn, pictures, gallery=about(gallery)))
    beside = file.with_name(pictures.folder) if pictures.folder else None
    return Written(file, beside, len(gallery.inputs), gallery.total)


def read(store: Store, most: int) -> Gallery:
    """The gallery of a run, with how true each candidate is where the run is of the embedded world, which knows."""
    gallery = read_gallery(store, most)
    recipe: dict[str, Any] = (store.read_json("run.json", RunJson) or {}).get("recipe") or {}
    if gallery.finished and (recipe.get("inputs") or {}).get("source") == "shapeworld" and _of_scenes(gallery):
        found = truths(store, gallery.cycle)
        for each in gallery.inputs:
            for candidate in each.candidates:
                candidate.truth = found.get(candidate.id)
    return gallery


def _of_scenes(gallery: Gallery) -> bool:
    """Whether the inputs are named by scenes of this version of the world."""
    try:
        for each in gallery.inputs:
            grammar.parse(each.name)
    except ValueError:
        return False
    return True


def about(gallery: Gallery) -> str:
    """What the gallery says of itself."""
    if len(gallery.inputs) == gallery.total:
        return f"All {gallery.total:,} inputs with their candidates from best to worst."
    return (
        f"{len(gallery.inputs):,} of {gallery.total:,} inputs, drawn by the hash of their ids, with their candidates "
        "from best to worst; the pictures below count these."
    )
