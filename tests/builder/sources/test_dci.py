import io
import json
from pathlib import Path

import pytest
from PIL import Image

from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.run.store import Store
from cyclepref.builder.sources.open import open_source
from cyclepref.builder.stages.accounting import Accountant
from cyclepref.builder.stages.ingest import ingest
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import DciFolder


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (64, 64), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def dci(tmp_path) -> Path:
    """A DCI folder as people have it: photos missing, files of archivers, one annotation broken, one incomplete."""
    root = tmp_path / "densely_captioned_images"
    (root / "annotations").mkdir(parents=True)
    (root / "photos").mkdir()
    for name, colour in (("sa_1", "red"), ("sa_2", "blue"), ("sa_3", None)):
        annotation = {"image": f"{name}.jpg", "short_caption": f"A {colour} square", "mask_data": {}}
        (root / "annotations" / f"{name}.json").write_text(json.dumps(annotation))
        if colour:
            (root / "photos" / f"{name}.jpg").write_bytes(png(colour))
    (root / "annotations" / "sa_4.json").write_text('{"image": "sa_1.jpg", "extra_caption": "no short one"}')
    (root / "annotations" / "sa_5.json").write_text("{")
    (root / "annotations" / "._sa_1.json").write_bytes(b"\x00\x05\x16\x07")
    (root / "annotations" / "notes.txt").write_text("not an annotation")
    splits = {"train": ["sa_2.json", "sa_1.json"], "valid": ["sa_9.json"], "test": ["../photos/sa_1.jpg"]}
    (root / "splits.json").write_text(json.dumps(splits))
    return root


def read(root: Path, modality: str, split: str | None = None) -> list:
    source = open_source(DciFolder(source="dci", path=str(root), split=split), modality)
    return list(source.read([name for name, _ in source.items()]))


def test_a_split_gives_its_photos_or_its_short_captions_in_its_own_order(dci):
    assert read(dci, "text", "train") == ["A blue square", "A red square"]
    assert read(dci, "image", "train") == [png("blue"), png("red")]


def test_without_a_split_every_annotation_is_read_and_each_error_stays_in_its_row(dci):
    first, second, third, incomplete, broken = read(dci, "text")
    assert (first, second, third) == ("A red square", "A blue square", "A None square")
    assert str(incomplete) == "sa_4.json has no text under 'short_caption': it has extra_caption, image"
    assert "sa_5.json is not JSON" in str(broken)


def test_a_missing_photo_is_an_error_that_names_it(dci):
    missing = read(dci, "image")[2]
    assert type(missing).__name__ == "MissingPhoto"
    assert "sa_3.json names the photo sa_3.jpg, which is not in" in str(missing)


def test_a_photo_that_comes_later_makes_the_item_another_one(dci):
    source = open_source(DciFolder(source="dci", path=str(dci)), "image")
    before = dict(source.items())
    (dci / "photos" / "sa_3.jpg").write_bytes(png("green"))
    after = dict(source.items())
    assert {name for name in before if before[name] != after[name]} == {"sa_3.json"}


def test_an_annotation_that_a_split_names_and_nobody_has_is_an_error_in_its_row(dci):
    [missing] = read(dci, "text", "valid")
    assert isinstance(missing, FileNotFoundError)


def test_neither_a_split_nor_an_annotation_can_name_a_file_outside_of_its_folder(dci):
    [outside] = read(dci, "text", "test")
    assert isinstance(outside, PermissionError)
    (dci / "annotations" / "sa_1.json").write_text('{"image": "../splits.json"}')
    assert isinstance(read(dci, "image")[0], PermissionError)


def test_an_unknown_split_lists_those_that_there_are(dci):
    with pytest.raises(
        RecipeError, match=r"split 'validation' is not in .*: its splits are train, valid, test, or null"
    ):
        read(dci, "text", "validation")


@pytest.mark.parametrize("content", ["[]", '{"train": "sa_1.json"}', '{"train": [1]}', '{"train": {"sa_1.json": 1}}'])
def test_a_splits_file_of_another_layout_is_one_clear_error(dci, content):
    (dci / "splits.json").write_text(content)
    with pytest.raises(RecipeError, match=r"another layout than DCI's: it must be an object of lists of annotation"):
        read(dci, "text", "train")


@pytest.mark.parametrize("content", [None, "{", b"\xff"])
def test_a_splits_file_that_cannot_be_read_says_that_null_needs_none(dci, content):
    (dci / "splits.json").unlink()
    if content is not None:
        (dci / "splits.json").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(RecipeError, match=r"cannot read .*splits.json .*or set split to null for all"):
        read(dci, "text", "train")


def test_a_folder_that_is_not_dci_says_what_dci_is(dci, tmp_path):
    with pytest.raises(RecipeError, match=r"no annotations and no photos folder in it .*sa_000138.tar"):
        read(tmp_path, "image")
    (dci / "photos").rename(dci / "images")
    with pytest.raises(RecipeError, match="no photos folder in it"):
        read(dci, "image")
    assert read(dci, "text", "train") == ["A blue square", "A red square"]
    (dci / "annotations").rename(dci / "old")
    (dci / "annotations").mkdir()
    with pytest.raises(RecipeError, match=r"no annotations/\*.json in it"):
        read(dci, "text")


@pytest.mark.usefixtures("ray_local")
def test_every_annotation_is_accounted_for(dci, tmp_path):
    (dci / "annotations" / "sa_6.json").write_text('{"image": "sa_1.jpg", "short_caption": "The first one again"}')
    splits = {"train": ["sa_1.json", "sa_2.json", "sa_3.json", "sa_6.json", "sa_1.json"]}
    (dci / "splits.json").write_text(json.dumps(splits))
    source = open_source(DciFolder(source="dci", path=str(dci), split="train"), "image")
    accountant = Accountant(Store(tmp_path / "run"), max_failure_rate=0.5)
    for _ in range(2):  # the second time from the store alone
        inputs, count = ingest(source, source.items(), "image", accountant, Engine())
        assert (count.read, count.unique, count.duplicate, count.failed) == (5, 2, 2, 1)
        assert sorted(inputs["source"].to_pylist()) == ["sa_1.json", "sa_2.json"]
    [failure] = accountant.store.rows("failures").to_pylist()
    assert (failure["source"], failure["error_class"]) == ("sa_3.json", "MissingPhoto")
