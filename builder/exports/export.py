"""Pairs on their way to a trainer: what the formats are, and a folder with one of them."""

import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import yaml

from builder import __version__
from builder.card import escape
from builder.exports import cycleprefdb, images, trl
from builder.exports.writing import Part
from builder.filters import Filters
from builder.folder import NO_SPACE
from builder.load import AS_BUILT, Poor, open_source, refuse_empty, select
from builder.progress import stage
from builder.rankings import Rankings
from schemas.cycle import Modality
from schemas.errors import CyclePrefError

# What CyclePrefDB's captioners were asked (hjbahng/cyclereward).
PROMPT = "Write a detailed description of the given image."
EVERY_PAIR = Filters()
README = "README.md"


class ExportError(CyclePrefError, ValueError):
    """An export that cannot be made: the value, the rule and the way out."""


@dataclass(frozen=True)
class Format:
    """A layout: what it is for, what its candidates must be (null: either), how a split is written, and the files
    that the datasets library is to read, if it can."""

    about: str
    candidates: Modality | None
    write: Callable[[Part, Path], None]
    files: str | None = None


SHARDS, IMAGE_FOLDER = "{stem}-*.parquet", "{stem}/**"
FORMATS = {
    "trl-dpo-vision": Format("TRL's DPOTrainer, vision-language", "text", trl.write_dpo_vision, IMAGE_FOLDER),
    "trl-kto": Format("TRL's KTOTrainer, text only", "text", trl.write_kto, SHARDS),
    "trl-kto-vision": Format("TRL's KTOTrainer, vision-language", "text", trl.write_kto_vision, IMAGE_FOLDER),
    "trl-reward": Format("TRL's RewardTrainer, text only, with margins", "text", trl.write_reward, SHARDS),
    "diffusion-dpo": Format("Diffusion-DPO: Pick-a-Pic v2's columns", "image", images.write_diffusion_dpo, SHARDS),
    "imagereward": Format("ImageReward: JSON of rankings, image files", "image", images.write_imagereward),
    "hpdv3": Format("HPSv3: JSON of pairs, image files", "image", images.write_hpdv3),
    "cycleprefdb": Format("CycleReward: JSON lines of inputs, tars of images", None, cycleprefdb.write_cycleprefdb),
}


@dataclass(frozen=True)
class Exported:
    """What became of a split: pairs written, how many each rule removed, and what names of its files begin with."""

    split: str
    pairs: int
    removed: dict[str, int]
    stem: str


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
) -> list[Exported]:
    """Write the pairs of a place (as in `builder.load.load_pairs`) in a format of FORMATS to a new or empty folder.

    All splits, or one. The folder appears whole or not at all. `prompt` is what captions answer to in TRL's
    conversations; `seed` decides which side wins in diffusion-dpo.

    Raises:
        ExportError: for an unknown format, one that the cycle cannot fill, a folder that is not empty, or one that
            cannot be written to, such as on a full disk.
        LoadError: if there is nothing to read there.
        FilterError: for a filter outside of its range, or if no pair is left in any split.
    """
    if format_name not in FORMATS:
        raise ExportError(f"unknown format {format_name!r}: choose from {', '.join(FORMATS)}")
    out = Path(out).expanduser().resolve()
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ExportError(f"{out} is not an empty folder: give a new one, or remove what is in it")
    source = open_source(place, revision)
    with _whole(out) as folder:
        done = []
        for name in [split] if split else source.splits():
            rankings = source.read(name)
            _refuse_other_cycle(format_name, rankings)
            pairs, removed = select(rankings, filters, poor_chosen)
            if split:
                refuse_empty(pairs.num_rows, str(rankings), removed)
            stem = _write(rankings, pairs, format_name, folder, prompt, seed) if pairs.num_rows else name
            done.append(Exported(name, pairs.num_rows, removed, stem))
        names = dict.fromkeys(name for each in done for name in each.removed)
        total = {name: sum(each.removed.get(name, 0) for each in done) for name in names}
        refuse_empty(sum(each.pairs for each in done), str(place), total)
        (folder / README).write_text(_readme(format_name, filters, done), encoding="utf-8")
    return done


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


def _write(rankings: Rankings, pairs: pa.Table, name: str, folder: Path, prompt: str, seed: int) -> str:
    with stage(f"{name}: {rankings.split}", pairs.num_rows) as tick:
        part = Part(rankings, pairs, prompt, seed, tick)
        FORMATS[name].write(part, folder)
        return part.stem if FORMATS[name].files else rankings.split


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


def _readme(name: str, filters: Filters, done: list[Exported]) -> str:
    """What the folder is; its head tells the datasets library what to read."""
    found = [each for each in done if each.pairs]
    head = ""
    if pattern := FORMATS[name].files:
        files = [{"split": each.split, "path": pattern.format(stem=each.stem)} for each in found]
        config = {"configs": [{"config_name": "default", "data_files": files}]}
        head = f"---\n{yaml.safe_dump(config, sort_keys=False)}---\n"
    given = ", ".join(f"{key} {value}" for key, value in filters.given.items()) or "none"
    lines = [
        f"# Preference pairs for {escape(FORMATS[name].about)}",
        "",
        f"Written by CyclePref {__version__} as `{name}`. Filters: {escape(given)}.",
        "",
        "| split | pairs | removed |",
        "| --- | --- | --- |",
        *(
            f"| {escape(e.split)} | {e.pairs} | {escape(', '.join(f'{k} {v}' for k, v in e.removed.items()))} |"
            for e in done
        ),
        "",
    ]
    return head + "\n".join(lines)
