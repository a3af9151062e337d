"""Writes pairs for a trainer: a folder in one of the layouts of formats.py."""

import hashlib
import math
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from cyclepref.builder import __version__
from cyclepref.builder.common.markdown import escape
from cyclepref.builder.common.progress import stage
from cyclepref.builder.exports.formats import FORMATS, JSON, Column
from cyclepref.builder.exports.writing import Exported, ExportSplit, json_name
from cyclepref.builder.preferences.filters import Filters
from cyclepref.builder.preferences.load import AS_BUILT, PairSource, Poor, open_pairs, refuse_empty, select
from cyclepref.builder.preferences.rankings import Rankings
from cyclepref.builder.run.folder import NO_SPACE
from cyclepref.schemas.errors import CyclePrefError

# The question to CyclePrefDB's captioners (hjbahng/cyclereward).
PROMPT = "Write a detailed description of the given image."
EVERY_PAIR = Filters()
README = "README.md"
# The units of margins for a trainer that applies them.
Margin = Literal["none", "raw", "standardised"]
APPLIES_MARGINS = "trl-reward"


class ExportError(CyclePrefError, ValueError):
    """An export that cannot be made: the value, the rule and the way out."""


def export(
    place: str | Path,
    format_name: str,
    out: str | Path,
    split: str | None = None,
    filters: Filters = EVERY_PAIR,
    poor_chosen: Poor = AS_BUILT,
    prompt: str = PROMPT,
    seed: int = 0,
    revision: str | None = None,
    margin: Margin | None = None,
) -> list[Exported]:
    """Write the pairs of a place (as in `cyclepref.builder.preferences.load.load_pairs`) in a format of FORMATS to a
    new or empty folder.

    All splits, or one. The folder is written completely or not at all. `prompt` is the question before the captions in
    TRL's conversations; `seed` decides which side wins in diffusion-dpo. `margin` is for trl-reward, whose trainer
    subtracts the column of that name from the difference of rewards: "raw" (the default) in the cycle score's own
    units, "standardised" in standard deviations of the score among the candidates of an input, or "none".

    Raises:
        ExportError: if the format is unknown or does not suit the cycle, its trainer does not apply `margin`, or the
            folder is not empty or cannot be written to, as on a full disk.
        LoadError: if there is no readable dataset.
        FilterError: if a filter is outside its range, or no pair is left in any split.
    """
    out = Path(out).expanduser().resolve()
    _refuse_arguments(format_name, out, margin)
    source = open_pairs(place, revision)
    unit = _unit(source, margin or "raw")
    done, part = [], None
    with _whole(out) as folder:
        for name in [split] if split else source.splits():
            rankings = source.read(name)
            _refuse_other_cycle(format_name, rankings)
            pairs, removed = select(rankings, filters, poor_chosen)
            if split:
                refuse_empty(pairs.num_rows, str(rankings), removed)
            if not pairs.num_rows:
                done.append(Exported(name, 0, removed, name, {}))
                continue
            with stage(f"{format_name}: {name}", pairs.num_rows) as tick:
                part = ExportSplit(format_name, rankings, pairs, prompt, seed, unit, out, tick)
                done.append(_write(part, folder, removed))
        names = dict.fromkeys(name for each in done for name in each.removed)
        total = {name: sum(each.removed.get(name, 0) for each in done) for name in names}
        refuse_empty(sum(each.pairs for each in done), str(place), total)
        assert part is not None, "there are pairs"
        (folder / README).write_text(_readme(filters, part, done), encoding="utf-8")
    return done


def _refuse_arguments(format_name: str, out: Path, margin: Margin | None) -> None:
    if format_name not in FORMATS:
        raise ExportError(f"unknown format {format_name!r}: choose from {', '.join(FORMATS)}")
    if margin is not None and format_name != APPLIES_MARGINS:
        raise ExportError(
            f"margin {margin!r} is for {APPLIES_MARGINS}, whose trainer applies it: leave it out for {format_name}, "
            "whose trainer ignores that column"
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} is not an empty folder: give a new one, or remove what is in it")


