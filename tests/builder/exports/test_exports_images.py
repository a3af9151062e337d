"""What is exported for trainers of text-to-image pipelines, read back as their documentation and code say."""

import io
import itertools
import json
from collections import Counter
from pathlib import Path

import datasets
import pytest
import torch
from made_run import make_run
from PIL import Image
from torchvision import transforms

from cyclepref.builder.exports.export import export
from cyclepref.builder.preferences.load import load_pairs


@pytest.fixture
def exported(runs, tmp_path):
    """Exports a format of the t2i2t run to a folder."""

    def make(name: str, **options) -> Path:
        export(runs["t2i2t"], name, tmp_path / name, **options)
        return tmp_path / name

    return make


# ---- diffusion-dpo: what diffusers' train_diffusion_dpo does with Pick-a-Pic v2's columns ------------------------


def preprocess(examples: dict[str, list]) -> dict[str, list]:
    """Both images of a row, the preferred first, on the channel axis: (6, size, size) in [-1, 1]."""
    to_tensor = transforms.Compose([transforms.ToTensor(), transforms.Resize(16), transforms.Normalize([0.5], [0.5])])
    sides = []
    for column in ("jpg_0", "jpg_1"):
        sides.append([to_tensor(Image.open(io.BytesIO(data)).convert("RGB")) for data in examples[column]])
    stacked = []
    for first, second, label in zip(*sides, examples["label_0"], strict=True):
        stacked.append(torch.cat((second, first) if label == 0 else (first, second), dim=0))
    return {"pixel_values": stacked, "caption": examples["caption"]}


def test_diffusion_dpo_gives_its_trainer_the_preferred_image_first(exported, runs):
    data = datasets.load_dataset(str(exported("diffusion-dpo")), split="train").with_transform(preprocess)
    pairs = load_pairs(runs["t2i2t"])
    assert len(data) == len(pairs)
    to_tensor = transforms.ToTensor()
    for row, pair in zip(data, pairs, strict=True):
        assert row["caption"] == pair["prompt"]
        preferred, other = row["pixel_values"].chunk(2)
        assert torch.allclose(preferred, to_tensor(pair["chosen"]) * 2 - 1, atol=1e-6)
        assert torch.allclose(other, to_tensor(pair["rejected"]) * 2 - 1, atol=1e-6)


def test_diffusion_dpo_has_pick_a_pics_columns_no_ties_and_winners_on_either_side(exported, runs):
    data = datasets.load_dataset(str(exported("diffusion-dpo")), split="train")
    # An Image feature would hand the script a picture where it asks for bytes.
    assert data.features["jpg_0"] == data.features["jpg_1"] == datasets.Value("binary")
    labels = Counter(zip(data["label_0"], data["label_1"], strict=True))
    assert set(labels) == {(1.0, 0.0), (0.0, 1.0)}
    assert min(labels.values()) > 0.3 * len(data)
    assert all(data["has_label"])
    assert all(data["are_different"])
    counts = Counter(data["caption"])
    for row, pair in zip(data, load_pairs(runs["t2i2t"]).with_format(None), strict=True):
        winner = 0 if row["label_0"] else 1
        assert row[f"image_{winner}_uid"] == pair["chosen_id"]
        assert row[f"model_{winner}"] == pair["chosen_model"]
        assert row[f"model_{1 - winner}"] == pair["rejected_model"]
        assert row["num_example_per_prompt"] == counts[row["caption"]]
        assert row["margin"] == pair["margin"]


def test_the_readme_says_what_diffusers_script_does_wrong_by_itself(exported):
    readme = (exported("diffusion-dpo", split="train") / "README.md").read_text()
    for part in ("--dataset_split_name train --no_hflip", "left and right", "AutoencoderKL", "AutoencoderTiny"):
        assert part in readme


def test_the_seed_decides_the_sides_and_nothing_else_does(runs, tmp_path):
    sides = []
    for name, options in {"a": {}, "b": {"split": "train"}, "c": {"seed": 1}}.items():
        export(runs["t2i2t"], "diffusion-dpo", tmp_path / name, **options)
        rows = datasets.load_dataset(str(tmp_path / name), split="train")
        sides.append(rows["label_0"][:])
    assert sides[0] == sides[1]
    assert sides[0] != sides[2]


# ---- imagereward: train/src/rank_pair_dataset.py -----------------------------------------------------------------


def ranked_pairs(folder: Path, split: str) -> list[tuple[str, bytes, bytes]]:
    """(prompt, better image, worse image) of every two generations of an item whose ranks differ; 1 is best."""
    found = []
    for item in json.loads((folder / f"{split}.json").read_text()):
        assert len(item["generations"]) == len(item["ranking"])
        ranked = zip(item["generations"], item["ranking"], strict=True)
        for (left, left_rank), (right, right_rank) in itertools.combinations(ranked, 2):
            if left_rank != right_rank:
                order = (left, right) if left_rank < right_rank else (right, left)
                found.append((item["prompt"], *((folder / path).read_bytes() for path in order)))
    return found


