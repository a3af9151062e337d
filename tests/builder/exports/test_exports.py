"""An export as a whole: what is refused, that it is whole or not there, and that memory does not grow with it."""

import json
import shutil
import tracemalloc

import datasets
import pyarrow.parquet as pq
import pytest
from made_run import make_run

from cyclepref.builder.exports.export import FORMATS, ExportError, export
from cyclepref.builder.exports.writing import BATCH_BYTES, image_name, write_parquet
from cyclepref.builder.preferences.filters import FilterError, Filters
from cyclepref.builder.preferences.load import load_pairs
from cyclepref.builder.preferences.rankings import LoadError

FITTING = {
    "i2t2i": ["trl-dpo-vision", "trl-kto", "trl-kto-vision", "trl-reward", "cycleprefdb"],
    "t2i2t": ["diffusion-dpo", "imagereward", "hpdv3", "cycleprefdb"],
}
PAIRS = [(cycle, name) for cycle, names in FITTING.items() for name in names]


def files_of(folder) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(("cycle", "name"), PAIRS)
def test_an_export_is_the_same_to_the_byte_when_it_is_made_again(runs, tmp_path, cycle, name):
    made = []
    for _ in range(2):
        done = export(runs[cycle], name, tmp_path / "out", filters=Filters(max_pairs_per_input=2))
        made.append(files_of(tmp_path / "out"))
        shutil.rmtree(tmp_path / "out")  # in one place, as some layouts name it
    assert made[0] == made[1]
    assert [each.split for each in done] == ["train", "validation", "test"]
    for each in done:
        assert each.pairs == len(load_pairs(runs[cycle], each.split, max_pairs_per_input=2))
        assert each.pairs + each.removed["max_pairs_per_input"] == len(load_pairs(runs[cycle], each.split))
    readme = made[0]["README.md"].decode()
    assert f"`{name}`" in readme
    assert "max\\_pairs\\_per\\_input 2" in readme


@pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
def test_a_format_that_the_cycle_cannot_fill_says_why_and_what_would_do(runs, tmp_path, cycle):
    has = {"i2t2i": "captions of an image", "t2i2t": "images of a prompt"}[cycle]
    for name in FORMATS.keys() - set(FITTING[cycle]):
        with pytest.raises(ExportError, match=f"of {cycle} in .* are {has}: choose from {', '.join(FITTING[cycle])}"):
            export(runs[cycle], name, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_unknown_formats_and_folders_in_use_are_refused(runs, tmp_path):
    with pytest.raises(ExportError, match=r"unknown format 'dpo': choose from trl-dpo-vision, trl-kto, .*cycleprefdb"):
        export(runs["i2t2i"], "dpo", tmp_path / "out")
    (tmp_path / "mine.txt").write_text("mine")
    for used in (tmp_path, tmp_path / "mine.txt"):
        with pytest.raises(ExportError, match="is not an empty folder: give a new one"):
            export(runs["i2t2i"], "trl-kto", used)


def test_only_the_layout_whose_trainer_applies_margins_takes_a_kind_of_them(runs, tmp_path):
    for name in ("trl-kto", "trl-dpo-vision", "cycleprefdb"):
        with pytest.raises(ExportError, match=f"margin 'none' is for trl-reward, .* leave it out for {name}"):
            export(runs["i2t2i"], name, tmp_path / "out", margin="none")
    with pytest.raises(ExportError, match="unknown margin 'z': choose from none, raw, standardised"):
        export(runs["i2t2i"], "trl-reward", tmp_path / "out", margin="z")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_takes_an_export_though_it_cannot_be_replaced(runs, tmp_path, monkeypatch):
    """The working directory, a link to a folder or to one that is yet to come; a mount point is such a one too."""
    export(runs["i2t2i"], "trl-kto-vision", tmp_path / "new", "train")
    for name in ("here", "linked"):
        (tmp_path / name).mkdir()
    (tmp_path / "link").symlink_to("linked")
    (tmp_path / "dangling").symlink_to("comes")
    monkeypatch.chdir(tmp_path / "here")
    for out in (".", tmp_path / "link", tmp_path / "dangling"):
        inode = (tmp_path / "here").stat().st_ino
        export(runs["i2t2i"], "trl-kto-vision", out, "train")
        assert (tmp_path / "here").stat().st_ino == inode
    for name in ("here", "linked", "comes"):
        assert files_of(tmp_path / name) == files_of(tmp_path / "new")
        assert not list((tmp_path / name).glob(".*"))


def test_a_place_that_cannot_be_written_to_is_one_clear_error(runs, tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(ExportError, match=r"the export to .*file/out broke off \(.*Not a directory.*name another"):
        export(runs["i2t2i"], "trl-kto", tmp_path / "file" / "out")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_an_export_is_for_its_trainer_and_not_read_as_a_dataset_of_ours(runs, tmp_path):
    export(runs["i2t2i"], "trl-reward", tmp_path / "out", "train")
    with pytest.raises(LoadError, match="has no config `rankings`, only default: CyclePref did not write it"):
        load_pairs(tmp_path / "out")


def test_what_cannot_be_finished_leaves_nothing(runs, tmp_path):
    with pytest.raises(FilterError, match=r"has no pair left: removed: min_margin 321\."):
        export(runs["i2t2i"], "trl-kto", tmp_path / "out", filters=Filters(min_margin=3))
    with pytest.raises(LoadError, match="no split 'dev'"):
        export(runs["i2t2i"], "trl-kto", tmp_path / "out", "dev")
    assert list(tmp_path.iterdir()) == []


def test_a_split_without_pairs_is_left_out_and_told_unless_it_was_asked_for(tmp_path, own_cache):
    run = make_run(tmp_path / "run", "i2t2i", inputs=25)
    widest = {split: max(load_pairs(run, split)["margin"]) for split in ("train", "validation", "test")}
    last = sorted(widest.values())[-1]
    done = export(run, "trl-reward", tmp_path / "out", filters=Filters(min_margin=last))
    kept = [each.split for each in done if each.pairs]
    assert kept == [split for split, margin in widest.items() if margin >= last]
    assert set(datasets.load_dataset(str(tmp_path / "out"))) == set(kept)
    empty = next(split for split in widest if split not in kept)
    with pytest.raises(FilterError, match=f"split '{empty}' of .* has no pair left: removed: min_margin"):
        export(run, "trl-reward", tmp_path / "other", empty, Filters(min_margin=last))


def test_names_of_files_come_from_ids_and_texts_are_escaped(tmp_path, own_cache, monkeypatch):
    hostile = '"}]\u2028<script>\x1b[31m../../x\n| a | b'
    content = make_run.__globals__["_content"]

    def nasty(modality: str, name: str) -> dict:
        made = content(modality, name)
        return {**made, "text": f"{hostile} {made['text']}"} if modality == "text" else made

    monkeypatch.setitem(make_run.__globals__, "_content", nasty)
    for cycle, names in FITTING.items():
        run = make_run(tmp_path / cycle, cycle, inputs=10)
        expected = load_pairs(run).with_transform(None).num_rows
        for name in names:
            export(run, name, tmp_path / f"{cycle}-{name}", "train")
            written = files_of(tmp_path / f"{cycle}-{name}")
            assert not any(part in path for path in written for part in ("script", "..", "\x1b"))
            if name in ("imagereward", "hpdv3"):
                assert json.loads(written["train.json"])[0]["prompt"].startswith(hostile)
            if name == "hpdv3":
                assert len(json.loads(written["train.json"])) == expected
    assert load_pairs(tmp_path / "i2t2i-cycleprefdb")[0]["chosen"].startswith(hostile)


def test_an_id_of_a_foreign_dataset_is_no_path():
    from PIL import Image

    from cyclepref.builder.common.images import encode

    data = encode(Image.new("RGB", (4, 4)))
    assert image_name("0" * 32, data) == f"images/{'0' * 32}.png"
    assert "/" not in image_name("../../etc/passwd", data).removeprefix("images/")
    with pytest.raises(LoadError, match="the image 'x' is in none of the formats"):
        image_name("x", b"no image")


def test_memory_stays_flat_however_many_rows_are_written(tmp_path):
    import pyarrow as pa

    schema = pa.schema([("jpg_0", pa.binary())])
    rows = ({"jpg_0": bytes([at % 251]) * 2**20} for at in range(160))
    tracemalloc.start()
    pa_before = pa.total_allocated_bytes()
    write_parquet(tmp_path / "rows.parquet", schema, rows)
    peak = tracemalloc.get_traced_memory()[1] + pa.total_allocated_bytes() - pa_before
    tracemalloc.stop()
    assert peak < 3 * BATCH_BYTES
    assert pq.ParquetFile(tmp_path / "rows.parquet").metadata.num_rows == 160
