"""Each layout, written as its documentation says, is known by its columns and gives the judgements that are in it."""

import io
import json
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))
from made_run import make_run

from cyclepref.builder.common.images import UnreadableImage
from cyclepref.builder.exports.export import export
from cyclepref.builder.preferences.layouts.detect import NAMES, open_judged
from cyclepref.builder.preferences.layouts.items import JudgedError, Picture
from cyclepref.builder.preferences.layouts.rows import open_rows
from cyclepref.builder.preferences.rankings import LoadError


def png(level: int) -> bytes:
    """A picture whose grey tells it from others."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (level, level, level)).save(buffer, "PNG")
    return buffer.getvalue()


def level(picture: Picture) -> int:
    return picture.open()[0].getpixel((0, 0))[0]


def pictures(folder: Path, names: list[str]) -> None:
    for at, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(png(10 * (at + 1)))


def write_json(path: Path, rows: list) -> Path:
    path.write_text(json.dumps(rows))
    return path


def write_parquet(path: Path, rows: list[dict]) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


def test_imagereward_rankings_become_pairs_and_equal_ranks_ties(tmp_path):
    pictures(tmp_path, ["images/a.png", "images/b.png", "images/c.png"])
    row = {"id": "004-1", "prompt": "a fox", "generations": ["images/a.png", "images/b.png", "images/c.png"]}
    write_json(tmp_path / "test.json", [{**row, "ranking": [2, 1, 2]}])
    layout = open_judged(str(tmp_path))
    [item] = layout
    assert (layout.name, layout.split, len(layout), item.name, item.shared) == (
        "imagereward", "test", 1, "004-1", "a fox",
    )  # fmt: skip
    assert sorted(item.pairs) == [(1, 0), (1, 2)]
    assert (item.ties, item.margins, [level(each) for each in item.candidates]) == (1, [1, 1], [10, 20, 30])


def test_imagerewarddb_has_a_row_an_image_and_ratings(tmp_path):
    pictures(tmp_path, ["images/test/a.webp", "images/test/b.webp", "images/test/c.webp"])
    about = {"classification": "People", "image_amount_in_total": 2}
    rows = [
        {"image_path": "images/test/a.webp", "prompt_id": "1-1", "prompt": "x", "rank": 2, "overall_rating": 3},
        {"image_path": "images/test/b.webp", "prompt_id": "1-1", "prompt": "x", "rank": 1, "overall_rating": 6},
        {"image_path": "images/test/c.webp", "prompt_id": "1-2", "prompt": "y", "rank": 1, "overall_rating": 5},
    ]
    write_parquet(tmp_path / "metadata-test.parquet", [row | about for row in rows])
    layout = open_judged(str(tmp_path))
    first, second = layout
    assert (layout.name, layout.scores) == ("imagerewarddb", "overall rating")
    assert (first.name, first.scores, first.pairs, level(first.candidates[1])) == ("1-1", [3, 6], [(1, 0)], 20)
    assert (second.shared, second.pairs) == ("y", [])


def test_hpdv2_reads_mean_ranks_and_preferences_with_images_in_a_folder_beside(tmp_path):
    pictures(tmp_path / "test", ["a.jpg", "b.jpg"])
    write_json(tmp_path / "test.json", [{"prompt": "a fox", "image_path": ["a.jpg", "b.jpg"], "rank": [1.4, 0.2]}])
    [ranked] = open_judged(str(tmp_path))
    assert (ranked.pairs, ranked.margins) == ([(1, 0)], [pytest.approx(1.2)])
    assert level(ranked.candidates[1]) == 20
    write_json(tmp_path / "train.json", [{"prompt": "x", "file_path": ["a", "b"], "human_preference": [0, 1]}])
    [preferred] = open_judged(str(tmp_path), "train")
    assert (preferred.pairs, preferred.margins) == ([(1, 0)], None)


def test_hpdv3_prefers_path1_and_knows_models_and_confidence(tmp_path):
    pictures(tmp_path, ["images/x.png", "images/y.png"])
    row = {"prompt": "a fox", "path1": "images/y.png", "path2": "images/x.png", "confidence": 0.9}
    write_json(tmp_path / "test.json", [{**row, "model1": "flux", "model2": "glide"}])
    [item] = open_judged(f"hpdv3:{tmp_path}")
    assert (item.pairs, item.margins, item.models) == ([(0, 1)], [0.9], ["flux", "glide"])
    assert [level(each) for each in item.candidates] == [20, 10]


def test_pickapic_labels_decide_ties_are_counted_and_unlabelled_rows_have_no_pair(tmp_path):
    row = {"caption": "a fox", "jpg_0": png(1), "jpg_1": png(2), "model_0": "sd", "model_1": "xl"}
    labels = [(0.0, 1.0, True), (0.5, 0.5, True), (1.0, 0.0, False)]
    rows = [{**row, "label_0": a, "label_1": b, "has_label": known} for a, b, known in labels]
    write_parquet(tmp_path / "test-00000-of-00001.parquet", rows)
    layout = open_judged(str(tmp_path))
    found = list(layout)
    assert (layout.name, len(layout)) == ("pickapic", 3)
    assert [(item.pairs, item.ties) for item in found] == [([(1, 0)], 0), ([], 1), ([], 0)]
    assert found[0].models == ["sd", "xl"]


@pytest.mark.parametrize("packed", [True, False])
def test_rlhfv_prefers_the_chosen_answer_packed_as_json_or_in_columns(tmp_path, packed):
    said = {"question": "What is it?", "chosen": "A fox.", "rejected": "A cat."}
    row = {"image": {"bytes": png(7), "path": "x.png"}, "idx": 3}
    file = write_parquet(tmp_path / "RLHF-V.parquet", [{**row, **({"text": json.dumps(said)} if packed else said)}])
    [item] = open_judged(str(file))
    assert (item.kind, item.name, item.candidates, item.pairs) == ("text", "3", ["A fox.", "A cat."], [(0, 1)])
    assert level(item.shared) == 7


def test_detailcaps_pairs_captions_by_their_scores_and_keeps_these(tmp_path):
    captions = {"CogVLM": "a red fox", "ShareCaptioner": "a fox", "LLaVA_v15": "a cat"}
    row = {"image": "coco/1.jpg", "source": "COCO", "binary": png(9), **captions, "GT_Caption_GPT4O": "a red fox"}
    marks = {"CogVLM": 4, "ShareCaptioner": 4, "LLaVA_v15": 1.5}
    write_parquet(tmp_path / "DetailCaps-4870.parquet", [{**row, "GPT4_Eval": json.dumps(marks)}])
    layout = open_judged(str(tmp_path))
    [item] = layout
    assert (layout.scores, item.models) == ("the dataset's scores", ["CogVLM", "LLaVA_v15", "ShareCaptioner"])
    assert (item.scores, item.pairs, item.ties) == ([4.0, 1.5, 4.0], [(0, 1), (2, 1)], 1)


def test_captions_with_anybodys_scores_can_be_written_plainly(tmp_path):
    pictures(tmp_path, ["a.png"])
    (tmp_path / "mine.jsonl").write_text('{"image": "a.png", "captions": ["x", "y"], "scores": [1, 2]}\n\n')
    [item] = open_judged(str(tmp_path / "mine.jsonl"))
    assert (item.pairs, item.models, level(item.shared)) == ([(1, 0)], ["", ""], 10)


@pytest.mark.parametrize("format_name", ["imagereward", "hpdv3", "diffusion-dpo", "cycleprefdb"])
def test_what_we_export_is_read_back_with_the_same_winners(tmp_path, format_name):
    run = make_run(tmp_path / "run", "t2i2t", inputs=12, samples=1)
    export(str(run), format_name, str(tmp_path / "out"), split="train")

    def winners(layout) -> set:
        return {
            (item.shared, *(item.candidates[at].open()[0].tobytes() for at in pair))
            for item in layout
            for pair in item.pairs
        }

    ours = open_judged(str(run), "train")
    assert ours.scores == "cycle score"
    assert winners(open_judged(str(tmp_path / "out"), "train")) == winners(ours)
    (tmp_path / "out").rename(tmp_path / "moved")  # some of them name their images by absolute paths
    assert winners(open_judged(str(tmp_path / "moved"), "train")) == winners(ours)


def test_cycleprefdb_is_known_whatever_its_splits_are(tmp_path):
    run = make_run(tmp_path / "run", "t2i2t", inputs=20, samples=1)
    export(str(run), "cycleprefdb", str(tmp_path / "out"))
    (tmp_path / "out" / "test.json").unlink()
    assert open_judged(str(tmp_path / "out"), "train").name == "cyclepref"
    with pytest.raises(LoadError, match="no split 'test'"):
        open_judged(str(tmp_path / "out"))


def test_distances_are_turned_so_that_larger_scores_are_better(tmp_path):
    for item in open_judged(str(make_run(tmp_path / "run", "i2t2i", inputs=10)), "train"):
        assert all(item.scores[better] > item.scores[worse] for better, worse in item.pairs)


def test_a_json_list_is_read_in_pieces_that_may_end_anywhere(tmp_path, monkeypatch):
    monkeypatch.setattr("cyclepref.builder.preferences.layouts.rows.CHUNK", 3)
    rows = [{"prompt": f'ä \\ " ] {at}', "n": at} for at in range(5)]
    assert list(open_rows(str(write_json(tmp_path / "x.json", rows)), None)) == rows
    (tmp_path / "cut.json").write_text('[{"a": 1}, {"b"')
    with pytest.raises(JudgedError, match=r"cut\.json cannot be read as json"):
        list(open_rows(str(tmp_path / "cut.json"), None))


def test_what_is_no_layout_lists_those_that_are(tmp_path):
    file = write_json(tmp_path / "odd.json", [{"a": 1, "b": 2}])
    with pytest.raises(JudgedError, match=f"the keys a, b.*{', '.join(NAMES)}"):
        open_judged(str(file))
    with pytest.raises(
        JudgedError, match=r"names the layout 'imagerewrd'\. Choose from: cyclepref, imagereward, imagerewarddb"
    ):
        open_judged(f"imagerewrd:{file}")
    with pytest.raises(JudgedError, match="is not in the layout hpdv3"):
        open_judged(f"hpdv3:{file}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[]", "is empty"),
        ('{"a": 1}', "not a list of objects"),
        ("[1]", "not a list of objects"),
        ("[{", "cannot be read"),
    ],
)
def test_files_without_rows_say_so(tmp_path, content, message):
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(JudgedError, match=message):
        open_judged(str(tmp_path / "x.json"))


def test_a_missing_split_lists_those_there_are(tmp_path):
    for name in ("train", "validation"):
        write_json(tmp_path / f"{name}.json", [{"prompt": "x", "path1": "a", "path2": "b"}])
    with pytest.raises(JudgedError, match=r"no split 'test'. Choose with --split from: train, validation"):
        open_judged(str(tmp_path))
    assert open_judged(str(tmp_path), "train").split == "train"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": "x", "generations": ["a", "b"], "ranking": [1]}, "input 1: needs generations and ranking"),
        ({"prompt": "x", "generations": ["a"], "ranking": [None]}, "input 1: needs generations and ranking"),
        ({"prompt": "x", "generations": ["a"], "ranking": [float("inf")]}, "lists of one length, the second of finite"),
        (
            {"caption": "x", "jpg_0": "a", "jpg_1": "b", "label_0": 1, "label_1": float("nan")},
            "input 1: label_0 and label_1 must be finite numbers",
        ),
        ({"prompt": " ", "generations": ["a"], "ranking": [1]}, "prompt: must be a text that is not empty"),
        ({"prompt": "x", "generations": [3], "ranking": [1]}, "an image must be bytes or a path, got int"),
    ],
)
def test_a_broken_row_is_named(tmp_path, row, message):
    layout = open_judged(str(write_json(tmp_path / "test.json", [row])))
    with pytest.raises(JudgedError, match=message):
        list(layout)


def test_a_row_cannot_name_a_file_from_elsewhere(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").write_bytes(png(1))
    row = {"prompt": "x", "path1": "../secret.png", "path2": str(tmp_path / "secret.png")}
    [item] = open_judged(str(write_json(tmp_path / "data" / "test.json", [row])))
    for candidate in item.candidates:
        with pytest.raises(UnreadableImage, match="outside of"):
            candidate.open()