def published_pairs(run: Path, split: str, **filters) -> list[tuple[str, bytes, bytes]]:
    sides = [(row["prompt"], row["chosen"], row["rejected"]) for row in load_pairs(run, split, **filters)]
    return sorted((prompt, chosen.tobytes(), rejected.tobytes()) for prompt, chosen, rejected in sides)


def decoded(found: list[tuple[str, bytes, bytes]]) -> list[tuple[str, bytes, bytes]]:
    pixels = lambda data: Image.open(io.BytesIO(data)).convert("RGB").tobytes()  # noqa: E731
    return sorted((prompt, pixels(better), pixels(worse)) for prompt, better, worse in found)


@pytest.mark.parametrize(("split", "name"), [("train", "train"), ("validation", "valid"), ("test", "test")])
def test_imagereward_s_reader_makes_just_the_pairs_that_were_kept(exported, runs, split, name):
    found = ranked_pairs(exported("imagereward"), name)
    assert decoded(found) == published_pairs(runs["t2i2t"], split)


def test_imagereward_items_have_cycle_scores_and_the_smallest_margin(exported):
    items = json.loads((exported("imagereward") / "train.json").read_text())
    for item in items:
        assert item["cycle_scores"] == sorted(item["cycle_scores"], reverse=True)  # SBERT: the best comes first
        ranked = list(zip(item["ranking"], item["cycle_scores"], strict=True))
        gaps = [a[1] - b[1] for a, b in itertools.combinations(ranked, 2) if a[0] != b[0]]
        assert item["margin"] == pytest.approx(min(gaps), abs=2e-6)


def test_imagereward_keeps_filters_and_whole_rankings_where_they_say_the_same(tmp_path, own_cache):
    run = make_run(tmp_path / "run", "t2i2t", inputs=30, pairs={"min_margin": 0.0, "poor_chosen": None})
    export(run, "imagereward", tmp_path / "whole", "train")
    items = json.loads((tmp_path / "whole" / "train.json").read_text())
    assert sorted(items[0]["ranking"]) == items[0]["ranking"] == list(range(1, len(items[0]["ranking"]) + 1))
    assert len(items) == len({item["prompt"] for item in items})
    assert decoded(ranked_pairs(tmp_path / "whole", "train")) == published_pairs(run, "train")
    export(run, "imagereward", tmp_path / "some", "train", poor_chosen=0.5)
    assert decoded(ranked_pairs(tmp_path / "some", "train")) == published_pairs(run, "train", poor_chosen=0.5)


# ---- hpdv3: HPSv3's pairwise JSON --------------------------------------------------------------------------------


def read_by_hpsv3(files: list[Path], soft_label: bool, threshold: float | None) -> list[dict]:
    """Pairs as HPSv3's dataset gives them: paths as they stand, from whatever folder it runs in."""
    rows = [row for file in files for row in json.loads(file.read_text())]
    if threshold is not None:
        rows = [row for row in rows if row.get("confidence", float("inf")) >= threshold]
    for row in rows:
        assert Path(row["path1"]).is_file()
        assert Path(row["path2"]).is_file()
        votes = sorted(row["choice_dist"], reverse=True) if soft_label else [1.0]
        row["label"] = votes[0] / sum(votes)
    return rows


@pytest.mark.parametrize("soft_label", [False, True])
def test_hpdv3_s_reader_finds_the_preferred_image_at_path1(exported, runs, tmp_path, monkeypatch, soft_label):
    folder = exported("hpdv3", split="train")
    monkeypatch.chdir(tmp_path)
    rows = read_by_hpsv3([folder / "train.json"], soft_label, 0.95)  # as in its released settings
    assert {row["label"] for row in rows} == {1.0}
    found = [(row["prompt"], *(Path(row[path]).read_bytes() for path in ("path1", "path2"))) for row in rows]
    assert decoded(found) == published_pairs(runs["t2i2t"], "train")
    pairs = load_pairs(runs["t2i2t"]).with_format(None)
    models = [(row["model1"], row["model2"], row["margin"]) for row in rows]
    assert models == list(zip(pairs["chosen_model"], pairs["rejected_model"], pairs["margin"], strict=True))


@pytest.mark.parametrize("name", ["imagereward", "hpdv3"])
def test_an_image_is_one_file_named_by_its_id(exported, runs, name):
    files = sorted(path.name for path in (exported(name) / "images").iterdir())
    ids = set()
    for split in ("train", "validation", "test"):
        pairs = load_pairs(runs["t2i2t"], split).with_format(None)
        ids |= {*pairs["chosen_id"], *pairs["rejected_id"]}
    assert files == sorted(f"{id_}.png" for id_ in ids)
