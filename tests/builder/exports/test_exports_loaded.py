"""Every layout and the dataset itself as users of the datasets library read them: rows, pandas, numpy, a stream."""

import datasets
import numpy as np
import pytest
from PIL import Image

from cyclepref.builder.exports.export import export
from cyclepref.builder.preferences.load import load_pairs

LAYOUTS = {
    "i2t2i": ["trl-dpo-vision", "trl-kto", "trl-kto-vision", "trl-reward", "cycleprefdb"],
    "t2i2t": ["diffusion-dpo", "imagereward", "hpdv3", "cycleprefdb"],
}
NUMBER, YES_OR_NO = datasets.Value("float64"), datasets.Value("bool")
PUBLISHED = ["rankings", "pairs"]
READ = [(cycle, name) for cycle, names in LAYOUTS.items() for name in [*names, *PUBLISHED]]
# Where pictures are; the others hold none, or raw bytes because that is what their trainer decodes.
PICTURES = {
    ("i2t2i", "trl-dpo-vision"): ["images"], ("i2t2i", "trl-kto-vision"): ["images"],
    ("i2t2i", "cycleprefdb"): ["input"], ("i2t2i", "rankings"): ["image"], ("t2i2t", "imagereward"): ["generations"],
    ("t2i2t", "hpdv3"): ["path1", "path2"], ("t2i2t", "cycleprefdb"): ["generations"],
    ("t2i2t", "rankings"): ["candidates"],
}  # fmt: skip


def pictures_in(value) -> list[Image.Image]:
    if isinstance(value, Image.Image):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else []
    return [picture for each in inner for picture in pictures_in(each)]


def plain(value):
    """A value with pixels in the place of pictures, so that it can be compared."""
    if isinstance(value, Image.Image):
        return value.convert("RGB").tobytes()
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("cycle", "name"), READ)
def test_it_is_read_as_rows_as_pandas_as_numpy_and_as_a_stream(runs, tmp_path, monkeypatch, cycle, name):
    """Not by `to_tf_dataset`, as this project does not need TensorFlow: flat columns as arrays are what that is fed."""
    place = [str(runs[cycle] / "dataset"), name]
    if name not in PUBLISHED:
        export(runs[cycle], name, tmp_path / "out", "validation")
        place = [str(tmp_path / "out")]
    monkeypatch.chdir(tmp_path)  # images are found whatever the working directory is
    rows = datasets.load_dataset(*place, split="validation")
    listed = list(rows)
    assert listed
    assert [plain(row) for row in datasets.load_dataset(*place, split="validation", streaming=True)] == plain(listed)
    for column in rows.column_names:
        found = pictures_in(listed[0][column])
        assert bool(found) == (column in PICTURES.get((cycle, name), []))
        assert {picture.size for picture in found} <= {(16, 16)}
    frame = rows.to_pandas()
    assert list(frame.columns) == rows.column_names
    numbers = [key for key, kind in rows.features.items() if kind in (NUMBER, YES_OR_NO)]
    for column in numbers:
        assert frame[column].tolist() == rows[column][:]
    batch = rows.with_format("numpy")[: len(rows)]
    assert {len(values) for values in batch.values()} == {len(rows)}
    assert all(isinstance(values, np.ndarray) and values.dtype.kind in "fb" for values in map(batch.get, numbers))


def test_two_exports_of_one_name_are_not_taken_for_one(runs, tmp_path):
    """Where the layout fixes the names of files, the datasets library would tell them by their cards alone."""
    for seed, poor in (("a", None), ("b", 0.6)):
        export(runs["t2i2t"], "hpdv3", tmp_path / seed / "mine", "train", poor_chosen=poor)
    kept = [len(datasets.load_dataset(str(tmp_path / name / "mine"), split="train")) for name in ("a", "b")]
    assert kept == [len(load_pairs(runs["t2i2t"], poor_chosen=poor)) for poor in (None, 0.6)]
    assert kept[0] > kept[1]
    for name in ("trl-kto", "trl-reward"):  # the same pairs, in files that only their layout tells apart
        export(runs["i2t2i"], name, tmp_path / name / "mine", "train")
    columns = [
        datasets.load_dataset(str(tmp_path / each / "mine"))["train"].column_names for each in ("trl-kto", "trl-reward")
    ]
    assert "label" in columns[0]
    assert "chosen" in columns[1]
