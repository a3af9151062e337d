"""Which pairs people are asked about: as many of each margin and each two models as there are, whatever is frequent."""

from collections import defaultdict

import numpy as np
import pyarrow as pa

from cyclepref.builder.report.page import ReportError
from cyclepref.builder.run.audit import AUDITED, read_audited, write_audited
from cyclepref.builder.run.store import Store
from cyclepref.schemas.ids import digest

QUARTERS = 4
# Pairs of an audit that is begun without a number.
PAIRS = 200


def draw(store: Store, count: int | None = None) -> pa.Table:
    """The pairs of a run's audit, `count` of them or as many as it has: those drawn before, and more where these are
    fewer; without a `count` those drawn before alone, or PAIRS where there are none. They are kept, so that an audit
    goes on where it was.

    Raises:
        ReportError: if the run is not on this machine, or has no pairs.
        StoreError: if it has not come to its pairs.
    """
    if "://" in store.root:
        raise ReportError(f"{store.root} is an address: answers are kept on this machine; copy the run here")
    before = read_audited(store)
    count = count or before.num_rows or PAIRS
    if before.num_rows >= count:
        return before
    pairs = store.read_view("pairs")
    if not pairs.num_rows:
        raise ReportError(f"{store.root} has no pairs to ask about: lower pairs.min_margin in its recipe")
    known = set(before["audit_id"].to_pylist())
    more = [row for row in stratified(pairs) if row["audit_id"] not in known][: count - before.num_rows]
    added = pa.Table.from_pylist(more, schema=AUDITED)
    drawn = pa.concat_tables([before, added]).replace_schema_metadata(None)
    write_audited(store, drawn)
    return drawn


def stratified(pairs: pa.Table) -> list[dict]:
    """All pairs in the order in which they are drawn: of each quarter of the margins and each two models one in turn,
    by the hash of its id; of an input that has been drawn from, later. The same pairs give the same order."""
    edges = np.quantile(np.asarray(pairs["margin"]), np.linspace(0, 1, QUARTERS + 1)[1:-1])
    strata: dict[str, list[dict]] = defaultdict(list)
    for row in pairs.to_pylist():
        models = sorted((row["chosen_model"], row["rejected_model"]))
        quarter = int(np.searchsorted(edges, row["margin"], side="left")) + 1
        sides = sorted((row["chosen_id"], row["rejected_id"]))
        row |= {"stratum": f"{quarter}|{'|'.join(models)}", "audit_id": digest("audit", row["input_id"], *sides)}
        strata[row["stratum"]].append(row)
    for name, rows in strata.items():
        rows.sort(key=lambda row: digest("drawn", row["audit_id"]))
        strata[name] = _inputs_apart(rows)
    order = sorted(strata, key=lambda name: digest("stratum", name))
    rounds = max(map(len, strata.values()))
    found = [strata[name][at] for at in range(rounds) for name in order if at < len(strata[name])]
    return [{name: row[name] for name in AUDITED.names} for row in found]


def _inputs_apart(rows: list[dict]) -> list[dict]:
    """The rows, the first of each input before the second of any."""
    seen: dict[str, int] = defaultdict(int)
    numbered = []
    for at, row in enumerate(rows):
        numbered.append((seen[row["input_id"]], at, row))
        seen[row["input_id"]] += 1
    return [row for _, _, row in sorted(numbered, key=lambda each: each[:2])]
