"""What people said of a run's pairs in `cyclepref audit`: their judgement is the label."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.dataset.views import split_of
from cyclepref.builder.preferences.layouts.items import Content, Judged, JudgedError, Picture
from cyclepref.builder.run.audit import ANSWERS_FILE, FOLDER, read_answers, read_audited, verdicts
from cyclepref.builder.run.content import locate
from cyclepref.builder.run.groups import read_groups
from cyclepref.builder.run.store import Store
from cyclepref.schemas.recipe import Splits
from cyclepref.schemas.run_files import RunJson

AUDIT = "audit"


@dataclass(frozen=True)
class Audited:
    """The audited pairs of a run on which people prefer one candidate; ties are counted. `split` None takes all."""

    place: str
    store: Store
    rows: list[dict[str, Any]]
    split: str | None
    name: str = AUDIT
    scores: str | None = None

    def __len__(self) -> int:
        return len({row["input_id"] for row in self.rows})

    def __iter__(self) -> Iterator[Judged]:
        inputs = _contents(self.store, "inputs", "input_id", [row["input_id"] for row in self.rows])
        ids = [row[side] for row in self.rows for side in ("chosen_id", "rejected_id")]
        made = _contents(self.store, "generations", "generation_id", ids)
        for input_id in sorted({row["input_id"] for row in self.rows}):
            mine = [row for row in self.rows if row["input_id"] == input_id]
            yield _judged(input_id, mine, inputs[input_id], made)


def audited_run(dataset: str) -> bool:
    """Whether a place is the `audit` folder of a run."""
    path = Path(dataset).expanduser()
    return path.name == FOLDER and (path / Path(ANSWERS_FILE).name).is_file()


def open_audit(place: str, split: str | None) -> Audited:
    """The audit of a run: `place` is the run directory, or the `audit` folder in it. With a `split`, only the pairs of
    inputs that are in it.

    Raises:
        JudgedError: if nobody has answered yet, or of no pair of that split.
    """
    path = Path(place).expanduser()
    store = Store(path.parent if audited_run(place) else path)
    if not store.exists(ANSWERS_FILE):
        raise JudgedError(f"{place} has no audit: `cyclepref audit {place}` asks people about its pairs")
    audited = read_audited(store)
    said = verdicts(audited, read_answers(store))
    rows = [row | {"verdict": said[row["audit_id"]]} for row in audited.to_pylist() if row["audit_id"] in said]
    if split is not None:
        where = _splits(store)
        rows = [row for row in rows if where(row["input_id"]) == split]
    if not rows:
        of = "" if split is None else f" of an input in split {split!r}"
        raise JudgedError(f"{place}: nobody has answered a pair{of} yet; `cyclepref audit` goes on where it was")
    return Audited(place, store, rows, split)


def _splits(store: Store) -> Any:
    """Input -> split, as the run's dataset has it."""
    recipe = (store.read_json("run.json", RunJson) or {}).get("recipe") or {}
    splits = Splits.model_validate(recipe.get("splits") or {})
    groups = {row["input_id"]: row["group"] for row in read_groups(store)}
    return lambda input_id: split_of(groups.get(input_id, input_id), splits)


def _judged(input_id: str, rows: list[dict[str, Any]], shared: Content, made: dict[str, Content]) -> Judged:
    models = {row[f"{side}_id"]: row[f"{side}_model"] for row in rows for side in ("chosen", "rejected")}
    ids = sorted(models)
    pairs = []
    for row in rows:
        sides = (ids.index(row["chosen_id"]), ids.index(row["rejected_id"]))
        if row["verdict"]:
            pairs.append(sides if row["verdict"] > 0 else sides[::-1])
    margins = [row["margin"] for row in rows if row["verdict"]]
    kind = "image" if isinstance(shared, str) else "text"
    ties = sum(not row["verdict"] for row in rows)
    return Judged(
        kind, input_id, shared, [made[id_] for id_ in ids], [models[id_] for id_ in ids], None, pairs, margins, ties
    )


def _contents(store: Store, table: str, key: str, ids: list[str]) -> dict[str, Content]:
    """Each id's text, or its image, which is read when it is asked for."""
    rows = pa.table({key: pa.array(sorted(set(ids)), pa.string())})
    found = store.rows(table, [key, "text"])
    found = found.filter(pc.is_in(found[key], value_set=rows[key].combine_chunks()))
    texts = dict(zip(found[key].to_pylist(), found["text"].to_pylist(), strict=True))
    made: dict[str, Content] = {}
    for row in locate(rows, "it", key, found, key).to_pylist():
        text = texts[row[key]]
        read = partial(_bytes, store, table, row["it_part"], row["it_row"])
        made[row[key]] = Picture(f"{table} {row[key]}", read, row[key]) if text is None else text
    if missing := set(ids) - made.keys():
        raise JudgedError(f"{store.root}: {len(missing)} audited rows are gone from its {table}: build it again")
    return made


def _bytes(store: Store, table: str, part: str, row: int) -> bytes:
    return store.fetch(table, [part], [row], ["image"])["image"][0].as_py()
