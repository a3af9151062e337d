"""Parts of a run that a disk, a copy or a hand has changed: never believed, set aside by the next build, made again."""

import os
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import DAMAGE, parts_of, truncate
from inline_builds import InlineEngine, hashed_models, put_hashed_models, small_recipe  # noqa: F401

from cyclepref.builder.build import build
from cyclepref.builder.run.lock import hold
from cyclepref.builder.run.mending import damaged_parts
from cyclepref.builder.run.seal import read_sealed, seal, write_sealed
from cyclepref.builder.run.store import ASIDE, JOINED, PART, SEALED, DamagedPart, Store
from cyclepref.builder.run.upkeep import join_small, merge, prune
from cyclepref.builder.run.view_folder import VIEWS
from cyclepref.jobs.cli import main

SEEDS = int(os.environ.get("CYCLEPREF_FUZZ", "3"))


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


def test_a_reader_without_the_lock_tells_of_a_damaged_part_and_leaves_it(undamaged, tmp_path, capsys):
    out = tmp_path / "run"
    shutil.copytree(undamaged["i2t2i"]["run"], out)
    [hit] = [path for path in parts_of(out) if path.parent.name == "generations"][:1]
    hit.write_bytes(hit.read_bytes()[:-50])
    with hold(Store(out), "build"):
        assert main(["status", str(out)]) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"error: {hit} is damaged (")
    assert "the next `cyclepref build` sets it aside" in said
    assert hit.exists()
    assert not (out / ASIDE).exists()
    with pytest.raises(DamagedPart, match="is damaged"), hold(Store(out), "prune"):
        prune(Store(out))


def test_a_merge_with_a_truncated_part_reports_it_sets_it_aside_and_does_not_succeed(
    undamaged, tmp_path, caplog, capsys
):
    first, second, both = (tmp_path / name for name in ("first", "second", "both"))
    shutil.copytree(undamaged["i2t2i"]["run"], first)
    shutil.copytree(undamaged["t2i2t"]["run"], second)
    hit = next(path for path in parts_of(second) if path.parent.name == "generations")
    hit.write_bytes(hit.read_bytes()[:-50])
    assert main(["merge", str(first), str(second), "--into", str(both)]) == 1
    assert "1 of them damaged and set aside" in capsys.readouterr().out
    assert str(both / hit.relative_to(second)) in caplog.text
    assert (both / ASIDE / "generations" / hit.name).exists()
    assert hit.exists()
    assert main(["merge", str(first), str(undamaged["t2i2t"]["run"]), "--into", str(both)]) == 0
    assert main(["merge", str(first), str(second), "--into", str(both)]) == 0  # the same part is there, whole


def test_a_merge_takes_from_the_other_run_what_is_damaged_in_the_first(undamaged, tmp_path):
    whole, out = undamaged["i2t2i"]["run"], tmp_path / "run"
    shutil.copytree(whole, out)
    hit = next(path for path in parts_of(out) if path.parent.name == "inputs")
    hit.write_bytes(b"")
    done = merge(Store(out), Store(whole), Store(out))
    assert (done.copied, done.damaged) == (1, 1)
    assert hit.read_bytes() == (whole / hit.relative_to(out)).read_bytes()


def test_joined_parts_are_sealed_and_a_damaged_part_is_never_joined(undamaged, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(undamaged["i2t2i"]["run"], out)
    join_small(Store(out), many=0)
    assert all(path.name.startswith(JOINED) and path.name.endswith(SEALED) for path in parts_of(out))
    assert list(damaged_parts(Store(out), [(path.parent.name, path.name) for path in parts_of(out)])) == []
    hit = parts_of(out)[0]
    truncate(hit, random.Random(3))
    with pytest.raises(DamagedPart, match="is damaged"):
        join_small(Store(out), many=0)
    assert hit.exists()


@pytest.mark.usefixtures("hashed_models")
def test_parts_of_earlier_versions_without_checksums_still_open(undamaged, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(undamaged["i2t2i"]["run"], out)
    for path in parts_of(out):
        pq.write_table(
            pq.read_table(path).replace_schema_metadata(None), path.with_name(path.name.replace(SEALED, PART))
        )
        path.unlink()
    run = build(small_recipe(third=True), out, engine=InlineEngine())
    assert all(count["reused"] == 6 for name, count in run["counts"]["candidates"].items() if name != "third")
    for view in VIEWS:
        name = f"{view}/part-0.parquet"
        assert (out / name).read_bytes() == (undamaged["i2t2i"]["grown"] / name).read_bytes()


def test_digests_are_of_the_values_whatever_buffers_and_chunks_they_lie_in(tmp_path):
    rows = pa.table(
        {
            "text": ["a", None, "", "long " * 50, "e", None],
            "number": [1.5, None, float("nan"), 0.0, 2.0, None],
            "flag": [True, None, False, True, None, False],
            "items": pa.array([["a"], None, [], ["b", None], ["c"], [""]], pa.list_(pa.string())),
            "bytes": pa.array([b"1", b"", None, b"22", b"3", b"4"], pa.binary()),
        }
    )
    doubled = pa.concat_tables([rows, rows])
    chunked = pa.concat_tables([doubled.slice(0, 4), doubled.slice(4, 1), doubled.slice(5)]).slice(2)
    whole = pa.Table.from_pylist(chunked.to_pylist(), schema=rows.schema)
    assert seal(chunked, "x", 3).schema.metadata == seal(whole, "x", 3).schema.metadata
    write_sealed(chunked, "x", tmp_path / "x.parquet", 3)
    assert read_sealed(tmp_path / "x.parquet", "x")["text"].to_pylist() == whole["text"].to_pylist()
    for name in rows.column_names:  # null and empty differ
        empty = {"text": "", "number": 0.0, "flag": False, "items": [], "bytes": b""}[name]
        filled = [{**row, name: empty if row[name] is None else row[name]} for row in whole.to_pylist()]
        other = pa.Table.from_pylist(filled, schema=rows.schema)
        assert seal(other, "x", 3).schema.metadata != seal(whole, "x", 3).schema.metadata
