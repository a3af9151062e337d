"""Parts of a run that a disk, a copy or a hand has changed: never believed, set aside by the next build, made again."""

import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from inline_builds import InlineEngine, hashed_models, put_hashed_models, small_recipe  # noqa: F401

from builder.build import build
from builder.store import ASIDE, TABLES, VIEWS

SEEDS = int(os.environ.get("CYCLEPREF_FUZZ", "3"))


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


@pytest.fixture(scope="module")
def undamaged(tmp_path_factory) -> dict[str, dict[str, Path]]:
    """cycle -> a finished run ("run"), and the same one grown by a third model ("grown")."""
    outs = {}
    with pytest.MonkeyPatch.context() as patch:
        put_hashed_models(patch)
        for cycle in ("i2t2i", "t2i2t"):
            outs[cycle] = {name: tmp_path_factory.mktemp(f"{cycle}-{name}") for name in ("run", "grown")}
            build(small_recipe(cycle), outs[cycle]["run"], engine=InlineEngine())
            shutil.copytree(outs[cycle]["run"], outs[cycle]["grown"], dirs_exist_ok=True)
            build(small_recipe(cycle, third=True), outs[cycle]["grown"], engine=InlineEngine())
    return outs


@pytest.mark.usefixtures("hashed_models")
@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_whatever_happens_to_a_part_the_next_build_gives_the_same_pairs(undamaged, tmp_path, caplog, damage):
    for seed in range(SEEDS):
        dice, out = random.Random(f"{seed} {damage.__name__}"), tmp_path / str(seed)
        cycle, grown = dice.choice(("i2t2i", "t2i2t")), dice.random() < 0.5
        shutil.copytree(undamaged[cycle]["run"], out)
        hit = dice.choice(parts_of(out))
        damage(hit, dice)
        caplog.clear()
        build(small_recipe(cycle, third=grown), out, engine=InlineEngine())
        right = undamaged[cycle]["grown" if grown else "run"]
        for view in VIEWS:
            name = f"{view}/part-0.parquet"
            assert (out / name).read_bytes() == (right / name).read_bytes(), (seed, hit)
        gone = not hit.exists() or (out / ASIDE / hit.relative_to(out / "store")).exists()
        told = [record.message for record in caplog.records if str(hit) in record.message]
        assert len(told) == gone, (seed, hit, told)
