"""`audit/` in a run directory: the pairs that people are asked about, and every answer, kept as soon as it is given."""

import fcntl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from cyclepref.builder.run.folder import StoreError
from cyclepref.builder.run.seal import UNREADABLE, in_a_line, read_sealed, write_sealed
from cyclepref.builder.run.store import Store
from cyclepref.schemas.records import PAIR

FOLDER, RESULT_FILE = "audit", "audit.json"
PAIRS_FILE, ANSWERS_FILE = f"{FOLDER}/pairs.parquet", f"{FOLDER}/answers.parquet"

STRING = pa.string()
DRAWN = (
    "pair_id", "input_id", "chosen_id", "rejected_id", "chosen_model", "rejected_model", "metric", "margin",
)  # fmt: skip
# A pair that people are asked about: a pair of the run with what it was when it was drawn. `stratum` says from which
# quarter of the margins and which two models; `audit_id` names the two candidates, whichever is chosen.
AUDITED = pa.schema([("audit_id", STRING), *(PAIR.field(name) for name in DRAWN), ("stratum", STRING)])
# One row for each key that was pressed, in order: `better` is the generation_id of the candidate that was preferred,
# null for a tie, a skip and an undo. `left` is the candidate that stood on the left, null where that is not known.
ANSWER = pa.schema(
    [
        ("audit_id", STRING),
        ("annotator", STRING),
        ("answer", STRING),
        ("better", STRING),
        ("left", STRING),
        ("at", pa.float64()),
    ]
)
PREFERS, TIE, SKIP, UNDO = "prefers", "tie", "skip", "undo"


@dataclass(frozen=True)
class Answer:
    """What an annotator said last of a pair: `better` is the candidate that was preferred, None for a tie or skip."""

    audit_id: str
    annotator: str
    answer: str
    better: str | None
    left: str | None
    at: float


def read_audited(store: Store) -> pa.Table:
    """The pairs that people are asked about, in the order in which they are asked; none without an audit.

    Raises:
        StoreError: if the file is damaged.
    """
    return _read(store, PAIRS_FILE, AUDITED, "remove it, and the same `cyclepref audit` draws the same pairs")


def write_audited(store: Store, rows: pa.Table) -> None:
    """Keep the pairs, as a whole."""
    store.write_file(PAIRS_FILE, lambda sink: write_sealed(rows.cast(AUDITED), PAIRS_FILE, sink))


def add_answers(store: Store, answers: Iterable[Answer]) -> None:
    """Keep answers, on the disk when this returns. Several processes may do so at once.

    Raises:
        StoreError: if what was answered before is damaged.
    """
    rows = pa.Table.from_pylist([vars(answer) for answer in answers], schema=ANSWER)
    with _alone(store):
        # Without the digests of what was read, since these are other rows.
        told = pa.concat_tables([_log(store), rows]).replace_schema_metadata(None)
        store.write_file(ANSWERS_FILE, lambda sink: write_sealed(told, ANSWERS_FILE, sink))


def read_answers(store: Store) -> list[Answer]:
    """What each annotator said last of each pair, in order of time; what was undone is not there.

    Raises:
        StoreError: if the file is damaged.
    """
    last: dict[tuple[str, str], Answer] = {}
    for row in _log(store).to_pylist():
        answer = Answer(**row)
        last.pop((answer.audit_id, answer.annotator), None)
        if answer.answer != UNDO:
            last[answer.audit_id, answer.annotator] = answer
    return list(last.values())


def verdicts(audited: pa.Table, answers: Iterable[Answer]) -> dict[str, int]:
    """What people say of each pair that they answered: 1 if more of them prefer the chosen candidate, -1 if more prefer
    the rejected one, 0 if they are level. Skips say nothing."""
    chosen = dict(zip(audited["audit_id"].to_pylist(), audited["chosen_id"].to_pylist(), strict=True))
    votes: dict[str, int] = {}
    for answer in answers:
        if answer.audit_id in chosen and answer.answer != SKIP:
            vote = 0 if answer.better is None else 1 if answer.better == chosen[answer.audit_id] else -1
            votes[answer.audit_id] = votes.get(answer.audit_id, 0) + vote
    return {audit_id: (vote > 0) - (vote < 0) for audit_id, vote in votes.items()}


def _log(store: Store) -> pa.Table:
    return _read(store, ANSWERS_FILE, ANSWER, "restore it from a copy: what people said is in no other place")


def _read(store: Store, name: str, schema: pa.Schema, way_out: str) -> pa.Table:
    if not store.exists(name):
        return schema.empty_table()
    try:
        found = store.read_file(name, lambda file: read_sealed(file, name))
        if not found.schema.equals(schema):
            raise pa.ArrowInvalid("its columns are others")
    except UNREADABLE as error:
        raise StoreError(f"{store.address(name)} is damaged ({in_a_line(error)}): {way_out}") from error
    return found


@contextmanager
def _alone(store: Store) -> Iterator[None]:
    """Nobody else adds answers meanwhile."""
    folder = Path(store.root, FOLDER)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / ".lock", "w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
