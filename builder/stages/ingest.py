"""Any source of images or texts -> the inputs table, each distinct input once.

Two passes: the first finds out what every item is (and remembers it, so that a second run decodes nothing), the
second stores the content of the distinct ones.
"""

import logging
import threading
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.common.images import content_id, decode, to_store
from cyclepref.builder.common.waiting import Beside, TooSlow, each_in_time
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.run.store import Store, first_of_each, flat
from cyclepref.builder.sources.source import Source
from cyclepref.builder.stages.accounting import Accountant, BuildError, Work
from cyclepref.builder.stages.steps import blocks_of, failure, reason, receipt
from cyclepref.schemas import records
from cyclepref.schemas.cycle import MAX_CHARACTERS, Modality
from cyclepref.schemas.ids import digest, text_id
from cyclepref.schemas.recipe import RecipeError

log = logging.getLogger("cyclepref.inputs")

STAGE = "inputs"
ITEMS_PER_PART = 256
# A part of stored images is written once it holds this much: 256 photos as PNG would be gigabytes.
PART_BYTES = 64 * 2**20
# Bumped when an item may turn out to be another input than before, so that the ingest index forgets it.
READING = 2

# How many items may be read before the one that is asked for: of texts many, since each is quickly handed over; of
# images one, since each may be large.
AHEAD: dict[Modality, int] = {"text": 64, "image": 1}
# A folder of ten million files on a network mount is listed within this; one that does not answer never is.
LISTING_S, TOLD_AFTER_S = 3600.0, 60.0

ITEM = pa.schema([("source_key", pa.string()), ("source", pa.string()), ("stamp", pa.string()), ("model", pa.string())])


class EmptyPrompt(ValueError):
    """A prompt without a word in it."""


class BadPrompt(ValueError):
    """A prompt that no model can be given."""


@dataclass(frozen=True)
class InputCount:
    """What became of every item that was read: read = unique + duplicate + failed."""

    read: int
    unique: int
    duplicate: int
    failed: int


def list_items(source: Source) -> list[tuple[str, str]]:
    """All items of a source, as `source.items()` gives them.

    Raises:
        RecipeError: if it does not give them, or not within LISTING_S.
    """
    told = threading.Timer(TOLD_AFTER_S, log.warning, ("still listing the inputs",))
    told.daemon = True
    told.start()
    try:
        return Beside(source.items() for _ in range(1)).next(LISTING_S)
    except TooSlow as error:
        raise RecipeError(f"inputs: not listed within {LISTING_S:g} s: does the disk or mount answer?") from error
    finally:
        told.cancel()


def ingest(
    source: Source, listed: list[tuple[str, str]], modality: Modality, accountant: Accountant, engine: Engine
) -> tuple[pa.Table, InputCount]:
    """Bring a source's inputs into the store: those of its items that are `listed`.

    Returns the recipe's inputs, (input_id, source) in order of id, where `source` names the first item with that
    content; and what became of every item.

    Raises:
        BuildError: if nothing could be read, or more items failed than the recipe allows.
    """
    items = item_rows(source, listed, modality)
    store = accountant.store

    def identify_all(todo: pa.Table) -> Iterator[pa.Table]:
        steps = partial(identify, source=source, modality=modality), partial(write_sources, store=store)
        yield from engine.run_tasks(_sorted_blocks(todo), *steps)

    [count] = accountant.run(Work(STAGE, "sources", "source_key", items), identify_all).values()
    known = store.rows("sources")
    known = known.filter(pc.is_in(known["source_key"], value_set=flat(items["source_key"])))
    distinct = first_of_each(known.sort_by("source"), "input_id")
    wanted = distinct.select(["input_id", "source"]).append_column(
        "model", pa.array([modality] * distinct.num_rows, pa.string())
    )

    def store_all(todo: pa.Table) -> Iterator[pa.Table]:
        steps = partial(write_inputs, source=source, modality=modality, store=store)
        yield from engine.run_tasks(_sorted_blocks(todo), steps)

    if not wanted.num_rows:
        raise BuildError(f"none of the {count.wanted} inputs could be read; see {store.root}/store/failures")
    accountant.run(Work("inputs stored", "inputs", "input_id", wanted), store_all)
    unique = distinct.num_rows
    return (
        wanted.select(["input_id", "source"]).sort_by("input_id"),
        InputCount(count.wanted, unique, count.ok - unique, count.failed),
    )


