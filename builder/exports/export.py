"""Pairs on their way to a trainer: a folder with them in one of the layouts of formats.py."""

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

# What CyclePrefDB's captioners were asked (hjbahng/cyclereward).
PROMPT = "Write a detailed description of the given image."
EVERY_PAIR = Filters()
README = "README.md"
# What margins are in where a trainer applies them.
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

    All splits, or one. The folder appears whole or not at all. `prompt` is what captions answer to in TRL's
    conversations; `seed` decides which side wins in diffusion-dpo. `margin` is for trl-reward, whose trainer takes the
    column of that name off the difference of rewards: "raw" (if nothing is said) in the cycle score's own units,
    "standardised" in standard deviations of the score among the candidates of an input, or "none".

    Raises:
        ExportError: for an unknown format, one that the cycle cannot fill, a margin that it does not apply, a folder
            that is not empty, or one that cannot be written to, such as on a full disk.
        LoadError: if there is nothing to read there.
        FilterError: for a filter outside of its range, or if no pair is left in any split.
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
    """What a margin of 1 is, in the cycle score's own units: as in `ExportSplit`.

    Standardised, it is the standard deviation of candidates' scores about the mean of their input, in the train split
    whatever is exported, so that all splits of all exports have the same one.

    Raises:
        ExportError: for none of the kinds, or scores that do not differ.
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
        raise ExportError("margins cannot be standardised: no input has candidates of different score. Say raw or none")
    return spread


@contextmanager
def _whole(out: Path) -> Iterator[Path]:
    """A folder to write to, which in the end is `out`, and is removed where it comes to no end.

    An empty folder that is there is not replaced, since it may be a mount point or the working directory: what was
    written moves into it, the README last.
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
        f"{name} holds pairs of {what[needs or has]}, and the candidates of {rankings.cycle.name} in {rankings.where} "
        f"are {what[has]}: choose from {fitting}"
    )


def _readme(filters: Filters, part: ExportSplit, done: list[Exported]) -> str:
    """What the folder is; its head tells the datasets library what to read."""
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
    # Where the layout fixes the names of files, this is what tells two exports apart: see `ExportSplit.stem`.
    config["description"] = hashlib.sha256("".join(each.stem for each in found).encode()).hexdigest()[:16]
    columns = [{"name": key, **_typed(kind)} for key, kind in form.columns(part.rankings.cycle).items()]
    return {"configs": [config], "dataset_info": {"features": columns}}


def _typed(kind: Column) -> dict[str, Any]:
    """A column's type as the heads of cards say it."""
    if isinstance(kind, str):
        return {"dtype": kind}
    return {"list": kind[0] if isinstance(kind[0], str) else _typed(kind[0])}
