"""What disks, copies and hands do to the parts of a run."""

import random
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from cyclepref.builder.run.store import TABLES


def parts_of(out: Path) -> list[Path]:
    return sorted(path for table in TABLES for path in (out / "store" / table).glob("*.parquet"))


def flip_bits(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(dice.choice((1, 1, 1, 8))):
        content[dice.randrange(len(content))] ^= 1 << dice.randrange(8)
    path.write_bytes(content)


def truncate(path: Path, dice: random.Random) -> None:
    path.write_bytes(path.read_bytes()[: dice.randrange(path.stat().st_size)])


def rewrite(path: Path, dice: random.Random) -> None:
    """Another value in some column, by something that keeps the file's metadata."""
    rows = pq.read_table(path)
    name = dice.choice([name for name in rows.column_names if rows[name].null_count < rows.num_rows])
    values = rows[name].to_pylist()
    at = dice.choice([at for at, value in enumerate(values) if value is not None])
    other = {str: lambda v: v + "x", bytes: lambda v: v + b"x", list: lambda v: [*v, "x"], bool: lambda v: not v}
    values[at] = other.get(type(values[at]), lambda v: v + 1)(values[at])
    column = pa.array(values, rows.schema.field(name).type)
    pq.write_table(rows.set_column(rows.column_names.index(name), rows.schema.field(name), column), path)


def rewrite_plainly(path: Path, dice: random.Random) -> None:
    """As pandas or another library writes it: the same columns, and no metadata of ours."""
    rewrite(path, dice)
    pq.write_table(pq.read_table(path).replace_schema_metadata(None), path)


def drop_a_column(path: Path, dice: random.Random) -> None:
    rows = pq.read_table(path)
    pq.write_table(rows.drop_columns([dice.choice(rows.column_names)]), path)


def empty(path: Path, dice: random.Random) -> None:
    path.write_bytes(b"")


def foreign(path: Path, dice: random.Random) -> None:
    pq.write_table(pa.table({"a": [1, 2]}), path)


def zeros(path: Path, dice: random.Random) -> None:
    content = bytearray(path.read_bytes())
    start = dice.randrange(len(content))
    content[start : start + 512] = bytes(len(content[start : start + 512]))
    path.write_bytes(content)


DAMAGE = [flip_bits, truncate, rewrite, rewrite_plainly, drop_a_column, empty, foreign, zeros]
