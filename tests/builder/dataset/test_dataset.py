"""What is published: each image once, typed and traceable, small, and written in little memory."""

import tracemalloc
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from dataset_run import MODELS, Run, make_run

from cyclepref.builder.common.images import decode
from cyclepref.builder.dataset import format as dataset_format
from cyclepref.builder.dataset import shards, write
from cyclepref.builder.dataset.edition import groups_wanted, release
from cyclepref.builder.dataset.format import size_category
from cyclepref.builder.dataset.views import split_of
from cyclepref.builder.dataset.write import write_splits
from cyclepref.builder.preferences.load import load_pairs

CONFIGS = ("rankings", "pairs", "reconstructions")


@pytest.fixture(scope="module", params=["i2t2i", "t2i2t"])
def run(request, tmp_path_factory) -> Run:
    made = make_run(tmp_path_factory.mktemp(request.param), request.param, dataset={"reconstructions": True})
    release(made.facts, made.views, made.accountant(), None, None)
    return made


@pytest.fixture(scope="module")
def loaded(run, tmp_path_factory) -> dict[str, datasets.DatasetDict]:
    cache = str(tmp_path_factory.mktemp("cache"))
    return {name: datasets.load_dataset(f"{run.store.root}/dataset", name, cache_dir=cache) for name in CONFIGS}


def every(config: datasets.DatasetDict) -> list[dict]:
    return [row for split in config.values() for row in split]


