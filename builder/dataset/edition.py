"""The last step of a build: what is made becomes what can be published.

Images that the safety model flags are left out, near-duplicates are brought into one split, the files are written, the
statistics are taken from the files, and the card is written last: it names the files, so the edition before is whole
until then.
"""

import io
from dataclasses import replace
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from cyclepref.builder.dataset import charts
from cyclepref.builder.dataset import format as dataset_format
from cyclepref.builder.dataset.card import Facts, card
from cyclepref.builder.dataset.examples import examples
from cyclepref.builder.dataset.format import PICTURES
from cyclepref.builder.dataset.grouping import group
from cyclepref.builder.dataset.reader import CARD, DatasetError, DatasetFolder
from cyclepref.builder.dataset.statistics import statistics
from cyclepref.builder.dataset.views import Views, WritePlan, not_among
from cyclepref.builder.dataset.write import write_splits
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.run.audit import RESULT_FILE as AUDIT_RESULT
from cyclepref.builder.run.blocks import Blocks
from cyclepref.builder.run.folder import Folder
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.accounting import Accountant
from cyclepref.builder.stages.safety import FLAGGED_FILE, Verdicts, judge
from cyclepref.schemas.recipe import Recipe


def release(
    facts: Facts, views: Views, accountant: Accountant, engine: Engine, before: dict[str, Any] | None
) -> dict[str, Any]:
    """Write RUN/dataset; returns its part of run.json's counts: "dataset" (edition and counts by split) and, with a
    safety model, "safety" and "flagged". `before` are the counts of an earlier build: a dataset of the same edition
    is left alone.

    Raises:
        BuildError: if the safety model failed on too many images.
    """
    recipe, store = facts.recipe, accountant.store
    counts: dict[str, Any] = {}
    shown = views.reconstructions
    if recipe.safety and facts.safety:
        verdicts, counts["safety"] = judge(recipe.safety, facts.safety, _images(recipe, views), accountant, engine)
        views, counts["flagged"] = _without_flagged(store, views, verdicts)
        # Reconstructions are judged where they are published; others are not shown either.
        judged = recipe.dataset.reconstructions or views.cycle.input == "text"
        shown = views.reconstructions if judged else Blocks(views.reconstructions.schema, [])
        told = {name: {k: v for k, v in of.items() if k != "reused"} for name, of in counts["safety"].items()}
        facts = replace(facts, counts={**facts.counts, "safety": told}, flagged=counts["flagged"])
    groups = {}
    if groups_wanted(recipe):
        groups = group(views.inputs, views.cycle.input, recipe.dataset.largest_group, store, engine)
        facts = replace(facts, grouped=sum(id_ != founder for id_, founder in groups.items()))
    facts = replace(facts, audit=store.read_json(AUDIT_RESULT))
    plan = WritePlan(recipe.splits, sorted(c.label for c in recipe.forward), groups, recipe.dataset.reconstructions)
    counts["dataset"] = _write(store, views, shown, plan, facts, before and before.get("dataset"))
    return counts


def groups_wanted(recipe: Recipe) -> bool:
    """Whether near-duplicate inputs are to share a split: yes by default, but for the embedded world's scenes."""
    wanted = recipe.dataset.group_near_duplicates
    return recipe.inputs.source != "shapeworld" if wanted is None else wanted


def _images(recipe: Recipe, views: Views) -> dict[str, list[str]]:
    """Content ids of all images that would be published, by the table of the store where they are."""
    images: dict[str, list[str]] = {"inputs": [], "generations": []}
    if views.cycle.input == "image":
        images["inputs"] = views.inputs["input_id"].to_pylist()
        if recipe.dataset.reconstructions:
            images["generations"] = _contents(views.reconstructions)
    else:
        images["generations"] = _contents(views.candidates)
    return images


def _contents(rows: Blocks) -> list[str]:
    """The distinct contents of rows."""
    return sorted({id_ for some in rows for id_ in pc.unique(some["content_id"]).to_pylist()})


