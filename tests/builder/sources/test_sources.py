import hashlib
import io
import os
import socket
import struct
import tempfile
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cyclepref.builder.common import files
from cyclepref.builder.shapeworld import grammar
from cyclepref.builder.sources.open import open_source
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import DatasetColumn, ImageFolder, ParquetColumn, PromptFile, ShapeWorldInputs


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4), colour).save(buffer, "PNG")
    return buffer.getvalue()


def everything(source) -> list:
    return list(source.read([name for name, _ in source.items()]))


def test_an_image_folder_is_read_in_order_of_path_at_any_depth(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "b.png").write_bytes(png("red"))
    (tmp_path / "deep" / "er" / "a.JPG").write_bytes(b"a jpeg")
    (tmp_path / "readme.md").write_text("not an image")
    source = open_source(ImageFolder(source="images", path=str(tmp_path)), "image")
    assert [name for name, _ in source.items()] == ["b.png", "deep/er/a.JPG"]
    assert everything(source) == [png("red"), b"a jpeg"]


def test_what_a_folder_has_beside_its_images_is_told_once_by_ending(tmp_path, caplog):
    for name in ("photos/a.png", "photos/IMG_1.HEIC", "photos/p.jp2", "photos/no-ending", "photos/deep/x.\x1b[31m"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(png("red"))
    (tmp_path / "more").mkdir()
    (tmp_path / "photos" / "linked").symlink_to(tmp_path / "more")
    assert images(tmp_path / "photos") == [png("red")]
    [told] = [record.getMessage() for record in caplog.records]
    assert told.startswith(f"inputs.path {tmp_path}/photos: skipped 4 files not named like images (")
    assert set(told.split("(")[1].split(")")[0].split(", ")) == {".heic 1", ".jp2 1", "no ending 1", r".\x1b[31m 1"}
    (tmp_path / "photos" / "a.png").unlink()
    with pytest.raises(RecipeError, match=r"no image files in this folder \(4 files .*heic 1.* and 1 linked"):
        images(tmp_path / "photos")


def test_shards_in_a_linked_folder_are_not_left_out_in_silence(tmp_path, caplog):
    (tmp_path / "data").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "more").symlink_to(tmp_path / "elsewhere")
    assert parquet(tmp_path / "data", pa.array(["a"]), "text") == ["a"]
    [told] = [record.getMessage() for record in caplog.records]
    assert told.endswith("skipped 1 linked folder, as links to folders are not followed")


def test_a_changed_file_has_another_stamp(tmp_path):
    (tmp_path / "a.png").write_bytes(png("red"))
    source = open_source(ImageFolder(source="images", path=str(tmp_path)), "image")
    before = source.items()
    (tmp_path / "a.png").write_bytes(png("red") + b"more")
    assert source.items() != before


def test_a_dangling_link_is_an_error_in_its_own_row_only(tmp_path):
    (tmp_path / "a.png").symlink_to(tmp_path / "nothing.png")
    (tmp_path / "b.png").write_bytes(png("red"))
    first, second = everything(open_source(ImageFolder(source="images", path=str(tmp_path)), "image"))
    assert isinstance(first, FileNotFoundError)
    assert second == png("red")


def test_a_prompt_file_gives_its_lines_and_a_line_that_is_not_utf8_is_an_error(tmp_path, caplog):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\nnaïve\n \t\u3000\n".encode() + b"\xff\xfe\n\n")
    source = open_source(PromptFile(source="prompts", path=str(path)), "text")
    assert [name for name, _ in source.items()] == ["prompts.txt:1", "prompts.txt:3", "prompts.txt:5"]
    assert f"inputs.path {path}: skipped 3 blank lines" in caplog.text
    first, third, broken = everything(source)
    assert (first, third) == ("a cat", "naïve")
    assert isinstance(broken, UnicodeDecodeError)
    path.write_text("\n \n")
    with pytest.raises(RecipeError, match="has no prompt in it: write one a line"):
        source.items()


