"""`groups.parquet`: which inputs are nearly the same and so share a split. It is stored so that no input moves
later."""

from collections.abc import Iterable
from typing import Any

import pyarrow as pa

from cyclepref.builder.common.near_duplicates import VERSION, alike, bands, distance
from cyclepref.builder.run.folder import StoreError
from cyclepref.builder.run.seal import UNREADABLE, read_sealed, write_sealed
from cyclepref.builder.run.store import Store

GROUPS_FILE = "groups.parquet"


GROUP = pa.schema([("input_id", pa.string()), ("group", pa.string()), ("signature", pa.binary())])


class Groups:
    """The group of each input. `largest` is the most inputs that a group may have."""

    def __init__(self, rows: Iterable[dict[str, Any]] = (), largest: int = 50):
        self.largest = largest
        self.of: dict[str, str] = {}
        self._signatures: dict[str, bytes] = {}
        self._sizes: dict[str, int] = {}
        self._bands: dict[tuple[int, bytes], list[str]] = {}
        for row in rows:
            self._put(row["input_id"], row["group"], row["signature"])

    def add(self, signatures: dict[str, bytes]) -> None:
        """Assign a group to every input without one, in order of id."""
        for input_id in sorted(signatures.keys() - self.of.keys()):
            mine = signatures[input_id]
            near = {other for key in bands(mine) for other in self._bands.get(key, ())}
            found = [
                (distance(mine, self._signatures[other]), self.of[other])
                for other in near
                if alike(mine, self._signatures[other])
            ]
            open_ = [pair for pair in found if self._sizes[pair[1]] < self.largest]
            self._put(input_id, min(open_)[1] if open_ else input_id, mine)

    def table(self) -> pa.Table:
        """Every input with its group and signature, in order of id."""
        ids = sorted(self.of)
        columns = [ids, [self.of[id_] for id_ in ids], [self._signatures[id_] for id_ in ids]]
        return pa.table(dict(zip(GROUP.names, columns, strict=True)), schema=GROUP)

    def _put(self, input_id: str, group: str, mine: bytes) -> None:
        self.of[input_id], self._signatures[input_id] = group, mine
        self._sizes[group] = self._sizes.get(group, 0) + 1
        for key in bands(mine):
            self._bands.setdefault(key, []).append(input_id)


def read_groups(store: Store) -> list[dict[str, Any]]:
    """The groups that a run has recorded; empty if there are none.

    Raises:
        StoreError: if the record is damaged or has another version.
    """
    if not store.exists(GROUPS_FILE):
        return []
    try:
        table = store.read_file(GROUPS_FILE, lambda file: read_sealed(file, GROUPS_FILE))
    except UNREADABLE as error:
        raise StoreError(
            f"cannot read {store.address(GROUPS_FILE)} ({error}): restore it, or inputs might move"
        ) from error
    version = (table.schema.metadata or {}).get(b"likeness", b"").decode()
    if version != str(VERSION):
        raise StoreError(
            f"{store.address(GROUPS_FILE)} was recorded with likeness {version or 'unknown'}, but this is {VERSION}: "
            "build with the version of CyclePref that recorded it, or in a new directory"
        )
    return table.to_pylist()


def write_groups(store: Store, groups: Groups) -> None:
    """Write all groups as one file."""
    table = groups.table().replace_schema_metadata({"likeness": str(VERSION)})
    store.write_file(GROUPS_FILE, lambda sink: write_sealed(table, GROUPS_FILE, sink, compression="zstd"))


def merge_groups(runs: list[Store], into: Store) -> None:
    """Write the groups of `runs` into their merged run; if two disagree on an input, the first one counts."""
    recorded = [row for run in (into, *runs) for row in read_groups(run)]
    first = {row["input_id"]: row for row in reversed(recorded)}
    if first:
        write_groups(into, Groups(first.values()))