def item_rows(source: Source, listed: list[tuple[str, str]], modality: Modality) -> pa.Table:
    """Each listed item under a key that knows where it is and what it was: place, name and stamp."""
    if not listed:
        raise BuildError("the source of inputs is empty")
    where = ("source", READING, source.place, modality)
    rows = [(digest(*where, name, stamp), name, stamp, modality) for name, stamp in listed]
    return pa.Table.from_pylist([dict(zip(ITEM.names, row, strict=True)) for row in rows], schema=ITEM)


def _sorted_blocks(todo: pa.Table) -> list[pa.Table]:
    return blocks_of(todo.sort_by("source"), ITEMS_PER_PART)


# ---- steps that run on the cluster -----------------------------------------------------------------------------


def identify(block: pa.Table, source: Source, modality: Modality) -> pa.Table:
    """Add to each item its input_id, or why it has none."""
    read = each_in_time(source.read, block["source"].to_pylist(), AHEAD[modality])
    found = [_identified(content, modality) for content in read]
    for at, name in enumerate(("input_id", "error_class", "message")):
        block = block.append_column(name, pa.array([row[at] for row in found], pa.string()))
    return block


def _identified(content: bytes | str | Exception, modality: Modality) -> tuple[str | None, str | None, str | None]:
    """An item's input_id, or the class and message of what went wrong; no more, since a block's photos would be
    gigabytes, and an exception holds its photo by the traceback."""
    if isinstance(content, Exception):
        return None, type(content).__name__, reason(content)
    try:
        return content_id(decode(content)) if modality == "image" else _text(content)["input_id"], None, None
    # Decoders raise whatever their format's plug-in raises; every one of them means: not a readable picture.
    except Exception as error:
        return None, type(error).__name__, reason(error)


def write_sources(block: pa.Table, store: Store) -> pa.Table:
    """Write what the items turned out to be, failures first; returns a receipt."""
    bad = block.filter(pc.is_valid(block["error_class"])).to_pylist()
    failed = [failure(row, "source_key", STAGE, "source") for row in bad]
    good = block.filter(pc.is_null(block["error_class"]))
    store.write_part("failures", pa.Table.from_pylist(failed, schema=records.FAILURE))
    store.write_part("sources", good.select(records.SOURCE.names))
    return receipt(block, len(failed))


def write_inputs(block: pa.Table, source: Source, modality: Modality, store: Store) -> pa.Table:
    """Write the content of distinct inputs.

    Raises:
        BuildError: if an item is no longer what it was when it was identified.
    """
    rows, size = [], 0
    for name, wanted, content in zip(
        block["source"].to_pylist(),
        block["input_id"].to_pylist(),
        each_in_time(source.read, block["source"].to_pylist(), AHEAD[modality]),
        strict=True,
    ):
        row = _input(content, modality)
        if isinstance(row, Exception) or row["input_id"] != wanted:
            why = f" ({type(row).__name__}: {reason(row)})" if isinstance(row, Exception) else ""
            raise BuildError(f"{name} changed while it was read{why}: run the same command again")
        rows.append(row)
        size += len(row.get("image", b""))
        if size >= PART_BYTES:
            store.write_part("inputs", pa.Table.from_pylist(rows, schema=records.INPUT))
            rows, size = [], 0
    store.write_part("inputs", pa.Table.from_pylist(rows, schema=records.INPUT))
    return receipt(block, 0)


def _input(content: bytes | str | Exception, modality: Modality) -> dict[str, Any] | Exception:
    """An Input record, or why the content is none."""
    if isinstance(content, Exception):
        return content
    try:
        return _image(content) if modality == "image" else _text(content)
    except Exception as error:
        return error


def _image(data: bytes) -> dict[str, Any]:
    stored = to_store(data)
    size = {"width": stored.width, "height": stored.height}
    return {"input_id": stored.content_id, "modality": "image", "image": stored.data, **size}


def _text(text: str) -> dict[str, Any]:
    text = text.strip()
    if len(text) > MAX_CHARACTERS:  # before NFC, which takes quadratic time on a row of accents
        raise BadPrompt(f"the prompt has {len(text):,} characters, more than {MAX_CHARACTERS:,}: shorten it")
    text = unicodedata.normalize("NFC", text).strip()
    if not text:
        raise EmptyPrompt("the prompt is empty: remove the line or write a prompt")
    if "\0" in text:
        raise BadPrompt("the prompt has a NUL character in it")
    return {"input_id": text_id(text), "modality": "text", "text": text}
