"""CyclePrefDB's layout: as it is published, and as CyclePref exports it and reads it back."""

import io
import json
import tarfile
from pathlib import Path

import pytest
from made_run import make_run
from PIL import Image

from builder.exports.export import export
from builder.filters import FilterError
from builder.load import load_pairs
from builder.rankings import LoadError

CYCLES = pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
SAME = ("input_id", "chosen_id", "rejected_id", "chosen_model", "rejected_model", "chosen_models", "rejected_models",
        "chosen_score", "rejected_score", "margin")  # fmt: skip
FILES = {"train": "train", "validation": "valid", "test": "test"}


def facts(pairs) -> list[dict]:
    rows = [{name: row[name] for name in SAME} for row in pairs.with_format(None)]
    return sorted(rows, key=lambda row: (row["chosen_id"], row["rejected_id"]))


def contents(pairs) -> dict:
    plain = lambda value: value.tobytes() if isinstance(value, Image.Image) else value  # noqa: E731
    return {
        (row["chosen_id"], row["rejected_id"]): [plain(row[name]) for name in ("chosen", "rejected")] + [
            plain(row["image"] if "image" in row else row["prompt"])
        ]
        for row in pairs
    }  # fmt: skip


# ---- there and back ----------------------------------------------------------------------------------------------


@CYCLES
@pytest.mark.parametrize("filters", [{}, {"balance_by_model": True}])
def test_what_is_exported_is_read_back_as_the_same_pairs(runs, tmp_path, cycle, filters):
    from builder.filters import Filters

    export(runs[cycle], "cycleprefdb", tmp_path / "out", filters=Filters(**filters))
    for split in FILES:
        expected, found = load_pairs(runs[cycle], split, **filters), load_pairs(tmp_path / "out", split)
        assert facts(found) == facts(expected)
        assert contents(found) == contents(expected)


def test_the_direction_of_an_unusual_metric_comes_back(tmp_path, own_cache, monkeypatch):
    monkeypatch.setitem(make_run.__globals__["METRICS"], "i2t2i", ("dinov2", True))
    run = make_run(tmp_path / "run", "i2t2i", inputs=12)
    export(run, "cycleprefdb", tmp_path / "out", "train")
    again = {"min_margin": 0.01, "poor_chosen": 0.3}
    assert facts(load_pairs(tmp_path / "out", **again)) == facts(load_pairs(run, **again))


@CYCLES
def test_an_exported_line_is_an_input_with_all_its_candidates_and_images_are_once_in_the_tar(runs, tmp_path, cycle):
    export(runs[cycle], "cycleprefdb", tmp_path / "out")
    lines = [json.loads(line) for line in (tmp_path / "out" / "train.jsonl").read_text().splitlines()]
    pairs = load_pairs(runs[cycle])
    assert [line["id"] for line in lines] == sorted(set(pairs["input_id"]))
    for line in lines:
        assert len(line["generations"]) == len(line["scores"]) == len(line["models"]) >= 2
    named = (
        [line["input"] for line in lines] if cycle == "i2t2i" else [g for line in lines for g in line["generations"]]
    )
    with tarfile.open(tmp_path / "out" / "train.tar") as tar:
        assert sorted(tar.getnames()) == sorted(named)
        assert {member.mtime for member in tar} == {0}


# ---- as it is published ------------------------------------------------------------------------------------------


