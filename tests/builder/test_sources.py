import io

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from builder.shapeworld import grammar
from builder.sources import open_source
from schemas.recipe import RecipeError
from schemas.sources import DatasetColumn, ImageFolder, ParquetColumn, PromptFile, ShapeWorldInputs


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


def test_a_prompt_file_gives_its_lines_and_a_line_that_is_not_utf8_is_an_error(tmp_path):
    path = tmp_path / "prompts.txt"
    path.write_bytes("\ufeffa cat\r\n\nnaïve\n".encode() + b"\xff\xfe\n")
    first, empty, third, broken = everything(open_source(PromptFile(source="prompts", path=str(path)), "text"))
    assert (first, empty, third) == ("a cat", "", "naïve")
    assert isinstance(broken, UnicodeDecodeError)


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
