"""What `load_pairs` gives is a dataset like any other: the library's own methods do with it as with a plain one."""

import io
import json
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
import torch
from made_run import make_run
from PIL import Image

from cyclepref.builder.common.images import decode, encode
from cyclepref.builder.preferences import as_dataset
from cyclepref.builder.preferences.load import load_pairs, open_pairs
from cyclepref.builder.preferences.rankings import LoadError, cache

CYCLES = pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])


@pytest.fixture(scope="module", params=["i2t2i", "t2i2t"])
def both(request, own_cache, tmp_path_factory) -> tuple[datasets.Dataset, datasets.Dataset]:
    """The pairs of a run, and the same built plainly: from lists of values, its images as PIL images."""
    run = make_run(tmp_path_factory.mktemp(request.param), request.param, inputs=5)
    loaded, rankings = load_pairs(run), open_pairs(run).read("train")
    row_of = {id_: row for row, id_ in enumerate(rankings.inputs["input_id"].to_pylist())}
    place_of = {id_: place for place, id_ in enumerate(rankings.candidates["generation_id"].to_pylist())}
    columns = {name: loaded[name][:] for name in loaded.column_names if name not in ("image", "chosen", "rejected")}
    contents = {}
    if request.param == "i2t2i":
        contents["image"] = [decode(rankings.images.of_input(row_of[id_])) for id_ in columns["input_id"]]
    for side in ("chosen", "rejected"):
        places = [place_of[id_] for id_ in columns[f"{side}_id"]]
        texts = rankings.candidates["text"].take(places).to_pylist()
        of_text = request.param == "i2t2i"
        contents[side] = texts if of_text else [decode(rankings.images.of_candidate(place)) for place in places]
    kinds = {name: datasets.Image() if isinstance(found[0], Image.Image) else datasets.Value("string")
             for name, found in contents.items()}  # fmt: skip
    kinds |= {name: kind for name, kind in loaded.features.items() if name not in kinds}
    order = loaded.column_names
    features = datasets.Features({name: kinds[name] for name in order})
    return loaded, datasets.Dataset.from_dict({name: {**columns, **contents}[name] for name in order}, features)


def plain(value):
    """A value without what may differ: an image is its pixels, in whatever form it is held."""
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        value = decode(value["bytes"] if value["bytes"] is not None else Path(value["path"]).read_bytes())
    if isinstance(value, Image.Image):
        return value.mode, value.size, value.tobytes()
    if isinstance(value, torch.Tensor):
        value = value.numpy()
    if isinstance(value, np.ndarray):
        return (
            [plain(each) for each in value]
            if value.dtype == object
            else (value.shape, value.dtype.str, value.tobytes())
        )
    if isinstance(value, dict):
        return {name: plain(each) for name, each in value.items()}
    return [plain(each) for each in value] if isinstance(value, list | tuple | np.ndarray) else value


def rows(dataset) -> list:
    return [plain(row) for row in dataset]


def through_parquet(pairs: datasets.Dataset, place: Path) -> list:
    """As a push to the Hub writes them: with the bytes in the rows."""
    pushed = pairs.with_format("arrow").map(datasets.table.embed_table_storage, batched=True).with_format(None)
    pushed.to_parquet(place / "pairs.parquet")
    for name, kind in pairs.features.items():
        if isinstance(kind, datasets.Image):
            assert all(image["bytes"] for image in pq.read_table(place / "pairs.parquet")[name].to_pylist())
    return rows(datasets.Dataset.from_parquet(str(place / "pairs.parquet"), cache_dir=str(place / "cache")))


def through_disk(pairs: datasets.Dataset, place: Path) -> list:
    pairs.save_to_disk(place / "saved")
    again = datasets.load_from_disk(shutil.move(place / "saved", place / "moved"))
    pictures = [name for name, kind in again.features.items() if isinstance(kind, datasets.Image)]
    stored = again.cast_column(pictures[0], datasets.Image(decode=False))[0][pictures[0]]
    assert stored["bytes"], "the bytes go with it"
    return rows(again)


def texts_of(pairs: datasets.Dataset) -> datasets.Dataset:
    return pairs.select_columns([name for name, kind in pairs.features.items() if not isinstance(kind, datasets.Image)])


def through_csv(pairs: datasets.Dataset, place: Path) -> list:
    texts_of(pairs).to_csv(place / "pairs.csv")
    return pd.read_csv(place / "pairs.csv").to_dict("records")