def test_parquet_is_read_over_files_folders_and_row_groups(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        texts = pa.table({"text": [f"{folder}{n}" for n in range(5)], "other": range(5)})
        pq.write_table(texts, tmp_path / folder / "same-name.parquet", row_group_size=2)
    spec = ParquetColumn(source="parquet", path=str(tmp_path), column="text")
    source = open_source(spec, "text")
    assert everything(source) == [f"{folder}{n}" for folder in "ab" for n in range(5)]
    assert list(source.read(["b/same-name.parquet:4", "a/same-name.parquet:0"])) == ["b4", "a0"]


def test_a_missing_column_lists_those_that_there_are(tmp_path):
    pq.write_table(pa.table({"caption": ["a"]}), tmp_path / "x.parquet")
    source = open_source(ParquetColumn(source="parquet", path=str(tmp_path), column="text"), "text")
    with pytest.raises(RecipeError, match=r"'text' is not in .*: its columns are caption"):
        source.items()


def test_a_cell_of_the_wrong_kind_is_an_error_in_its_own_row_only(tmp_path):
    pq.write_table(pa.table({"image": [png("red"), None]}), tmp_path / "x.parquet")
    source = open_source(ParquetColumn(source="parquet", path=str(tmp_path), column="image"), "image")
    good, bad = everything(source)
    assert good == png("red")
    assert isinstance(bad, TypeError)
    assert str(bad) == "this row holds nothing (null), not an encoded image"


@pytest.mark.parametrize("saved", [True, False])
def test_a_local_dataset_opens_in_both_of_its_layouts_without_decoding(tmp_path, saved, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    features = datasets.Features({"image": datasets.Image(), "n": datasets.Value("int64")})
    rows = datasets.Dataset.from_list(
        [{"image": {"bytes": png(c), "path": None}, "n": 0} for c in ("red", "blue")], features=features
    )
    folder = tmp_path / "data"
    if saved:
        datasets.DatasetDict({"train": rows}).save_to_disk(folder)
    else:
        folder.mkdir()
        rows.to_parquet(folder / "train-0.parquet")
    source = open_source(DatasetColumn(source="dataset", path=str(folder), column="image"), "image")
    assert everything(source) == [png("red"), png("blue")]


def test_a_dataset_without_the_split_or_column_lists_what_it_has(tmp_path):
    datasets.DatasetDict({"train": datasets.Dataset.from_dict({"text": ["a"]})}).save_to_disk(tmp_path / "d")
    spec = {"source": "dataset", "path": str(tmp_path / "d")}
    with pytest.raises(RecipeError, match=r"split 'test' is not in .*: its splits are train"):
        open_source(DatasetColumn(**spec, column="text", split="test"), "text").items()
    with pytest.raises(RecipeError, match=r"column 'prompt' is not in .*: it has text"):
        open_source(DatasetColumn(**spec, column="prompt"), "text").items()


def test_a_row_cannot_name_a_file_outside_of_its_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(png("red"))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.png").write_bytes(png("blue"))
    cells = [{"bytes": None, "path": str(tmp_path / "secret.png")}, {"bytes": None, "path": "mine.png"}]
    pq.write_table(pa.table({"image": cells}), tmp_path / "data" / "x.parquet")
    spec = ParquetColumn(source="parquet", path=str(tmp_path / "data"), column="image")
    outside, inside = everything(open_source(spec, "image"))
    assert isinstance(outside, PermissionError)
    assert inside == png("blue")
    [alone] = open_source(spec.model_copy(update={"path": spec.path + "/x.parquet"}), "image").read(["x.parquet:1"])
    assert alone == png("blue")


def test_formats_that_start_programs_are_no_inputs(tmp_path):
    for name in ("a.eps", "b.pdf"):
        (tmp_path / name).write_bytes(b"%!PS")
    with pytest.raises(RecipeError, match="no image files"):
        open_source(ImageFolder(source="images", path=str(tmp_path)), "image").items()


def test_two_recipes_can_take_scenes_with_none_in_common():
    first = open_source(ShapeWorldInputs(source="shapeworld", limit=4, seed=5), "text").items()
    second = open_source(ShapeWorldInputs(source="shapeworld", limit=4, offset=4, seed=5), "text").items()
    assert not set(first) & set(second)


def test_shapeworld_gives_the_same_held_out_scenes_as_texts_and_as_renders():
    spec = ShapeWorldInputs(source="shapeworld", limit=3, seed=5)
    texts, images = (open_source(spec, modality) for modality in ("text", "image"))
    assert texts.items() == images.items()
    assert [grammar.describe(grammar.parse(text)) for text in everything(texts)] == everything(texts)
    assert everything(images) == everything(images)
    assert len(set(everything(images))) == 3


# ---- bad files, cells and prompts ------------------------------------------------------------------------------


def images(folder: Path) -> list:
    return everything(open_source(ImageFolder(source="images", path=str(folder)), "image"))


def test_what_is_no_regular_file_is_one_error_and_no_endless_wait(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "a-pipe.png")
    (tmp_path / "b-folder.png").mkdir()
    (tmp_path / "c-loop.png").symlink_to("c-loop.png")
    (tmp_path / "d-device.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        monkeypatch.chdir(tmp_path)  # a socket's path may have 107 characters
        listener.bind("e-socket.png")
        messages = [str(error) for error in images(tmp_path)]
    for message, reason in zip(
        messages, ["pipe", "folder", "levels of symbolic links", "device", "socket"], strict=True
    ):
        assert reason in message


def test_folders_that_link_to_each_other_are_walked_once(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x.png").write_bytes(png("red"))
    (tmp_path / "a" / "up").symlink_to(tmp_path)
    assert images(tmp_path) == [png("red")]


def test_a_file_of_endless_size_is_not_read(tmp_path, monkeypatch):
    monkeypatch.setattr(files, "MAX_BYTES", 9)
    (tmp_path / "a.png").write_bytes(bytes(10))
    [error] = images(tmp_path)
    assert str(error) == "the file has 10 bytes, more than 9: make it smaller"


@pytest.mark.parametrize(
    "name", [b"caf\xe9.png", b"caf\\xe9.png", b"a\nb.png", "b\u202egnp.png".encode(), b"\x1b[31m.png"]
)
def test_any_file_name_is_read_and_shown_as_text(tmp_path, name):
    (tmp_path / os.fsdecode(name)).write_bytes(png("red"))
    source = open_source(ImageFolder(source="images", path=str(tmp_path)), "image")
    [(shown, _)] = source.items()
    assert shown.encode()
    assert os.fsencode(files.unshown(shown)) == name
    assert everything(source) == [png("red")]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody who may not read its files")
def test_what_this_user_may_not_read_is_an_error_and_a_folder_stops_the_build():
    with tempfile.TemporaryDirectory(dir="/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "a.png").write_bytes(png("red"))
        (folder / "a.png").chmod(0o600)
        os.seteuid(65534)
        try:
            [error] = images(folder)
            assert isinstance(error, PermissionError)
            os.seteuid(0)
            (folder / "mine").mkdir(mode=0o700)
            os.seteuid(65534)
            with pytest.raises(RecipeError, match=r"cannot list '.*mine' \(Permission denied\): give this user access"):
                images(folder)
        finally:
            os.seteuid(0)


def parquet(folder: Path, column: pa.Array, modality: str) -> list:
    folder.mkdir(exist_ok=True)
    pq.write_table(pa.table({"x": column}), folder / "x.parquet")
    return everything(open_source(ParquetColumn(source="parquet", path=str(folder), column="x"), modality))


def invalid_utf8() -> pa.Array:
    ends = pa.py_buffer(struct.pack("<3i", 0, 2, 5))
    return pa.StringArray.from_buffers(2, ends, pa.py_buffer(b"ok\xed\xa0\x80"))  # a lone surrogate


def test_a_text_cell_that_is_none_is_an_error_in_its_own_row_only(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "data"
    cells = parquet(folder, invalid_utf8(), "text")
    spec = DatasetColumn(source="dataset", path=str(folder), column="x")
    for good, bad in (cells, everything(open_source(spec, "text"))):
        assert good == "ok"
        assert isinstance(bad, UnicodeDecodeError)
    assert [type(cell).__name__ for cell in parquet(tmp_path / "b", pa.array(["a", None]), "text")] == [
        "str",
        "TypeError",
    ]


@pytest.mark.parametrize(
    "path",
    ["/etc/passwd", "../up.png", "https://127.0.0.1:9/a.png", "file:///etc/passwd", "a\0b", "x" * 9999, "", "link"],
)
def test_a_struct_without_bytes_never_reaches_out_of_its_folder(tmp_path, path):
    (tmp_path / "up.png").write_bytes(png("red"))
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "up").symlink_to(tmp_path / "up.png")
    [cell] = parquet(folder, pa.array([{"bytes": None, "path": path}]), "image")
    assert isinstance(cell, OSError | TypeError)


def test_a_damaged_row_group_fails_its_own_rows_only(tmp_path):
    values = [hashlib.sha256(bytes([n])).hexdigest() for n in range(200)]
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"x": values}), path, row_group_size=100, compression="gzip")
    data = bytearray(path.read_bytes())
    data[200:2000] = bytes(1800)
    path.write_bytes(data)
    cells = everything(open_source(ParquetColumn(source="parquet", path=str(tmp_path), column="x"), "text"))
    assert all(isinstance(cell, Exception) for cell in cells[:100])
    assert cells[100:] == values[100:]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"no parquet at all"])
