"""Datasets of the field are read to train on as what they say: written by our exports, and by hand."""

import io
import json
import pickle
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2] / "reward"))
from plain_colours import make_rows, write_dataset

from cyclepref.builder.common.images import UnreadableImage, decode
from cyclepref.builder.exports.export import export
from cyclepref.builder.preferences.filters import Filters
from cyclepref.builder.preferences.layouts.as_rankings import absolute, open_layout
from cyclepref.builder.preferences.layouts.detect import FORMS, open_judged
from cyclepref.builder.preferences.layouts.items import JudgedError
from cyclepref.builder.preferences.load import load_pairs
from cyclepref.builder.preferences.rankings import LoadError
from cyclepref.builder.reward.training.data import load_preferences


@pytest.fixture
def folder(tmp_path):
    """Four pictures of a prompt, ranked, and two of another."""
    for name in "abcdef":
        Image.new("RGB", (16, 16), (ord(name), 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def write(folder, rows, name="train.json"):
    (folder / name).write_text(json.dumps(rows))
    return folder


def pack(folder, rows, name="train.parquet", **options):
    pq.write_table(pa.Table.from_pylist(rows), folder / name, **options)
    return folder


def png(red: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (red, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def answer(text: str) -> list:
    """A caption as TRL's vision trainers read it."""
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]


def said(split) -> set:
    """What a split says was preferred to what, in words and reds: (shared, chosen, rejected, margin)."""
    found = set()
    for each in split:
        images = [decode(picture.read()).getpixel((0, 0))[0] for picture in each.images]
        shared, candidates = (images, each.texts) if each.cycle == "i2t2i" else (each.texts, images)
        found |= {
            (*shared, candidates[chosen], candidates[rejected], margin)
            for (chosen, rejected), margin in zip(each.pairs, each.margins, strict=True)
        }
    return found


RANKED = [
    {"id": "1", "prompt": "a red dog", "generations": ["a.png", "b.png", "c.png"], "ranking": [2, 1, 3]},
    {"id": "2", "prompt": "a cat", "generations": ["e.png", "f.png"], "ranking": [1, 2]},
]
RATED = [
    {"prompt_id": "1", "prompt": "a red dog", "image_path": f"{name}.png", "rank": rank, "overall_rating": 8 - rank}
    for name, rank in zip("abc", (2, 1, 3), strict=True)
]
PREFERRED = [{"prompt": "a red dog", "file_path": ["a.png", "b.png"], "human_preference": [0, 1]}]
VOTED = [
    {"prompt": "a red dog", "path1": "b.png", "path2": "a.png", "confidence": 0.9, "model1": "m", "model2": "n"},
    {"prompt": "a red dog", "path1": "b.png", "path2": "c.png", "confidence": None, "model1": "m", "model2": "n"},
]
PICKED = [
    {"caption": "a red dog", "jpg_0": png(97), "jpg_1": png(98), "label_0": 0.0, "label_1": 1.0},
    {"caption": "a red dog", "jpg_0": png(98), "jpg_1": png(99), "label_0": 1.0, "label_1": 0.0},
    {"caption": "a red dog", "jpg_0": png(98), "jpg_1": png(100), "label_0": 0.5, "label_1": 0.5},
]
ANSWERED = [
    {"image": {"bytes": png(7), "path": "x.png"}, "question": "What?", "chosen": "A fox.", "rejected": "A cat."},
    {"image": {"bytes": png(7), "path": "y.png"}, "question": "Which?", "chosen": "A fox.", "rejected": "A cow."},
]
MARKED = [
    {"image": "coco/1.jpg", "binary": png(9), "One": "a fox", "Two": "a cat", "GPT4_Eval": '{"One": 4, "Two": 1.5}'}
]
ASKED = [
    {"images": [{"bytes": png(7), "path": None}], "prompt": "?", "chosen": answer("A fox."),
     "rejected": answer("A cat."), "margin": 0.5},
]  # fmt: skip
DOGS = {("a red dog", 98, 97, 1.0), ("a red dog", 98, 99, 1.0)}
LAYOUTS = {
    "imagereward": (write, RANKED, {("a red dog", 98, 97, 1.0), ("a red dog", 97, 99, 1.0), ("a red dog", 98, 99, 2.0),
                                    ("a cat", 101, 102, 1.0)}),
    "imagerewarddb": (write, RATED, {("a red dog", 98, 97, 1.0), ("a red dog", 97, 99, 1.0),
                                     ("a red dog", 98, 99, 2.0)}),
    "hpdv2": (write, PREFERRED, {("a red dog", 98, 97, 1.0)}),
    "hpdv3": (write, VOTED, {("a red dog", 98, 97, 0.9), ("a red dog", 98, 99, 1.0)}),
    "pickapic": (pack, PICKED, DOGS),
    "rlhf-v": (pack, ANSWERED, {(7, "A fox.", "A cat.", 1.0), (7, "A fox.", "A cow.", 1.0)}),
    "detailcaps": (pack, MARKED, {(9, "a fox", "a cat", 2.5)}),
    "trl": (pack, ASKED, {(7, "A fox.", "A cat.", 0.5)}),
}  # fmt: skip


def test_every_layout_that_can_be_evaluated_on_is_tested_here():
    assert list(LAYOUTS) == list(FORMS)


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_read_as_what_it_says_by_its_columns_and_by_its_name(folder, name):
    put, rows, expected = LAYOUTS[name]
    found = load_preferences(put(folder, rows))["train"]
    assert said(found) == expected
    assert len(found) == len({each[0] for each in expected})
    assert said(load_preferences(f"{name}:{folder}")["train"]) == expected


@pytest.mark.parametrize("name", LAYOUTS)
def test_ids_are_of_content_and_a_split_can_be_pickled(folder, tmp_path_factory, name):
    put, rows, expected = LAYOUTS[name]
    found = load_preferences(put(folder, rows))["train"]
    assert said(pickle.loads(pickle.dumps(found))) == expected
    other = put(tmp_path_factory.mktemp("elsewhere"), rows[::-1] if name != "imagerewarddb" else rows)
    moved = load_preferences(other)["train"] if put is pack else None  # paths of JSON lead nowhere there
    if moved:
        assert sorted(moved.generation_ids) == sorted(found.generation_ids)
        assert set(moved.rankings.pairs["pair_id"].to_pylist()) == set(found.rankings.pairs["pair_id"].to_pylist())


def test_of_judgements_that_contradict_each_other_the_first_counts(folder):
    rows = [VOTED[0], {**VOTED[0], "path1": "a.png", "path2": "b.png", "confidence": 0.7}]
    assert said(load_preferences(write(folder, rows))["train"]) == {("a red dog", 98, 97, 0.9)}


def test_images_in_parquet_stay_on_disk(tmp_path):
    rows = [
        {**PICKED[0], "caption": str(number), "jpg_0": png(number) + bytes(2**20), "image_0_uid": f"{number}"}
        for number in range(20)
    ]
    split = load_preferences(pack(tmp_path, rows))["train"]
    assert len(pickle.dumps(split)) < 2**20
    assert split[19].images[0].read() == rows[19]["jpg_0"]


def test_the_best_and_the_worst_of_a_ranking_are_its_top_and_bottom(folder):
    split = load_preferences(write(folder, RANKED), Filters(top_vs_bottom=True))["train"]
    assert said(split) == {("a red dog", 98, 99, 2.0), ("a cat", 101, 102, 1.0)}
    assert load_preferences(folder, Filters(min_margin=0.5))["train"].pair_count == 4


@pytest.mark.parametrize("layout", ["imagereward", "hpdv3", "diffusion-dpo"])
def test_what_our_exports_write_is_read_back(layout, tmp_path):
    dataset = tiny_dataset(tmp_path, "t2i2t")
    export(dataset, layout, tmp_path / "out")
    split = load_preferences(tmp_path / "out")["train"]
    expected = load_pairs(dataset)
    assert split.pair_count == len(expected)
    found = {
        (each.texts[0], each.images[chosen].read(), each.images[rejected].read())
        for each in split
        for chosen, rejected in each.pairs
    }
    assert len(found) == len(expected)
    assert {prompt for prompt, *_ in found} == set(expected["prompt"])


def test_what_we_export_for_trl_is_read_back_split_by_split(tmp_path):
    dataset = tiny_dataset(tmp_path, "i2t2i", validation=2)
    export(dataset, "trl-dpo-vision", tmp_path / "out")
    found = load_preferences(tmp_path / "out")
    assert list(found) == ["train", "validation"]
    for name, split in found.items():
        expected = {
            (row["image"].getpixel((0, 0))[0], row["chosen"], row["rejected"], 1.0) for row in load_pairs(dataset, name)
        }
        assert said(split) == expected
    assert len({item.shared.identity() for item in open_judged(str(tmp_path / "out"), "train")}) == 3


def test_trls_layout_without_images_is_none_to_train_on(tmp_path):
    export(tiny_dataset(tmp_path, "i2t2i"), "trl-reward", tmp_path / "out")
    with pytest.raises(JudgedError, match="has no known layout: its first row has the keys chosen, margin"):
        load_preferences(tmp_path / "out")


def tiny_dataset(tmp_path, cycle, **sizes):
    rows = make_rows(cycle, train=3, **sizes)
    for split in rows["pairs"].values():
        for pair in split:
            pair |= {"chosen_model": "one", "rejected_model": "two", "metric": "score"}
    return write_dataset(tmp_path / "dataset", cycle, rows)


def test_splits_are_named_by_files_or_their_folders_and_are_train_where_nothing_says(folder):
    for name in ("data", "data/test"):
        (folder / name).mkdir()
    data = folder / "data"
    write(data, RANKED, "pairs.json")
    for place in (data, data / "pairs.json"):
        assert open_layout(place).splits() == ["train"]
    write(data / "test", RANKED, "metadata.json")
    write(data, RANKED, "valid-00000.json")
    write(data, RANKED, "train-1.json")
    pack(data, PICKED, "train-2.parquet")
    assert open_layout(data).splits() == ["train", "validation", "test"]
    assert open_layout(data / "valid-00000.json").splits() == ["validation"]


def test_our_own_are_read_by_name_as_without_it(tmp_path):
    dataset = tiny_dataset(tmp_path, "i2t2i")
    assert said(load_preferences(f"cyclepref:{dataset}")["train"]) == said(load_preferences(dataset)["train"])


def test_a_split_may_be_of_several_files(folder):
    write(folder, RANKED[:1], "train-1.json")
    write(folder, [RANKED[1], {**RANKED[0], "generations": ["b.png", "d.png"], "ranking": [1, 2]}], "train-2.json")
    found = load_preferences(folder)["train"]
    assert said(found) == {*LAYOUTS["imagereward"][2], ("a red dog", 98, 100, 1.0)}
    assert len(found) == 2


def test_a_dataset_is_named_so_that_workers_elsewhere_find_it(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    assert absolute(folder.name) == str(folder.resolve())
    assert absolute(f"hpdv3:{folder.name}") == f"hpdv3:{folder.resolve()}"
    assert absolute("org/name") == "org/name"


def test_a_path_cannot_leave_its_folder(folder):
    rows = [{"prompt": "p", "path1": "../secret.png", "path2": "a.png"}]
    split = load_preferences(write(folder, rows))["train"]
    with pytest.raises(UnreadableImage, match="outside of"):
        [picture.read() for picture in split[0].images]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "generations": ["a.png"], "ranking": [1, 2]}, "input 2: needs generations and ranking, lists"),
        ({"prompt": "p", "generations": ["a.png"], "ranking": ["1"]}, "the second of finite numbers"),
        ({"prompt": "p"}, "row 2 is not in the layout imagereward: the keys prompt"),
        ({"prompt": 3, "generations": ["a.png"], "ranking": [1]}, "input 2, prompt: must be a text"),
    ],
)
def test_a_row_that_is_not_of_the_layout_is_refused(folder, row, message):
    with pytest.raises(LoadError, match=message):
        load_preferences(write(folder, [RANKED[0], row]))


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"images": [png(1), png(2)]}, "row 2, images: an image must be bytes or a path, got list"),
        ({"images": [None]}, "row 2, images: an image must be bytes or a path, got NoneType"),
        ({"chosen": []}, "input 2, chosen: must be a text that is not empty"),
        ({"margin": float("nan")}, "input 2: margin must be a number of 0 or more, got nan"),
    ],
)
def test_answers_that_cannot_be_judged_are_refused(folder, row, message):
    rows = [{**ASKED[0], "images": [png(7)]}, {**ASKED[0], "images": [png(7)], **row}]
    with pytest.raises(JudgedError, match=message):
        load_preferences(pack(folder, rows))


def test_a_parquet_that_was_cut_is_refused(folder):
    pack(folder, PICKED, "train-1.parquet")
    (folder / "train-2.parquet").write_bytes((folder / "train-1.parquet").read_bytes()[:-9])
    with pytest.raises(JudgedError, match=r"train-2\.parquet cannot be read as parquet"):
        load_preferences(folder)


@pytest.mark.parametrize(
    ("place", "message"),
    [
        ("imagerewrd:{}", "names the layout 'imagerewrd'. Choose from: cyclepref, imagereward"),
        ("hpdv3:{}", "is not in the layout hpdv3"),
        ("{}/nothing", "there is no folder .*/nothing on this machine, nor a file"),
        ("s3://bucket/x", "is an address: datasets are read from this machine or the Hub"),
    ],
)
def test_what_cannot_be_found_says_what_could(folder, place, message):
    with pytest.raises(LoadError, match=message):
        load_preferences(place.format(write(folder, RANKED)))
