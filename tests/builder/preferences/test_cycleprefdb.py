"""CyclePrefDB's layout: as it is published, and as CyclePref exports it and reads it back."""

import io
import itertools
import json
import re
import tarfile
from pathlib import Path

import pytest
from made_run import make_run
from PIL import Image

from cyclepref.builder.exports.export import export
from cyclepref.builder.preferences.filters import FilterError
from cyclepref.builder.preferences.load import load_pairs
from cyclepref.builder.preferences.rankings import LoadError

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
    from cyclepref.builder.preferences.filters import Filters

    export(runs[cycle], "cycleprefdb", tmp_path / "out", filters=Filters(**filters))
    for split in FILES:
        expected, found = load_pairs(runs[cycle], split, **filters), load_pairs(tmp_path / "out", split)
        assert facts(found) == facts(expected)
        assert contents(found) == contents(expected)


@CYCLES
def test_an_exported_item_is_an_input_with_all_its_candidates_in_ascending_order_and_images_once(runs, tmp_path, cycle):
    export(runs[cycle], "cycleprefdb", tmp_path / "out")
    items = [json.loads((tmp_path / "out" / f"{name}.json").read_text()) for name in FILES.values()]
    assert [item["id"] for item in items[0]] == sorted(set(load_pairs(runs[cycle])["input_id"]))
    for item in [item for part in items for item in part]:
        assert len(item["generations"]) == len(item["scores"]) == len(item["models"]) >= 2
        assert item["scores"] == sorted(item["scores"])
    named = [path for part in items for item in part for path in
             ([item["input"]] if cycle == "i2t2i" else item["generations"])]  # fmt: skip
    assert sorted(named) == sorted(str(path) for path in (tmp_path / "out" / "images").iterdir())


@CYCLES
def test_an_export_is_read_back_where_it_was_moved_and_in_the_layout_of_older_versions(runs, tmp_path, cycle):
    expected = load_pairs(runs[cycle])
    export(runs[cycle], "cycleprefdb", tmp_path / "out", "train")
    (tmp_path / "out").rename(tmp_path / "moved")
    moved = load_pairs(tmp_path / "moved")
    assert (facts(moved), contents(moved)) == (facts(expected), contents(expected))
    older = load_pairs(as_written_before(tmp_path / "moved", tmp_path / "older"))
    assert (facts(older), contents(older)) == (facts(expected), contents(expected))


def as_written_before(folder: Path, out: Path) -> Path:
    """JSON lines with paths relative to the folder, images in a tar, generations in descending order of score."""
    out.mkdir()
    inner = lambda text: f"images/{Path(text).name}" if text.startswith("/") else text  # noqa: E731
    lines = []
    for item in json.loads((folder / "train.json").read_text()):
        last = len(item["scores"]) - 1
        turned = {key: item[key][::-1] for key in ("scores", "generation_ids", "models")}
        turned["pairs"] = [[last - at for at in pair] for pair in item["pairs"]]
        generations = [inner(text) for text in item["generations"][::-1]]
        lines.append(json.dumps({**item, **turned, "input": inner(item["input"]), "generations": generations}))
    (out / "train.jsonl").write_text("\n".join(lines))
    with tarfile.open(out / "train.tar", "w") as tar:
        tar.add(folder / "images", "images")
    return out


# ---- as CycleReward's own reader takes it (hjbahng/cyclereward, dataset/dataset.py) --------------------------------


def cyclereward_s_pairs(folder: Path, split: str, similar: float, negative: float) -> set[tuple]:
    """(input, better, worse) as that reader's rule makes them, its fault included: of two generations it looks at the
    scores of the first and the second listed; where the first has the lower one, all is well, and where it has the
    higher one, it takes the wrong side and asks the wrong score if it is too poor."""
    found = set()
    for item in json.loads((folder / f"{split}.json").read_text()):
        captions = item["input"].endswith(".png")
        opened = [Image.open(path) for path in ([item["input"]] if captions else item["generations"])]
        assert all(image.size == (16, 16) for image in opened)
        for first, second in itertools.combinations(zip(item["generations"], item["scores"], strict=True), 2):
            (one, low), (other, high) = first, second
            if one.strip().lower() == other.strip().lower() or abs(low - high) < similar or low == high:
                continue
            if low < high and captions and low <= negative:
                found.add((item["id"], one.strip(), other.strip()))
            if low < high and not captions and high >= negative:
                found.add((item["id"], other.strip(), one.strip()))
            if low > high and captions and high >= negative:
                found.add((item["id"], one.strip(), other.strip()))
            if low > high and not captions and high <= negative:
                found.add((item["id"], other.strip(), one.strip()))
    return found


