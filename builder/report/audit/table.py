"""An audit as a CSV file that a spreadsheet or Label Studio takes, out and in again."""

import csv
import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from cyclepref.builder.report.audit.serve import Desk, sides_of
from cyclepref.builder.report.page import ReportError
from cyclepref.builder.run.audit import PREFERS, SKIP, TIE, Answer, add_answers
from cyclepref.builder.run.store import Store

COLUMNS = ("audit_id", "input", "first", "second", "first_id", "second_id", "answer", "annotator")
# What may stand under `answer`.
ANSWERS = {"1": PREFERS, "2": PREFERS, TIE: TIE, SKIP: SKIP}
# A spreadsheet takes a cell that begins with one of these for a formula.
FORMULA = ("=", "+", "-", "@", "\t", "\r")
KIND_OF_MAGIC = ((b"\x89PNG", "png"), (b"\xff\xd8", "jpg"), (b"RIFF", "webp"))


def write_table(store: Store, pairs: pa.Table, file: Path, annotator: str = "") -> int:
    """Write an audit's pairs, a row each with an empty answer; images go into a folder beside the file. Returns rows.

    Raises:
        ReportError: if the file cannot be written.
    """
    desk = Desk(store, pairs, "", "")
    folder = file.with_name(f"{file.stem}_files")
    rows = []
    for pair in desk.pairs.values():
        first, second = sides_of(pair, annotator)
        places = (("input", pair["input_id"]), ("candidate", first), ("candidate", second))
        contents = [_cell(desk, folder, *place) for place in places]
        rows.append((pair["audit_id"], *contents, first, second, "", annotator))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "w", encoding="utf-8-sig", newline="") as sink:
            csv.writer(sink).writerows([COLUMNS, *rows])
    except OSError as error:
        raise ReportError(f"cannot write {file} ({error}): --export must name a file that can be written") from error
    return len(rows)


def read_table(store: Store, pairs: pa.Table, file: Path, annotator: str | None = None) -> int:
    """Take in the answers of a file as `write_table` wrote it, or as Label Studio exports it; rows without an answer
    are left out. `annotator` stands in for a file that names none. Returns answers.

    Raises:
        ReportError: for a row whose pair, candidates or answer are not those of this audit; nothing is kept then.
    """
    known = {row["audit_id"]: row for row in pairs.to_pylist()}
    try:
        with open(file, encoding="utf-8-sig", newline="") as source:
            rows = list(csv.DictReader(source))
    except (OSError, ValueError, csv.Error) as error:
        raise ReportError(f"cannot read {file} ({error}): give a CSV file in UTF-8") from error
    missing = [name for name in ("audit_id", "first_id", "second_id", "answer") if rows and name not in rows[0]]
    if missing:
        raise ReportError(f"{file} has no column {', '.join(missing)}: fill in a file that `audit --export` wrote")
    answers = [_answer(file, number, row, known, annotator) for number, row in enumerate(rows, 2) if _given(row)]
    if answers:
        add_answers(store, answers)
    return len(answers)


def _given(row: dict[str, Any]) -> str:
    return (row.get("answer") or "").strip().lower()


def _answer(file: Path, line: int, row: dict[str, Any], known: dict[str, Any], annotator: str | None) -> Answer:
    pair, given = known.get(row["audit_id"]), _given(row)
    name = (annotator or row.get("annotator") or "").strip()
    if pair is None:
        raise ReportError(f"{file}, line {line}: {row['audit_id']!r:.60} is no pair of this audit")
    if {row["first_id"], row["second_id"]} != {pair["chosen_id"], pair["rejected_id"]}:
        raise ReportError(f"{file}, line {line}: its candidates are not those of the pair")
    if given not in ANSWERS:
        raise ReportError(f"{file}, line {line}: the answer must be 1, 2, tie or skip, got {given!r:.40}")
    if not name:
        raise ReportError(f"{file}, line {line}: nobody is named; give --annotator NAME")
    better = {"1": row["first_id"], "2": row["second_id"]}.get(given)
    return Answer(pair["audit_id"], name, ANSWERS[given], better, row["first_id"], time.time())


def _cell(desk: Desk, folder: Path, kind: str, id_: str) -> str:
    """A text that no spreadsheet runs, or the path of an image that is written beside the table."""
    told = desk.content_of(kind, id_)
    if "text" in told:
        return f"'{told['text']}" if told["text"].startswith(FORMULA) else told["text"]
    data = desk.bytes_of(kind, id_) or b""
    ending = next((ending for magic, ending in KIND_OF_MAGIC if data.startswith(magic)), "bin")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{id_}.{ending}").write_bytes(data)
    return f"{folder.name}/{id_}.{ending}"