def images_in(folder: Path) -> list[bytes]:
    """The bytes of every image in the parquet files of a folder."""
    found: list[bytes] = []

    def walk(value) -> None:
        if isinstance(value, bytes):
            found.append(value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(inner)

    for path in sorted(folder.rglob("*.parquet")):
        walk(pq.read_table(path).to_pylist())
    return found


def test_every_input_is_a_row_with_all_its_candidates_and_what_made_them(run, loaded):
    rows = every(loaded["rankings"])
    assert sorted(row["input_id"] for row in rows) == run.views.inputs["input_id"].to_pylist()
    names = loaded["rankings"]["train"].features["candidates"].feature["model"].names
    assert names == sorted(MODELS)
    for row in rows:
        assert row["group"] == row["input_id"]
        for candidate in row["candidates"]:
            assert candidate["models"] == [names[candidate["model"]]]
            assert candidate["score"] == candidate["scores"][0]["value"]
            assert isinstance(candidate["seed"], int)
            assert candidate["code_version"] == "1"


def test_images_are_pictures_to_the_datasets_library(run, loaded):
    row = loaded["rankings"]["train"][0]
    [picture, *_] = [row["image"]] if "image" in row else [c["image"] for c in row["candidates"]]
    assert picture.size == (24, 24)


def test_reconstructions_are_named_by_their_candidates(loaded):
    of = {row["reconstruction_id"]: row["candidate_id"] for row in every(loaded["reconstructions"])}
    named = {
        id_: candidate["generation_id"]
        for row in every(loaded["rankings"])
        for candidate in row["candidates"]
        for id_ in candidate["reconstruction_ids"]
    }
    assert of == named
    assert len(of) == 60
    assert all(row["scores"][0]["metric"] == "sbert" for row in every(loaded["reconstructions"]))


def test_pairs_keep_their_names_and_plain_strings(run, loaded):
    expected = run.views.pairs.table().sort_by("pair_id").to_pylist()
    found = [{name: row[name] for name in expected[0]} for row in every(loaded["pairs"])]
    assert sorted(found, key=lambda row: row["pair_id"]) == expected


def test_pairs_hold_their_texts_and_say_where_their_images_are(run, loaded):
    for split, pairs in loaded["pairs"].items():
        rankings = loaded["rankings"][split]
        for row in pairs:
            of = rankings[row["row"]]
            assert of["input_id"] == row["input_id"]
            assert row.get("prompt") == of.get("prompt")
            for side in ("chosen", "rejected"):
                candidate = of["candidates"][row[f"{side}_index"]]
                assert candidate["generation_id"] == row[f"{side}_id"]
                assert row.get(side) == candidate.get("text")
    shown = list(loaded["pairs"]["train"].features)[:4]  # what a person sees first
    assert shown[:2] == (["chosen", "rejected"] if "image" in of else ["prompt", "margin"])


def test_the_code_in_the_card_gives_pairs_with_their_images(run, monkeypatch, own_cache):
    folder = f"{run.store.root}/dataset"
    code = Path(folder, "README.md").read_text().split("```python\n")[1].split("```")[0]
    names: dict = {}
    exec(code.replace("PATH", folder), names)
    again = {row["pair_id"]: row for row in load_pairs(folder)}
    for row in names["train"]:
        for name in ("image", "prompt", "chosen", "rejected"):
            found, expected = row.get(name), again[row["pair_id"]].get(name)
            assert found.tobytes() == expected.tobytes() if hasattr(found, "tobytes") else found == expected
    assert len(again) == len(names["train"])


def test_each_image_is_stored_once(run):
    found = images_in(Path(run.store.root, "dataset"))
    assert len(found) == len(set(found)) == (20 + 60 if run.recipe.cycle == "i2t2i" else 60)


@pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
def test_what_is_published_is_hardly_larger_than_its_images_and_texts(tmp_path, cycle):
    made = make_run(tmp_path, cycle, inputs=300, side=48)
    release(made.facts, made.views, made.accountant(), None, None)
    folder = tmp_path / "dataset"
    images = sum(map(len, images_in(folder)))
    texts = sum(pq.read_table(path).nbytes for path in folder.rglob("*.parquet")) - images
    sizes = {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    pictures = sum(size for path, size in sizes.items() if path.parent.name == "pictures")
    assert pictures < 500_000  # whatever the dataset's size
    assert sum(sizes.values()) - pictures <= 1.05 * (images + texts)


@pytest.mark.parametrize(("cycle", "inputs"), [("i2t2i", 60), ("t2i2t", 20)])
def test_all_that_is_published_is_hardly_larger_than_each_image_and_text_once(tmp_path, cycle, inputs):
    made = make_run(tmp_path, cycle, inputs=inputs, side=150)
    release(made.facts, made.views, made.accountant(), None, None)
    images = set(images_in(tmp_path / "dataset"))
    written = sum(path.stat().st_size for path in (tmp_path / "dataset").rglob("*.parquet"))
    assert written <= 1.05 * sum(map(len, images))


def test_images_are_neither_compressed_again_nor_in_statistics_and_pages_have_an_index(run):
    for path in Path(run.store.root, "dataset", "rankings").glob("*.parquet"):
        file = pq.ParquetFile(path)
        images = dataset_format.image_columns(file.schema_arrow)
        columns = {
            c.path_in_schema: c for c in map(file.metadata.row_group(0).column, range(file.metadata.num_columns))
        }
        assert images
        for name, column in columns.items():
            assert column.has_offset_index
            assert (column.compression == "UNCOMPRESSED") == (name in images)
            assert name not in images or column.statistics is None


def test_the_card_is_valid_metadata_and_its_pictures_are_there(run):
    folder = Path(run.store.root, "dataset")
    text = (folder / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head["license"] == "mit"
    assert head["size_categories"] == ["n<1K"]
    assert [config["config_name"] for config in head["configs"]] == list(CONFIGS)
    pictures = sorted(path.relative_to(folder).as_posix() for path in (folder / "pictures").iterdir())
    assert [name.split("-")[0] for name in pictures] == ["pictures/examples", "pictures/scores", "pictures/wins"]
    for name in pictures:
        assert f"({name})" in text
        assert min(decode((folder / name).read_bytes()).size) > 100


def test_a_second_release_of_the_same_leaves_the_files_alone_and_another_replaces_them(tmp_path):
    made = make_run(tmp_path)
    first = release(made.facts, made.views, made.accountant(), None, None)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("dataset/**/*.*")}
    assert release(made.facts, made.views, made.accountant(), None, first) == first
    assert times == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("dataset/**/*.*")}
    made = make_run(tmp_path, dataset={"inputs_licence": "cc0-1.0", "reconstructions": True})
    second = release(made.facts, made.views, made.accountant(), None, first)
    assert second["dataset"]["edition"] != first["dataset"]["edition"]
    names = {path.name for path in tmp_path.rglob("dataset/*/*")}
    assert all(f"-{second['dataset']['edition']}" in name for name in names)


def test_near_duplicates_lie_in_the_split_of_their_founder(tmp_path):
    made = make_run(tmp_path, "t2i2t")
    ids = made.views.inputs["input_id"].to_pylist()
    counts, _ = write_splits(made.store, made.views, made.plan(groups=dict.fromkeys(ids, ids[0])), "edition")
    assert counts == {split_of(ids[0], made.recipe.splits): {"inputs": 20, "pairs": made.views.pairs.num_rows}}


@pytest.mark.parametrize(
    ("source", "asked", "expected"),
    [("shapeworld", None, False), ("shapeworld", True, True), ("prompts", None, True), ("prompts", False, False)],
)
def test_near_duplicates_are_looked_for_but_in_the_embedded_world(tmp_path, source, asked, expected):
    inputs = {"source": "prompts", "path": "x"} if source == "prompts" else {"source": "shapeworld", "limit": 1}
    made = make_run(tmp_path, inputs=2).recipe
    content = {**made.model_dump(), "inputs": inputs, "dataset": {"group_near_duplicates": asked}}
    assert groups_wanted(type(made).model_validate(content)) is expected


@pytest.mark.parametrize(
    ("rows", "name"), [(0, "n<1K"), (999, "n<1K"), (1000, "1K<n<10K"), (10**6, "1M<n<10M"), (10**12, "n>1T")]
)
def test_sizes_have_the_names_of_the_hub(rows, name):
    assert size_category(rows) == name


def test_memory_does_not_grow_with_the_dataset(tmp_path, monkeypatch):
    """Seven times the inputs: views are joined for a block of them at a time, content is read for some of it."""
    monkeypatch.setattr(shards, "BATCH_BYTES", 2**18)
    monkeypatch.setattr(write, "INPUTS_PER_BLOCK", 50)
    peaks = []
    for inputs in (100, 700):
        made = make_run(tmp_path / str(inputs), "t2i2t", inputs, side=46)
        write_splits(made.store, made.views, made.plan(), "warm")  # what is loaded once
        before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
        pa.set_memory_pool(pool)
        tracemalloc.start()
        try:
            write_splits(made.store, made.views, made.plan(), "edition")
            peaks.append(tracemalloc.get_traced_memory()[1] + pool.max_memory())
        finally:
            tracemalloc.stop()
            pa.set_memory_pool(before)
    written = [sum(path.stat().st_size for path in (tmp_path / n).rglob("*edition*")) for n in ("100", "700")]
    assert written[1] - written[0] > 10 * 2**20
    # What grows is where the content of 1,800 more candidates and of their reconstructions is, some 500 bytes each.
    assert peaks[1] - peaks[0] < 800 * 1800, (peaks, written)


@pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
def test_blocks_of_inputs_write_the_same_bytes_as_all_at_once(tmp_path, monkeypatch, cycle):
    written = []
    for size in (1000, 7):
        monkeypatch.setattr(write, "INPUTS_PER_BLOCK", size)
        made = make_run(tmp_path / str(size), cycle, 40)
        write_splits(made.store, made.views, made.plan(reconstructions=True), "edition")
        root = tmp_path / str(size) / "dataset"
        written.append({path.relative_to(root): path.read_bytes() for path in root.rglob("*.parquet")})
    assert written[0] == written[1]
    assert len(written[0]) == 9