def through_json(pairs: datasets.Dataset, place: Path) -> list:
    texts_of(pairs).to_json(place / "pairs.jsonl")
    return [json.loads(line) for line in (place / "pairs.jsonl").read_text().splitlines()]


def through_workers(pairs: datasets.Dataset, place: Path) -> list:
    loader = torch.utils.data.DataLoader(pairs, batch_size=3, num_workers=2, collate_fn=lambda batch: batch)
    return [plain(row) for batch in loader for row in batch]


METHODS: dict[str, Callable[[datasets.Dataset, Path], object]] = {
    "rows": lambda pairs, _: rows(pairs),
    "slice and column": lambda pairs, _: [plain(pairs[1:4]), plain(pairs["chosen"][:])],
    "features": lambda pairs, _: (pairs.features, pairs.column_names, pairs.shape),
    "map": lambda pairs, _: rows(pairs.map(lambda row: {"upper": row["chosen_model"].upper()})),
    "map of contents": lambda pairs, _: rows(pairs.map(lambda row: {"again": row["chosen"]}, batched=True)),
    "filter": lambda pairs, _: rows(pairs.filter(lambda row: row["margin"] > 0.2)),
    "select": lambda pairs, _: rows(pairs.select([4, 0, 2])),
    "shuffle": lambda pairs, _: rows(pairs.shuffle(seed=3)),
    "flatten_indices": lambda pairs, _: rows(pairs.shuffle(seed=3).flatten_indices()),
    "sort": lambda pairs, _: rows(pairs.sort("margin")),
    "train_test_split": lambda pairs, _: [rows(part) for part in pairs.train_test_split(0.3, seed=1).values()],
    "shard": lambda pairs, _: rows(pairs.shard(3, 1)),
    "rename_column": lambda pairs, _: rows(pairs.rename_column("chosen", "preferred")),
    "remove_columns": lambda pairs, _: rows(pairs.remove_columns(["rejected", "margin"])),
    "add_column": lambda pairs, _: rows(pairs.add_column("number", list(range(len(pairs))))),
    "cast_column": lambda pairs, _: rows(pairs.cast_column("margin", datasets.Value("float32"))),
    "concatenate_datasets": lambda pairs, _: rows(datasets.concatenate_datasets([pairs, pairs.select([0])])),
    "interleave_datasets": lambda pairs, _: rows(datasets.interleave_datasets([pairs, pairs.sort("margin")])),
    "class_encode_column": lambda pairs, _: rows(pairs.class_encode_column("chosen_model")),
    "unique": lambda pairs, _: [pairs.unique(name) for name in ("chosen_model", "rejected_id", "margin")],
    "flatten": lambda pairs, _: rows(pairs.flatten()),
    "iter": lambda pairs, _: [plain(batch) for batch in pairs.iter(4)],
    "to_iterable_dataset": lambda pairs, _: rows(pairs.to_iterable_dataset(num_shards=2)),
    "to_list": lambda pairs, _: plain(pairs.to_list()),
    "to_dict": lambda pairs, _: plain(pairs.to_dict()),
    "to_pandas": lambda pairs, _: plain(pairs.to_pandas().to_dict("list")),
    "with_format torch": lambda pairs, _: rows(pairs.with_format("torch")),
    "with_format numpy": lambda pairs, _: rows(pairs.with_format("numpy")),
    "with_format pandas": lambda pairs, _: plain(pairs.with_format("pandas")[:5].to_dict("list")),
    "with_transform": lambda pairs, _: rows(pairs.with_transform(lambda batch: {"it": batch["chosen"]})),
    "pickle": lambda pairs, _: rows(pickle.loads(pickle.dumps(pairs))),
    "to_csv": through_csv,
    "to_json": through_json,
    "to_parquet": through_parquet,
    "save_to_disk": through_disk,
    "DataLoader with workers": through_workers,
}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_of_the_library_gives_what_it_gives_of_a_plain_dataset(both, tmp_path, method):
    found = []
    for name, pairs in zip(("loaded", "plain"), both, strict=True):
        (tmp_path / name).mkdir()
        found.append(METHODS[method](pairs, tmp_path / name))
    assert found[0] == found[1]


def test_pairs_are_concatenated_with_those_of_others(both):
    loaded, other = both
    joined = datasets.concatenate_datasets([loaded, other])
    assert rows(joined) == rows(loaded) + rows(other)