def ours(folder: Path, split: str) -> set[tuple]:
    items = json.loads((folder / f"{split}.json").read_text())
    return {(item["id"], *(item["generations"][at] for at in pair)) for item in items for pair in item["pairs"]}


def thresholds(folder: Path) -> tuple[float, float]:
    """Those that the README names."""
    found = re.search(r"--threshold_similar (\S+) --threshold_negative ([-.\d]+)`", (folder / "README.md").read_text())
    return float(found[1]), float(found[2])


def inverted(found: set[tuple], expected: set[tuple]) -> set[tuple]:
    return {(id_, worse, better) for id_, better, worse in found} & expected


@CYCLES
@pytest.mark.parametrize("higher_is_better", [False, True])
def test_cyclereward_s_reader_finds_all_our_pairs_and_inverts_none(
    tmp_path, own_cache, monkeypatch, cycle, higher_is_better
):
    monkeypatch.setitem(make_run.__globals__["METRICS"], cycle, ("made-up", higher_is_better))
    run = make_run(tmp_path / "run", cycle, inputs=25, pairs={"min_margin": 0.005, "poor_chosen": None})
    folder = tmp_path / "out"
    export(run, "cycleprefdb", folder)
    monkeypatch.chdir(tmp_path)
    defaults, all_of_ours = (0.005, 0.7 if cycle == "i2t2i" else 0.4), thresholds(folder)
    readme = (folder / "README.md").read_text()
    for split, name in FILES.items():
        expected = ours(folder, name)
        assert len(expected) == len(load_pairs(run, split))
        assert {(id_, better, worse) for id_, better, worse in expected} <= cyclereward_s_pairs(
            folder, name, *all_of_ours
        )
        for limits in (defaults, all_of_ours, (0.0, all_of_ours[1])):
            assert not inverted(cyclereward_s_pairs(folder, name, *limits), expected)
        found = cyclereward_s_pairs(folder, name, *defaults)
        assert f"| {name}.json | {len(found)} | {len(found & expected)} | {len(expected)} |" in readme
    assert ("is better the" in readme) == (higher_is_better == (cycle == "i2t2i"))


@CYCLES
def test_in_descending_order_that_reader_would_invert_pairs(runs, tmp_path, cycle):
    """What the order is for; and that the rule above has the fault."""
    export(runs[cycle], "cycleprefdb", tmp_path / "out", "train")
    expected, path = ours(tmp_path / "out", "train"), tmp_path / "out" / "train.json"
    items = json.loads(path.read_text())
    path.write_text(
        json.dumps([{**i, "generations": i["generations"][::-1], "scores": i["scores"][::-1]} for i in items])
    )
    found = cyclereward_s_pairs(tmp_path / "out", "train", 0.005, 0.2 if cycle == "i2t2i" else 0.7)
    assert inverted(found, expected)
    assert not found & expected


def test_pairs_of_a_metric_that_reader_takes_the_other_way_come_back_with_scores_turned(
    tmp_path, own_cache, monkeypatch
):
    monkeypatch.setitem(make_run.__globals__["METRICS"], "i2t2i", ("dinov2", True))
    run = make_run(tmp_path / "run", "i2t2i", inputs=12)
    export(run, "cycleprefdb", tmp_path / "out", "train")
    for built, read in (({}, {}), ({"min_margin": 0.01, "poor_chosen": 0.3}, {"min_margin": 0.01, "poor_chosen": 0.7})):
        expected, found = facts(load_pairs(run, **built)), facts(load_pairs(tmp_path / "out", **read))
        for row in expected:
            row.update({name: pytest.approx(1 - row[name], abs=1e-6) for name in ("chosen_score", "rejected_score")})
            row["margin"] = pytest.approx(row["margin"], abs=1e-12)
        assert found == expected


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
        ([{**T2I, "generation_ids": list("abc"), "pairs": [[0, 7]]}], r"\[0, 7\] is not a pair of its"),
        ([{**T2I, "generation_ids": list("abc"), "pairs": [3]}], "3 is not a pair of its"),
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
    with pytest.raises(FilterError, match=r"needs the model of each candidate, but split 'train' of .* does not name"):
        load_pairs(folder([T2I]), balance_by_model=True)
    with pytest.raises(LoadError, match="has no split 'test': choose from train"):
        load_pairs(tmp_path, "test")
    Path(tmp_path / "train.jsonl").write_text("{no")
    with pytest.raises(LoadError, match=r"train.jsonl is not JSONL"):
        load_pairs(tmp_path)
