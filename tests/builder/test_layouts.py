"""Datasets of the field are read as what they say: written by our exports, and by hand."""

import json

import pytest
from PIL import Image

from builder.exports.export import export
from builder.layouts import find_layout
from builder.load import load_pairs
from builder.rankings import LoadError
from builder.reward.data import load_preferences


@pytest.fixture
def folder(tmp_path):
    """Four pictures of a prompt, ranked, and two of another."""
    for name in "abcdef":
        Image.new("RGB", (16, 16), (ord(name), 0, 0)).save(tmp_path / f"{name}.png")
    return tmp_path


def write(folder, rows, name="train.json"):
    (folder / name).write_text(json.dumps(rows))
    return folder


RANKED = [
    {"id": "1", "prompt": "a red dog", "generations": ["a.png", "b.png", "c.png"], "ranking": [2, 1, 2]},
    {"id": "2", "prompt": "a cat", "generations": ["e.png", "f.png"], "ranking": [1, 2]},
]
VOTED = [
    {"prompt": "a red dog", "path1": "b.png", "path2": "a.png", "confidence": 0.9, "model1": "m", "model2": "n"},
    {"prompt": "a red dog", "path1": "b.png", "path2": "c.png", "confidence": None, "model1": "m", "model2": "n"},
    {"prompt": "a cat", "path1": "e.png", "path2": "f.png", "confidence": 1.0, "model1": "m", "model2": "n"},
]


@pytest.mark.parametrize("rows", [RANKED, VOTED], ids=["ImageReward", "HPDv3"])
def test_json_of_rankings_and_of_votes_is_read(folder, rows):
    split = load_preferences(write(folder, rows))["train"]
    assert split.cycle == "t2i2t"
    first, second = split[0], split[1]
    assert (first.texts, second.texts) == (["a red dog"], ["a cat"])
    read = [Image.open(picture.split.rankings.images.folder / picture.split.rankings.images.paths[picture.place])
            for picture in first.images]  # fmt: skip
    reds = [image.getpixel((0, 0))[0] for image in read]
    best = reds.index(ord("b"))
    assert sorted(first.pairs) == sorted((best, other) for other in range(3) if other != best)
    assert len(second.pairs) == 1


def test_margins_are_ranks_or_confidence(folder):
    assert load_preferences(write(folder, RANKED))["train"].margins[0] == [1.0, 1.0]
    assert sorted(load_preferences(write(folder, VOTED))["train"].margins[0]) == [0.9, 1.0]


@pytest.mark.parametrize("layout", ["imagereward", "hpdv3", "diffusion-dpo"])
def test_what_our_exports_write_is_read_back(layout, tmp_path, tiny_dataset):
    export(tiny_dataset, layout, tmp_path / "out")
    split = load_preferences(tmp_path / "out")["train"]
    expected = load_pairs(tiny_dataset)
    assert split.pair_count == len(expected)
    found = {
        (each.texts[0], each.images[chosen].read(), each.images[rejected].read())
        for each in split
        for chosen, rejected in each.pairs
    }
    assert len(found) == len(expected)
    assert {prompt for prompt, *_ in found} == set(expected["prompt"])


@pytest.fixture
def tiny_dataset(tmp_path):
    import sys
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).parent / "reward"))
    from plain_colours import make_rows, write_dataset

    rows = make_rows("t2i2t", train=3)
    for split in rows["pairs"].values():
        for pair in split:
            pair |= {"chosen_model": "one", "rejected_model": "two", "metric": "score"}
    return write_dataset(tmp_path / "dataset", "t2i2t", rows)


def test_a_file_alone_is_the_train_split(folder):
    write(folder, RANKED, "pairs.json")
    assert find_layout(folder) is None
    assert find_layout(folder / "pairs.json").splits() == ["train"]


def test_a_path_cannot_leave_its_folder(folder):
    rows = [{"prompt": "p", "path1": "../secret.png", "path2": "a.png"}]
    split = load_preferences(write(folder, rows))["train"]
    with pytest.raises(LoadError, match="outside of"):
        [picture.read() for picture in split[0].images]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "p", "generations": ["a.png"], "ranking": [1, 2]}, "item 2: generations and ranking must be lists"),
        ({"prompt": "p", "generations": ["a.png"], "ranking": ["1"]}, "item 2: a ranking is of whole numbers"),
        ({"prompt": "p"}, "item 2: needs prompt, generations and ranking"),
        ({"prompt": 3, "path1": "a.png", "path2": "b.png"}, "item 2: needs prompt"),
    ],
)
def test_a_row_that_is_not_of_the_layout_is_refused(folder, row, message):
    with pytest.raises(LoadError, match=message):
        load_preferences(write(folder, [RANKED[0], row]))
