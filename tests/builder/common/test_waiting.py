"""What comes from outside never makes a build wait for ever: what is no file is not opened, and reading has an end."""

import io
import os
import tarfile
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pytest

from cyclepref.builder.common import waiting
from cyclepref.builder.common.files import read_file
from cyclepref.builder.preferences import cycleprefdb
from cyclepref.builder.preferences.layouts import rows as judged_rows
from cyclepref.builder.preferences.layouts.items import JudgedError
from cyclepref.builder.preferences.rankings import LoadError
from cyclepref.builder.run.store import Store
from cyclepref.builder.sources.open import open_source
from cyclepref.builder.stages import ingest
from cyclepref.builder.stages.accounting import BuildError
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import DatasetColumn, DciFolder, ImageFolder, ParquetColumn, PromptFile


def everything(source) -> list:
    return list(source.read([name for name, _ in source.items()]))


MADE_UP = ("/proc/kmsg", "/proc/self/environ", "/sys/kernel/notes", "/dev/null")


@pytest.mark.parametrize("target", [target for target in MADE_UP if os.path.exists(target)])
def test_what_the_kernel_makes_up_is_no_input_of_any_source(tmp_path, target, monkeypatch):
    """Some of these call themselves regular files; /proc/kmsg waits for ever."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "link").symlink_to(target)
    for name in ("images/a.png", "photos/splits.json", "p.txt", "p.parquet", "saved/state.json"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(tmp_path / "link")
    (tmp_path / "photos/annotations").mkdir()
    (tmp_path / "photos/photos").mkdir()
    reason = "made up by the kernel" if os.path.isfile(target) else "not a regular file but a device"
    [error] = everything(open_source(ImageFolder(source="images", path=str(tmp_path / "images")), "image"))
    assert reason in str(error)
    for spec, modality in (
        (DciFolder(source="dci", path=str(tmp_path / "photos"), split="train"), "image"),
        (PromptFile(source="prompts", path=str(tmp_path / "p.txt")), "text"),
        (ParquetColumn(source="parquet", path=str(tmp_path / "p.parquet"), column="x"), "text"),
        (DatasetColumn(source="dataset", path=str(tmp_path / "saved"), column="x"), "text"),
    ):
        with pytest.raises(RecipeError, match=rf"{reason}|no such file|no parquet file at|it is no file"):
            open_source(spec, modality).items()


def test_files_in_memory_are_files():
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        Path(folder, "a.png").write_bytes(b"a picture")
        assert read_file(Path(folder, "a.png")) == b"a picture"


@dataclass
class Slow:
    """Prompts that are their names; those that begin with "stuck" never come."""

    place: str = "a mount that is gone"

    def items(self):
        time.sleep(3600)

    def read(self, names):
        for name in names:
            if name.startswith("stuck"):
                time.sleep(3600)
            yield OSError("unreadable") if name == "broken" else name


def test_an_item_that_is_never_read_fails_alone_and_the_others_are_read(monkeypatch):
    monkeypatch.setattr(waiting, "READING_S", 1.6)
    names = ["a", "stuck 1", "b", "broken", *(f"stuck {at}" for at in range(2, 6)), "c"]
    items = ingest.item_rows(Slow(), [(name, "") for name in names], "text")
    began = time.monotonic()
    found = ingest.identify(items, Slow(), "text")
    assert [at for at, id_ in enumerate(found["input_id"].to_pylist()) if id_] == [0, 2, 8]
    assert found["error_class"].to_pylist() == [
        None, "TooSlow", None, "OSError", *["TooSlow"] * 4, None,
    ]  # fmt: skip
    assert found["message"][1].as_py() == "not read within 1.6 s: does the disk or network mount still answer?"
    assert time.monotonic() - began < 7.5, "a mount that is gone is not waited for once for each of its files"


def test_an_item_that_cannot_be_read_a_second_time_stops_the_build_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr(waiting, "READING_S", 0.2)
    block = pa.table({"source": ["stuck"], "input_id": ["x"]})
    with pytest.raises(BuildError, match=r"^stuck changed while it was read \(TooSlow: not read within 0\.2 s"):
        ingest.write_inputs(block, Slow(), "text", Store(tmp_path))


def test_a_source_that_is_never_listed_is_told_and_ends_the_build(monkeypatch, caplog):
    monkeypatch.setattr(ingest, "LISTING_S", 0.5)
    monkeypatch.setattr(ingest, "TOLD_AFTER_S", 0.1)
    with pytest.raises(RecipeError, match=r"not listed within 0\.5 s"):
        ingest.list_items(Slow())
    assert caplog.messages == ["still listing the inputs"]


def test_a_source_that_raises_is_heard_and_leaves_no_thread_behind(tmp_path):
    source = open_source(PromptFile(source="prompts", path=str(tmp_path / "none.txt")), "text")
    with pytest.raises(RecipeError, match="no such file"):
        ingest.list_items(source)
    (tmp_path / "p.txt").write_text("a cat\na dog\n" * 100)
    source = open_source(PromptFile(source="prompts", path=str(tmp_path / "p.txt")), "text")
    before = set(threading.enumerate())
    read = waiting.each_in_time(source.read, [name for name, _ in source.items()], ahead=4)
    assert next(read) == "a cat"
    read.close()
    (tmp_path / "p.txt").unlink()
    with pytest.raises(RecipeError, match="no such file"):
        list(waiting.each_in_time(source.read, ["p.txt:1"]))
    for _ in range(100):
        if set(threading.enumerate()) <= before:
            return
        time.sleep(0.02)
    pytest.fail("a thread was left behind")


def rows_of(layout: str, path: Path) -> list:
    return list(cycleprefdb._rows(path) if layout == "cycleprefdb" else judged_rows.read_file(path))


@pytest.mark.parametrize("layout", ["cycleprefdb", "judged"])
@pytest.mark.parametrize("name", ["rows.json", "rows.jsonl"])
@pytest.mark.parametrize(
    ("content", "message"),
    [("[" * 100_000, "nested too deep"), ("pipe", "but a pipe"), ("/proc/self/environ", "made up by the kernel")],
)
def test_rows_that_others_wrote_are_one_error_where_they_are_no_rows(tmp_path, layout, name, content, message):
    if content == "pipe":
        os.mkfifo(tmp_path / name)
    elif content.startswith("/"):
        (tmp_path / name).symlink_to(content)
    else:
        (tmp_path / name).write_text(content if name.endswith("l") else "[" + content)
    with pytest.raises((JudgedError, LoadError), match=message):
        rows_of(layout, tmp_path / name)


def test_an_element_of_a_list_that_does_not_end_is_not_read_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(judged_rows, "CHUNK", 100)
    monkeypatch.setattr(judged_rows, "MAX_ELEMENT", 1000)
    (tmp_path / "rows.json").write_text('[{"a": "' + "x" * 10**6)
    with pytest.raises(JudgedError, match="an element does not end within 1,000 characters"):
        rows_of("judged", tmp_path / "rows.json")


def test_a_picture_in_a_tar_has_a_largest_size_too(tmp_path, monkeypatch):
    monkeypatch.setattr(cycleprefdb, "MAX_BYTES", 9)
    with tarfile.open(tmp_path / "images.tar", "w") as tar:
        for name, size in (("a.png", 9), ("b.png", 10)):
            member = tarfile.TarInfo(name)
            member.size = size
            tar.addfile(member, io.BytesIO(bytes(size)))
    images = cycleprefdb.FileImages(tmp_path, ["a.png", "b.png"])
    assert images.of_input(0) == bytes(9)
    with pytest.raises(LoadError, match=r"'b\.png' with 10 bytes, more than 9"):
        images.of_input(1)