def png(colour: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), colour).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Writes a split of rows, and images beside it or in a tar."""

    def write(rows: list, images: dict[str, bytes] | None = None, tar: str | None = None, name: str = "train.jsonl"):
        (tmp_path / name).write_text("\n".join(map(json.dumps, rows)) if name.endswith("l") else json.dumps(rows))
        for path, data in (images or {}).items():
            if tar:
                with tarfile.open(tmp_path / tar, "a") as opened:
                    member = tarfile.TarInfo(path)
                    member.size = len(data)
                    opened.addfile(member, io.BytesIO(data))
            else:
                (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
                (tmp_path / path).write_bytes(data)
        return tmp_path

    return write


CAPTIONS = ["a red square", "A red square ", "a dog", "a red thing", "nothing"]
I2T = {"input": "photos/a.png", "generations": CAPTIONS, "scores": [0.2, 0.2, 0.6, 0.202, 0.9]}
T2I = {"input": "a red square", "generations": ["1.png", "2.png", "3.png"], "scores": [0.9, 0.3, 0.35]}
IMAGES = {"1.png": png("red"), "2.png": png("blue"), "3.png": png("green")}


@pytest.mark.parametrize("name", ["train.jsonl", "train.json", "train_rankings.json"])
def test_captions_are_paired_by_the_papers_rule_lower_dreamsim_wins(folder, name):
    pairs = load_pairs(folder([I2T], {"photos/a.png": png("red")}, name=name))
    found = {(row["chosen"].strip().lower(), row["rejected"]) for row in pairs}
    # Equal after strip and lower-case, closer than 0.005, and a chosen one worse than 0.7 are left out.
    assert found == {
        ("a red square", "a dog"), ("a red square", "nothing"), ("a dog", "nothing"), ("a red thing", "a dog"),
        ("a red thing", "nothing"),
    }  # fmt: skip
    assert all(row["chosen_score"] < row["rejected_score"] and row["image"].size == (8, 8) for row in pairs)


@pytest.mark.parametrize("tar", [None, "images.tar"])
def test_images_are_paired_by_the_papers_rule_higher_sbert_wins(folder, tar):
    pairs = load_pairs(folder([T2I], IMAGES, tar))
    found = {(row["chosen"].getpixel((0, 0)), row["rejected"].getpixel((0, 0)), row["prompt"]) for row in pairs}
    red, blue, green = (255, 0, 0), (0, 0, 255), (0, 128, 0)
    assert found == {(red, blue, "a red square"), (red, green, "a red square")}
    wider = load_pairs(folder([T2I]), min_margin=0.01, poor_chosen=None)
    assert len(wider) == 3


def test_paths_of_another_machine_are_found_by_the_name_of_their_file(folder):
    row = {**T2I, "generations": [f"/data/other/{path}" for path in T2I["generations"]]}
    pairs = load_pairs(folder([row], {f"run/{path}": data for path, data in IMAGES.items()}, "images.tar"))
    assert pairs[0]["chosen"].getpixel((0, 0)) == (255, 0, 0)


def test_a_row_cannot_name_a_file_from_elsewhere(folder, tmp_path):
    outside = tmp_path.parent / "secret.png"
    outside.write_bytes(png("red"))
    place = folder([{**T2I, "generations": ["../secret.png", "2.png", "3.png"]}], IMAGES)
    with pytest.raises(LoadError, match=r"has no image '../secret.png' .*outside of"):
        load_pairs(place)[0]


def test_an_image_in_a_compressed_tar_is_to_be_unpacked(folder, tmp_path):
    (tmp_path / "images.tar.gz").write_bytes(b"")
    with pytest.raises(LoadError, match=r"it may be in images.tar.gz: unpack that here"):
        load_pairs(folder([T2I]))[0]


def test_order_of_generations_and_inputs_changes_no_pair(folder):
    other = {"input": "photos/b.png", "generations": ["x", "y"], "scores": [0.1, 0.3]}
    expected = facts(load_pairs(folder([I2T, other], {f"photos/{name}.png": png("red") for name in "ab"})))
    turned = {**I2T, "generations": I2T["generations"][::-1], "scores": I2T["scores"][::-1]}
    assert facts(load_pairs(folder([other, turned]))) == expected


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"generations": ["a"], "scores": [1]}], "train.jsonl, input 1: needs exactly one of the texts input, image"),
        ([{**T2I, "scores": [1, 2]}], "needs `generations` and `scores`, lists of one length"),
        ([{**T2I, "scores": [1, 2, "high"]}], "scores must be finite numbers, got"),
        ([{**T2I, "generations": [1, 2, 3]}], "generations must be texts"),
        ([{**T2I, "generations": list("abc")}], "must be paths of images .* and neither are"),
        ([{**T2I, "input": "a.png"}], "must be paths of images .* and both are"),
        ([{**T2I, "generation_ids": list("abc"), "pairs": [[0, 7]]}], r"\[0, 7\] is no pair of two of its"),
        ([{**T2I, "generation_ids": list("abc"), "pairs": [3]}], "3 is no pair of two of its"),
        ([{**T2I, "pairs": [[0, 1]]}], "pairs must be a list, and go with generation_ids"),
        ([{**T2I, "generation_ids": list("aab")}], "an id of its own for each generation"),
        ([{**T2I, "models": [["a"]]}], "models must be a list of names for each generation"),
        ([{**T2I, "higher_is_better": "yes"}], "higher_is_better must be a bool, got 'yes'"),
        ([], "train.jsonl has no input"),
    ],
)
def test_lines_that_are_not_the_layouts_are_told_with_their_place(folder, rows, message):
    with pytest.raises(LoadError, match=message):
        load_pairs(folder(rows))


def test_what_is_no_json_and_what_the_layout_does_not_say_are_told(folder, tmp_path):
    with pytest.raises(FilterError, match=r"needs the model of each candidate, and split 'train' of .* does not say"):
        load_pairs(folder([T2I]), balance_by_model=True)
    with pytest.raises(LoadError, match="has no split 'test': choose from train"):
        load_pairs(tmp_path, "test")
    Path(tmp_path / "train.jsonl").write_text("{no")
    with pytest.raises(LoadError, match=r"train.jsonl is not JSONL"):
        load_pairs(tmp_path)