def _unit(source: PairSource, margin: Margin) -> float | None:
    """The unit of margins, as in `ExportSplit`: the size of a margin of 1 in the cycle score's own units.

    For "standardised" it is the standard deviation of candidates' scores about the mean of their input. It is always
    that of the train split, so that all splits of all exports have the same unit.

    Raises:
        ExportError: if the kind of margin is unknown, or scores do not differ.
    """
    if margin in ("none", "raw"):
        return None if margin == "none" else 1.0
    if margin != "standardised":
        raise ExportError(f"unknown margin {margin!r}: choose from none, raw, standardised")
    known = source.splits()
    found = source.read("train" if "train" in known or not known else known[0]).candidates
    rows, values = np.asarray(found["row"]), np.asarray(found["value"])
    counts = np.bincount(rows)
    means = np.bincount(rows, values) / np.maximum(counts, 1)
    freedom = len(rows) - np.count_nonzero(counts)
    spread = math.sqrt(((values - means[rows]) ** 2).sum() / freedom) if freedom else 0.0
    if not spread > 0:
        raise ExportError("margins cannot be standardised: no input has candidates of different score. Use raw or none")
    return spread


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write to. It becomes `out` at the end, and is removed if the export fails.

    An existing empty folder is not replaced, since it may be a mount point or the working directory: the files move
    into it, the README last.
    """
    there = out.exists()
    unfinished = (out if there else out.parent) / f".unfinished-{uuid.uuid4().hex}"
    try:
        unfinished.mkdir(parents=True)
        yield unfinished
        if there:
            for entry in sorted(unfinished.iterdir(), key=lambda entry: entry.name == README):
                os.replace(entry, out / entry.name)
        else:
            os.replace(unfinished, out)
    except OSError as error:
        what = f"the disk of {out} is full" if error.errno in NO_SPACE else f"the export to {out} broke off"
        raise ExportError(f"{what} ({error}): free some space or name another folder, and run it again") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _write(part: ExportSplit, folder: Path, removed: dict[str, int]) -> Exported:
    form = FORMATS[part.layout]
    counted, stem = form.write(part, folder) or {}, part.stem
    if form.files == JSON:
        with (folder / part.json).open("rb") as file:
            stem = hashlib.file_digest(file, "sha256").hexdigest()
    return Exported(part.rankings.split, part.pairs.num_rows, removed, stem, counted)


def _refuse_other_cycle(name: str, rankings: Rankings) -> None:
    needs, has = FORMATS[name].candidates, rankings.cycle.candidate
    if needs in (None, has):
        return
    what = {"text": "captions of an image", "image": "images of a prompt"}
    fitting = ", ".join(each for each, found in FORMATS.items() if found.candidates in (None, has))
    raise ExportError(
        f"{name} holds pairs of {what[needs or has]}, but the candidates of {rankings.cycle.name} in {rankings.where} "
        f"are {what[has]}: choose from {fitting}"
    )


def _readme(filters: Filters, part: ExportSplit, done: list[Exported]) -> str:
    """The README of the folder; its metadata tells the datasets library what to read."""
    found = [each for each in done if each.pairs]
    given = ", ".join(f"{key} {value}" for key, value in filters.given.items()) or "none"
    lines = [
        f"# Preference pairs for {escape(FORMATS[part.layout].about)}",
        "",
        f"Written by CyclePref {__version__} as `{part.layout}`. Filters: {escape(given)}.",
        "",
        "| split | pairs | removed |",
        "| --- | --- | --- |",
        *(
            f"| {escape(e.split)} | {e.pairs} | {escape(', '.join(f'{k} {v}' for k, v in e.removed.items()))} |"
            for e in done
        ),
        "",
        *(line for note in FORMATS[part.layout].notes for text in note(part, found) for line in (text, "")),
    ]
    head = yaml.safe_dump(_head(part, found), sort_keys=False)
    return f"---\n{head}---\n" + "\n".join(lines)


def _head(part: ExportSplit, found: list[Exported]) -> dict[str, Any]:
    form = FORMATS[part.layout]
    files = [
        {"split": each.split, "path": form.files.format(stem=each.stem, json=json_name(each.split))} for each in found
    ]
    config: dict[str, Any] = {"config_name": "default", "data_files": files}
    if form.columns is None:
        return {"configs": [config]}
    # This distinguishes two exports if the layout fixes the names of files: see `ExportSplit.stem`.
    config["description"] = hashlib.sha256("".join(each.stem for each in found).encode()).hexdigest()[:16]
    columns = [{"name": key, **_typed(kind)} for key, kind in form.columns(part.rankings.cycle).items()]
    return {"configs": [config], "dataset_info": {"features": columns}}


def _typed(kind: Column) -> dict[str, Any]:
    """A column's type as cards' metadata writes it."""
    if isinstance(kind, str):
        return {"dtype": kind}
    return {"list": kind[0] if isinstance(kind[0], str) else _typed(kind[0])}
