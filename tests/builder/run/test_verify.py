"""`cyclepref verify`: everything read, every kind of damage told with its way out, nothing changed."""

import json
import random
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from damage import DAMAGE, flip_bits, parts_of
from inline_builds import InlineEngine, put_hashed_models, small_recipe

from cyclepref.builder.build import build
from cyclepref.builder.dataset.verify import verify
from cyclepref.builder.run.seal import write_sealed
from cyclepref.builder.run.store import TABLES, Store
from cyclepref.jobs.cli import main


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> dict[str, Path]:
    outs = {}
    with pytest.MonkeyPatch.context() as patch:
        put_hashed_models(patch)
        for cycle in ("i2t2i", "t2i2t"):
            outs[cycle] = tmp_path_factory.mktemp(cycle) / "run"
            build(small_recipe(cycle, dataset={"group_near_duplicates": True}), outs[cycle], engine=InlineEngine())
    return outs


@pytest.fixture
def run(finished, tmp_path) -> Path:
    shutil.copytree(finished["i2t2i"], tmp_path / "run")
    return tmp_path / "run"


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
def test_a_whole_run_is_sound_and_everything_in_it_was_read(finished, cycle, capsys):
    before = contents(finished[cycle])
    assert main(["verify", str(finished[cycle]), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["sound"], found["damage"], found["notes"]) == (True, [], [])
    read, store = found["read"], Store(finished[cycle])
    assert read["parts"] == len(parts_of(finished[cycle]))
    for table in TABLES:
        assert read.get(table, 0) == store.rows(table).num_rows
    assert read["pairs"] == read["dataset pairs"] == store.read_view("pairs").num_rows > 0
    assert read["dataset inputs"] == 6
    assert contents(finished[cycle]) == before


@pytest.mark.parametrize("damage", DAMAGE, ids=lambda damage: damage.__name__)
def test_every_damage_of_a_part_is_found_with_the_way_out_and_nothing_is_changed(run, finished, damage, capsys):
    hit = random.Random(damage.__name__).choice(parts_of(run))
    damage(hit, random.Random(1))
    before = contents(run)
    if main(["verify", str(run), "--json"]) == 0:  # a bit that means nothing, such as one of parquet's statistics
        assert damage is flip_bits
        assert pq.read_table(hit).equals(pq.read_table(finished["i2t2i"] / hit.relative_to(run)))
        return
    damaged = json.loads(capsys.readouterr().out)["damage"]
    assert str(hit.relative_to(run)) in {each["file"] for each in damaged if each["kind"] == "part"}
    assert all(each["way_out"] for each in damaged)
    assert contents(run) == before


def changed(path: Path, name: str, value, sealed_as: str | None = None) -> None:
    """The first value of a column replaced; `sealed_as`: with digests of its own, as if it had been written so."""
    rows = pq.read_table(path)
    column = pa.array([value, *rows[name].to_pylist()[1:]], rows.schema.field(name).type)
    rows = rows.set_column(rows.column_names.index(name), rows.schema.field(name), column)
    if sealed_as:
        write_sealed(rows.replace_schema_metadata(None), sealed_as, str(path))
    else:
        pq.write_table(rows, path)


@pytest.mark.parametrize(
    ("kind", "table", "column", "value", "message"),
    [
        ("id", "generations", "content_id", "0" * 32, "another text|another picture"),
        ("id", "generations", "source_id", "0" * 32, "not the id of its source_id, fingerprint, seed"),
        ("id", "inputs", "image", b"x", "not a picture"),
        ("id", "similarities", "input_id", "0" * 32, "not the id of its input_id"),
        ("id", "models", "identity", "{}", "another identity"),
        ("view", "similarities", "value", 7.5, "has another score by lpips-shapeworld than its similarities give"),
    ],
)
def test_a_row_whose_id_is_not_of_its_content_is_found_although_its_checksums_fit(
    run, kind, table, column, value, message
):
    part = next(iter(sorted((run / "store" / table).glob("*.parquet"))))
    changed(part, column, value, f"{table}/{part.name}")
    found = [each for each in verify(Store(run)).damage if each.kind == kind]
    assert any(part_of in each.what for each in found for part_of in message.split("|")), found


@pytest.mark.parametrize(
    ("view", "column", "value", "message"),
    [
        ("candidates", "text", "other", "is another one in the store"),
        ("candidates", "generation_id", "0" * 32, "is not in the store"),
        ("scores", "value", 7.5, "another score"),
        ("pairs", "chosen_score", 7.5, "the chosen one has another score"),
        ("pairs", "margin", 7.5, "its margin is not the difference"),
    ],
)
@pytest.mark.parametrize("sealed", [True, False])
def test_a_view_that_is_not_that_of_the_store_is_found(run, view, column, value, message, sealed):
    changed(run / view / "part-0.parquet", column, value, view if sealed else None)
    found = [each for each in verify(Store(run)).damage if each.kind in ("view", "file")]
    expected = message if sealed else "it was written again by something else"
    assert any(expected in each.what and each.way_out for each in found), found


@pytest.mark.parametrize(("config", "column"), [("pairs", "chosen_id"), ("rankings", "input_id")])
def test_a_dataset_that_is_not_that_of_the_views_is_found(run, config, column):
    file = sorted((run / "dataset" / config).glob("*.parquet"))[0]
    changed(file, column, "0" * 32)
    found = [each for each in verify(Store(run)).damage if each.kind == "dataset"]
    assert [each.file for each in found] == [f"dataset/{config}/{file.name}"]
    file.write_bytes(file.read_bytes()[:-100])
    assert any("dataset" in each.kind and "cannot be read" in each.what for each in verify(Store(run)).damage)


def test_other_files_that_are_wrong_and_files_that_are_no_parts_are_told(run, capsys):
    (run / "lock.json").write_text("[]")
    (run / "groups.parquet").write_bytes(b"x")
    (run / "wanted" / "scores.parquet").unlink()
    (run / "store" / "inputs" / "notes.txt").write_text("mine")
    assert main(["verify", str(run)]) == 1
    said = capsys.readouterr().out
    for name in ("lock.json", "groups.parquet", "wanted/scores.parquet", "notes.txt is not a part: nothing reads it"):
        assert name in said


def test_a_part_of_an_earlier_version_is_counted_and_no_damage(run):
    part = parts_of(run)[0]
    rows = pq.read_table(part).replace_schema_metadata(None)
    part.unlink()
    pq.write_table(rows, part.with_name(part.name.replace(".sealed", "")))
    report = verify(Store(run))
    assert report.damage == []
    assert report.read["parts of an earlier version, without checksums"] == 1


def test_a_folder_without_a_run_is_one_clear_error(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 1
    assert "has no run: `cyclepref build RECIPE --out" in capsys.readouterr().err
