"""Checks the parts of a run's store against their digests, and their ids against the content that they are hashes
of."""

import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any

import pyarrow as pa
from xxhash import xxh3_64_intdigest

from cyclepref.builder.common.images import UnreadableImage, content_id, decode
from cyclepref.builder.common.progress import Stage
from cyclepref.builder.run.findings import AGAIN, BY_HAND, Report
from cyclepref.builder.run.seal import in_a_line
from cyclepref.builder.run.store import PART, SEALED, TABLES, DamagedPart, Store
from cyclepref.schemas.ids import fingerprint, generation_id, similarity_id, text_id, verdict_id

# Threads: each holds one part, at most 256 MB, and decodes its pictures on one core.
READERS = min(8, os.cpu_count() or 1)
# Columns of a candidate that both the view and the store have.
CANDIDATE = ("content_id", "text", "seed", "draw", "fingerprint")
Row = dict[str, Any]


@dataclass
class Held:
    """The store's data on `candidates`, the ids in the view of that name: the gist of each one's columns CANDIDATE; the
    failed ones; and the sources of their scores: content -> contents that any model made from it, and similarities by
    id."""

    candidates: set[str]
    gists: dict[str, int] = field(default_factory=dict)
    failed: set[str] = field(default_factory=set)
    made_from: dict[str, list[str]] = field(default_factory=dict)
    similarities: dict[str, float] = field(default_factory=dict)

    def remember(self, table: str, rows: pa.Table) -> None:
        """Add rows of the store; of rows with the same id the first counts."""
        if table == "generations":
            for row in _rows(rows, "generation_id", "source_id", *CANDIDATE):
                if row["generation_id"] in self.candidates:
                    self.gists.setdefault(row["generation_id"], gist(row, CANDIDATE))
                else:
                    self.made_from.setdefault(row["source_id"], []).append(row["content_id"])
        elif table == "similarities":
            for row in _rows(rows, "similarity_id", "value"):
                self.similarities.setdefault(row["similarity_id"], row["value"])
        elif table == "failures":
            self.failed.update(id_ for id_ in rows["id"].to_pylist() if id_ in self.candidates)


def gist(row: Row, names: tuple[str, ...]) -> int:
    """A hash of some values of a row."""
    return xxh3_64_intdigest(repr([row[name] for name in names]).encode("utf-8", "surrogatepass"))


def read_store(store: Store, report: Report, held: Held, progress: Stage) -> None:
    """Read every part, report what is wrong with it, and remember the data that the views are compared with."""
    places = [(table, part) for table in TABLES for part in store.parts(table)]
    with progress("parts read", len(places)) as tick, ThreadPoolExecutor(READERS) as pool:
        # A few at a time, to bound the memory.
        several = (places[start : start + 2 * READERS] for start in range(0, len(places), 2 * READERS))
        read = chain.from_iterable(pool.map(partial(_read, store), some) for some in several)
        for (table, part), found in zip(places, read, strict=True):
            tick(1)
            file = f"store/{table}/{part}"
            report.add("part", file, found.damage, AGAIN)
            report.add("id", file, found.wrong, BY_HAND)
            report.read["parts"] += 1
            report.read["parts of an earlier version, without checksums"] += not part.endswith(SEALED)
            report.read[table] += sum(rows.num_rows for rows in found.rows)
            for rows in found.rows:
                held.remember(table, rows)
    for table in TABLES:
        strangers = [name for name in store.names(f"store/{table}") if not name.endswith(PART)]
        report.notes += [f"store/{table}/{name} is not a part: nothing reads it" for name in strangers]


@dataclass
class _Found:
    """A part: its rows without pictures, its damage, and ids that do not match their content."""

    rows: list[pa.Table] = field(default_factory=list)
    damage: str = ""
    wrong: list[str] = field(default_factory=list)


def _read(store: Store, place: tuple[str, str]) -> _Found:
    table, part = place
    found = _Found()
    try:
        for rows in store.examine(table, part):
            found.wrong += _wrong_ids(table, rows)
            found.rows.append(rows.drop_columns([name for name in ("image", "raw_text") if name in rows.column_names]))
    except DamagedPart as error:
        return _Found(damage=error.reason)
    except FileNotFoundError:  # joined or pruned meanwhile
        return found
    return found


def _rows(rows: pa.Table, *names: str) -> list[Row]:
    """Rows with some columns; null if an earlier version had no such column."""
    there = [name for name in names if name in rows.column_names]
    return [dict.fromkeys(names) | row for row in rows.select(there).to_pylist()]


def _wrong_ids(table: str, rows: pa.Table) -> list[str]:
    """Rows whose id does not match their content or their source."""
    check = CHECKS.get(table)
    key = TABLES[table][1]
    named = _rows(rows, *TABLES[table][0].names) if check else []
    return [f"{row[key]}: {wrong}" for row in named if (wrong := check(row))]


def wrong_content(text: str | None, image: bytes | None, id_: str) -> str:
    """Why a text or a picture does not match its id; empty if it does."""
    if image is None:
        return "" if text is not None and text_id(text) == id_ else "another text"
    try:
        return "" if content_id(decode(image)) == id_ else "another picture"
    except UnreadableImage as error:
        return f"not a picture ({in_a_line(error)})"


def _generation(row: Row) -> str:
    wrong = wrong_content(row["text"], row["image"], row["content_id"])
    # The id is made from the seed of draw 0; the row's seed is that of the successful draw.
    if wrong or row["draw"]:
        return wrong
    return _is("generation_id", generation_id, "source_id", "fingerprint", "seed")(row)


def _model(row: Row) -> str:
    try:
        return "" if fingerprint(json.loads(row["identity"])) == row["fingerprint"] else "another identity"
    except (ValueError, TypeError):
        return "its identity is not JSON"


def _is(key: str, made: Callable[..., str], *of: str) -> Callable[[Row], str]:
    return lambda row: "" if made(*(row[name] for name in of)) == row[key] else f"not the id of its {', '.join(of)}"


CHECKS: dict[str, Callable[[Row], str]] = {
    "inputs": lambda row: wrong_content(row["text"], row["image"], row["input_id"]),
    "models": _model,
    "generations": _generation,
    "similarities": _is("similarity_id", similarity_id, "input_id", "content_id", "fingerprint"),
    "verdicts": _is("verdict_id", verdict_id, "content_id", "fingerprint"),
}