def test_a_file_that_is_no_parquet_is_named(tmp_path, data):
    (tmp_path / "x.parquet").write_bytes(data)
    with pytest.raises(RecipeError, match=r"x\.parquet is not a parquet file"):
        open_source(ParquetColumn(source="parquet", path=str(tmp_path), column="x"), "text").items()


def test_a_pipe_in_place_of_parquet_is_no_endless_wait(tmp_path):
    os.mkfifo(tmp_path / "x.parquet")
    with pytest.raises(RecipeError, match="no parquet file at"):
        open_source(ParquetColumn(source="parquet", path=str(tmp_path), column="x"), "text").items()


def test_a_dataset_cannot_name_data_outside_of_its_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    pq.write_table(pa.table({"x": ["secret"]}), tmp_path / "secret.parquet")
    (tmp_path / "data").mkdir()
    for target in (tmp_path / "secret.parquet", "../secret.parquet"):
        (tmp_path / "data" / "README.md").write_text(f"---\nconfigs:\n- config_name: a\n  data_files: {target}\n---\n")
        with pytest.raises(RecipeError, match="which is outside of the folder"):
            open_source(DatasetColumn(source="dataset", path=str(tmp_path / "data"), column="x"), "text").items()


def test_a_prompt_file_in_utf16_is_asked_for_in_utf8(tmp_path):
    (tmp_path / "p.txt").write_bytes("a cat\n".encode("utf-16"))
    with pytest.raises(RecipeError, match="is UTF-16: save it as UTF-8"):
        open_source(PromptFile(source="prompts", path=str(tmp_path / "p.txt")), "text").items()