@CYCLES
def test_an_image_is_one_file_however_many_pairs_show_it_and_rows_stay_small(runs, tmp_path, cycle, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    pairs = load_pairs(runs[cycle], min_margin=0.0, poor_chosen=None)
    load_pairs(runs[cycle], min_margin=0.2)
    shown = pairs["input_id"] if cycle == "i2t2i" else [*pairs["chosen_id"], *pairs["rejected_id"]]
    files = list(cache().rglob("*.png"))
    assert len(files) == len(set(shown)) < len(pairs)
    [table] = [Path(file["filename"]) for file in pairs.cache_files]
    assert table.stat().st_size < 3000 * len(pairs)


def test_images_are_written_once_and_again_where_the_cache_was_emptied(runs, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path)
    asked = []
    real = as_dataset._file
    monkeypatch.setattr(as_dataset, "_file", lambda *given: asked.append(given[-1]) or real(*given))
    expected = rows(load_pairs(runs["t2i2t"]))
    count = len(asked)
    assert rows(load_pairs(runs["t2i2t"], min_margin=0.2))
    assert len(asked) == count, "none was read again"
    shutil.rmtree(cache() / "images")
    assert rows(load_pairs(runs["t2i2t"])) == expected
    next((cache() / "images").glob("of-*.json")).write_text("{broken")
    assert rows(load_pairs(runs["t2i2t"])) == expected


def test_what_the_library_made_of_pairs_is_used_again(runs):
    made = [load_pairs(runs["i2t2i"]).map(lambda row: {"wide": row["margin"] > 0.2}) for _ in range(2)]
    assert made[0].cache_files == made[1].cache_files


# ---- images that others published ----------------------------------------------------------------------------------


def folder_of(place: Path, data: bytes) -> Path:
    line = {"input": "a.img.png", "generations": ["a cat", "a dog"], "scores": [0.1, 0.5]}
    (place / "train.jsonl").write_text(json.dumps(line))
    (place / "a.img.png").write_bytes(data)
    return place


def saved(image: Image.Image, form: str, **settings) -> bytes:
    image.save(buffer := io.BytesIO(), form, **settings)
    return buffer.getvalue()


def test_a_file_that_every_reader_shows_alike_is_shown_from_where_it_lies(tmp_path, own_cache):
    data = encode(Image.new("RGB", (8, 8), "red"))
    [row] = load_pairs(folder_of(tmp_path, data)).cast_column("image", datasets.Image(decode=False))
    assert row["image"] == {"bytes": None, "path": str(tmp_path / "a.img.png")}


@pytest.mark.parametrize(
    "data",
    [
        saved(Image.new("RGBA", (8, 8), (255, 0, 0, 90)), "PNG"),
        saved(Image.fromarray(np.full((8, 8), 40_000, dtype=np.uint16)), "PNG"),
        saved(Image.new("CMYK", (8, 8), (10, 90, 30, 0)), "JPEG"),
        saved(Image.effect_noise((8, 16), 60).convert("RGB"), "JPEG", exif=Image.Exif()),
        saved(Image.new("RGB", (8, 8), "blue"), "GIF"),
    ],
)
def test_pictures_are_shown_as_everything_else_here_sees_them(tmp_path, own_cache, data):
    [row] = load_pairs(folder_of(tmp_path, data))
    assert (row["image"].mode, row["image"].tobytes()) == ("RGB", decode(data).tobytes())


def test_a_photo_that_lies_on_its_side_is_shown_upright(tmp_path, own_cache):
    (exif := Image.Exif())[0x0112] = 6
    data = saved(Image.linear_gradient("L").resize((8, 16)).convert("RGB"), "JPEG", exif=exif)
    [row] = load_pairs(folder_of(tmp_path, data))
    assert row["image"].size == (16, 8)
    assert row["image"].tobytes() == decode(data).tobytes()


@pytest.mark.parametrize("data", [b"", b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"])
def test_what_is_no_picture_is_refused_before_any_row_is_read(tmp_path, own_cache, data):
    with pytest.raises(LoadError, match=r"split 'train' of .*: a pair shows the image [0-9a-f]{32}, and not a picture"):
        load_pairs(folder_of(tmp_path, data))


def test_a_cache_that_cannot_be_written_to_is_one_clear_error(runs, tmp_path, monkeypatch):
    rankings = open_pairs(runs["i2t2i"]).read("train")
    (tmp_path / "file").touch()
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "file")
    with pytest.raises(LoadError, match=r"cannot write pairs to .*set the environment variable HF_DATASETS_CACHE"):
        as_dataset.as_dataset(rankings, rankings.pairs)