def _without_flagged(store: Store, views: Views, verdicts: Verdicts) -> tuple[Views, dict[str, int]]:
    """The views of what may be published, and how much may not be; its list is written to the run directory."""
    inputs = views.inputs
    if views.cycle.input == "image":
        inputs = verdicts.passed(inputs, "input_id")
    gone_inputs = sorted(set(views.inputs["input_id"].to_pylist()) - set(inputs["input_id"].to_pylist()))
    image_candidates = views.cycle.candidate == "image"

    def kept_candidates(rows: pa.Table) -> pa.Table:
        return verdicts.passed(of_inputs(rows), "content_id") if image_candidates else of_inputs(rows)

    def of_inputs(rows: pa.Table) -> pa.Table:
        return not_among(rows, "input_id", gone_inputs)

    gone: list[str] = []
    for rows in views.candidates:
        gone += not_among(rows, "generation_id", kept_candidates(rows)["generation_id"].to_pylist())[
            "generation_id"
        ].to_pylist()

    def of_candidates(rows: pa.Table) -> pa.Table:
        return not_among(rows, "generation_id", gone)

    def kept_pairs(rows: pa.Table) -> pa.Table:
        return not_among(not_among(rows, "chosen_id", gone), "rejected_id", gone)

    def kept_reconstructions(rows: pa.Table) -> pa.Table:
        return of_inputs(rows) if image_candidates else verdicts.passed(of_inputs(rows), "content_id")

    kept = replace(
        views,
        inputs=inputs,
        candidates=views.candidates.where(kept_candidates),
        scores=views.scores.where(of_candidates),
        samples=views.samples.where(of_candidates),
        pairs=views.pairs.where(kept_pairs),
        reconstructions=views.reconstructions.where(kept_reconstructions),
    )
    left = {
        "images": len(verdicts.flagged),
        "inputs": len(gone_inputs),
        "candidates": len(gone),
        "pairs": views.pairs.num_rows - kept.pairs.num_rows,
    }
    images = dict(sorted(verdicts.flagged.items()))
    lists = {"inputs": gone_inputs, "candidates": sorted(gone)}
    store.write_json(FLAGGED_FILE, {"checked": verdicts.checked, "counts": left, "images": images, **lists})
    return kept, left


def _write(
    store: Store, views: Views, shown: Blocks, plan: WritePlan, facts: Facts, before: dict[str, Any] | None
) -> dict[str, Any]:
    """Write the files of a new edition, then the card, then remove those of the old one.

    The names of its files carry the edition and the card names the files: so the old edition is whole until the new
    card is in its place, on a disk as on an object store, where no folder can be renamed.
    """
    edition = views.edition(plan.key(), facts.key())
    head = partial(
        dataset_format.metadata, configs=plan.configs, edition=edition, licence=facts.licence, rule=facts.recipe.pairs
    )
    if before and before["edition"] == edition and _is_there(store, head(before["splits"])):
        return before
    counts, written = write_splits(store, views, plan, edition)
    found = statistics(DatasetFolder(Folder(store.address("dataset")), _files(counts, written)))
    pictures = _draw(store, views, shown, found, edition)
    text = card(facts, found, pictures, plan.configs)
    store.write_file(f"dataset/{CARD}", lambda sink: sink.write((head(counts) + text).encode()))
    kept = written | {f"dataset/{name}" for name in pictures.values()}
    for folder in (*dataset_format.CONFIGS, PICTURES):
        for name in store.names(f"dataset/{folder}"):
            if f"dataset/{folder}/{name}" not in kept:
                store.remove(f"dataset/{folder}/{name}")
    return {"edition": edition, "splits": counts, "warnings": found["warnings"]}


def release_bare(store: Store, views: Views, plan: WritePlan, licence: str, title: str) -> dict[str, Any]:
    """Write RUN/dataset with a card that says no more than which files are what; returns what `release` counts as
    "dataset". For datasets that are made to be read here."""
    edition = views.edition(plan.key())
    counts, _ = write_splits(store, views, plan, edition)
    text = f"{dataset_format.metadata(counts, plan.configs, edition, licence)}# {title}\n"
    store.write_file(f"dataset/{CARD}", lambda sink: sink.write(text.encode()))
    return {"edition": edition, "splits": counts}


def _files(counts: dict[str, Any], written: set[str]) -> dict[str, dict[str, list[str]]]:
    """What was written as config -> split -> names within the dataset folder."""
    files: dict[str, dict[str, list[str]]] = {config: {} for config in dataset_format.CONFIGS}
    for name in sorted(written):
        _, config, file = name.split("/")
        files[config].setdefault(next(split for split in counts if file.startswith(f"{split}-")), []).append(
            f"{config}/{file}"
        )
    return files


def _draw(store: Store, views: Views, shown: Blocks, found: dict[str, Any], edition: str) -> dict[str, str]:
    """Write the pictures of the card; returns their paths within the dataset folder."""
    drawn: dict[str, Image.Image | None] = {
        "examples": examples(store, views.pairs, views.candidates, views.scores, shown),
        "scores": charts.histograms(found["scores"]) if found["scores"] else None,
        "wins": charts.win_matrix(found["models"], found["wins"]) if found["pairs"] else None,
    }
    paths = {}
    for name, picture in drawn.items():
        if picture is not None:
            # Photographs would make a PNG of a megabyte.
            ending, form = (
                ("jpg", {"format": "JPEG", "quality": 88}) if name == "examples" else ("png", {"format": "PNG"})
            )
            paths[name] = f"{PICTURES}/{name}-{edition}.{ending}"
            data = io.BytesIO()
            picture.save(data, **form)
            store.write_file(f"dataset/{paths[name]}", lambda sink, data=data: sink.write(data.getvalue()))
    return paths


def _is_there(store: Store, head: str) -> bool:
    """Whether the card is this edition's, so that it was finished, and its files have not been deleted since."""
    text = store.read_file(f"dataset/{CARD}", lambda file: file.read()) if store.exists(f"dataset/{CARD}") else b""
    if not text.startswith(head.encode()):
        return False
    try:
        DatasetFolder.of(Folder(store.address("dataset")))
    except DatasetError:
        return False
    return True
