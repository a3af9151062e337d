"""A reward model of a real, tiny architecture on judged pairs: what is counted, what is refused, what is drawn."""

import io
import json
import math
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel, CLIPProcessor

sys.path.insert(0, str(Path(__file__).parents[2]))
from made_run import make_run
from plain_colours import COLOURS, caption, picture
from transformers import AutoProcessor, CLIPImageProcessor

from cyclepref.builder.common.images import content_id
from cyclepref.builder.exports.export import export
from cyclepref.builder.preferences.layouts.as_rankings import open_layout
from cyclepref.builder.preferences.load import open_pairs
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.evaluation.decoded import Shown
from cyclepref.builder.reward.evaluation.draw import draw
from cyclepref.builder.reward.evaluation.errors import EvaluationError, LeakError
from cyclepref.builder.reward.evaluation.evaluate import evaluate
from cyclepref.builder.reward.evaluation.judges import make_judges
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.training.seen import (
    NOT_SAID,
    NOT_SAID_BEFORE,
    TRAIN_INPUTS_FILE,
    Seen,
    ids_of,
    read_seen,
    write_seen,
)

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def model(captioner):
    torch.manual_seed(0)
    model = RewardModel.from_captioner(captioner).eval()
    torch.nn.init.normal_(model.head[-1].weight)
    return model


@pytest.fixture
def judged(tmp_path):
    """Pictures of a colour with a right and a wrong caption each, in the plain layout."""
    rows = []
    for number in range(12):
        colour, other = list(COLOURS)[number % 4], list(COLOURS)[(number + 1) % 4]
        picture(colour, number).save(tmp_path / f"{number}.png")
        rows.append({"image": f"{number}.png", "captions": [caption(other), caption(colour)], "scores": [0.2, 0.9]})
    (tmp_path / "test.json").write_text(json.dumps(rows))
    return tmp_path


def test_all_judges_see_the_same_pairs_and_the_reward_is_held_against_each(model, judged, tmp_path):
    result = evaluate(model, tmp_path, [str(judged)], against=("length", "random"))
    [entry] = result["datasets"]
    assert (entry["layout"], entry["pairs"], entry["inputs"], entry["candidates"]) == ("detailcaps", 12, 12, "text")
    assert list(entry["judges"]) == ["reward", "length", "random"]
    rewards = [
        model.score(images=judged / f"{n}.png", texts=json.loads((judged / "test.json").read_text())[n]["captions"])
        for n in range(12)
    ]
    right = sum((good > bad) + 0.5 * (good == bad) for bad, good in rewards)
    assert entry["judges"]["reward"]["accuracy"] == pytest.approx(right / 12)
    length = entry["judges"]["length"]
    assert (length["accuracy"], length["equal_scores"]) == (0.5, 12)
    assert length["gain"]["mean"] == pytest.approx(right / 12 - 0.5)
    assert entry["best_of_n"]["curves"]["best possible"][1]["score"] == pytest.approx(0.9)
    assert entry["leak"] == {"checked": False, "missing": NOT_SAID}
    json.dumps(result, allow_nan=False)


def test_results_are_a_function_of_the_rows_and_not_of_their_order(model, judged, tmp_path):
    before = evaluate(model, tmp_path, [str(judged)])["datasets"][0]
    rows = json.loads((judged / "test.json").read_text())
    (judged / "test.json").write_text(json.dumps(rows[::-1]))
    after = evaluate(model, tmp_path, [str(judged)])["datasets"][0]
    assert after["judges"]["random"]["accuracy"] == before["judges"]["random"]["accuracy"]
    assert after["judges"]["reward"]["low"] == pytest.approx(before["judges"]["reward"]["low"])


def test_images_that_do_not_decode_are_counted_and_named_and_the_rest_is_judged(model, judged, tmp_path):
    (judged / "3.png").write_bytes(b"no picture")
    (judged / "5.png").unlink()
    [entry] = evaluate(model, tmp_path, [str(judged)])["datasets"]
    lost = entry["unreadable"]
    assert (entry["pairs"], lost["images"], lost["pairs"]) == (10, 2, 2)
    assert "3.png" in lost["some"][0]
    assert "5.png" in lost["some"][1]
    for number in range(12):
        (judged / f"{number}.png").write_bytes(b"")
    with pytest.raises(EvaluationError, match=r"no pair to judge .0 ties, 12 lost with 12 images"):
        evaluate(model, tmp_path, [str(judged)])


def test_a_dataset_of_ties_has_no_pair(model, tmp_path):
    picture("red", 0).save(tmp_path / "a.png")
    row = {"prompt": "red", "generations": ["a.png", "a.png"], "ranking": [1, 1]}
    (tmp_path / "test.json").write_text(json.dumps([row]))
    with pytest.raises(EvaluationError, match=r"no pair to judge .1 ties"):
        evaluate(model, tmp_path, [str(tmp_path)])


def test_a_reward_that_is_no_number_is_refused(captioner, judged, tmp_path):
    broken = RewardModel.from_captioner(captioner).eval()
    with torch.no_grad():
        broken.head[-1].weight.fill_(math.nan)
    with pytest.raises(RewardError, match="is nan"):
        evaluate(broken, tmp_path, [str(judged)])


def test_cycle_scores_of_a_run_are_a_judge_and_agree_with_their_own_labels(model, tmp_path):
    run = make_run(tmp_path / "run", "t2i2t", inputs=20)
    [entry] = evaluate(model, tmp_path, [str(run)])["datasets"]
    assert (entry["split"], entry["candidates"]) == ("test", "image")
    assert entry["judges"]["cycle"]["accuracy"] == 1
    assert "by construction" in entry["notes"][0]
    assert {tuple(row["models"]) for row in entry["judges"]["reward"]["by_models"]} >= {("strong", "weak")}
    assert [row["pairs"] > 0 for row in entry["judges"]["reward"]["by_margin"]] == [True] * 4


def test_images_of_a_dataset_that_names_them_by_path_are_known_by_their_pixels(tmp_path):
    run = make_run(tmp_path / "run", "i2t2i", inputs=10)
    export(str(run), "cycleprefdb", str(tmp_path / "out"), split="train")
    lines = json.loads((tmp_path / "out" / "train.json").read_text())
    for line in lines:
        line["id"] = "named otherwise"
    (tmp_path / "out" / "train.json").write_text(json.dumps(lines))
    theirs = open_pairs(tmp_path / "out").read("train")
    assert ids_of(theirs) - {"named otherwise"} <= ids_of(open_pairs(run).read("train"))
    assert len(ids_of(theirs)) == len(lines) + 1


def test_images_in_a_layout_of_others_are_listed_by_their_pixels_alone(judged, tmp_path):
    write_seen(tmp_path, [open_layout(judged).read("test")])
    images = {content_id(Image.open(path).convert("RGB")) for path in judged.glob("*.png")}
    assert set((tmp_path / TRAIN_INPUTS_FILE).read_text().split()) <= images


def test_other_images_under_the_same_names_are_no_leak(model, tmp_path):
    for number, (folder, split) in enumerate([("trained", "train"), ("tested", "test")]):
        (tmp_path / folder).mkdir()
        picture("red", number).save(tmp_path / folder / "0.png")
        row = {"input": "0.png", "generations": [caption("red"), caption("blue")], "scores": [0.1, 0.9]}
        (tmp_path / folder / f"{split}.jsonl").write_text(json.dumps(row))
    (tmp_path / "model").mkdir()
    write_seen(tmp_path / "model", [open_pairs(tmp_path / "trained").read("train")])
    [entry] = evaluate(model, tmp_path / "model", [str(tmp_path / "tested")])["datasets"]
    assert (entry["leak"]["checked"], entry["leak"]["leaked"]) == (True, 0)


@pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
def test_inputs_that_the_model_was_trained_on_are_refused_with_their_count_and_ids(model, tmp_path, cycle):
    run, folder = make_run(tmp_path / "run", cycle, inputs=20), tmp_path / "model"
    folder.mkdir()
    source = open_pairs(run)
    write_seen(folder, [source.read("train")])
    [entry] = evaluate(model, folder, [str(run)])["datasets"]
    assert (entry["leak"]["checked"], entry["leak"]["leaked"]) == (True, 0)
    count = source.read("train").inputs.num_rows
    first = min(source.read("train").inputs["input_id"].to_pylist())
    with pytest.raises(LeakError, match=rf"{count} of the {count} inputs .*\({first}, .*--allow-leak"):
        evaluate(model, folder, [str(run)], split="train")
    [entry] = evaluate(model, folder, [str(run)], split="train", allow_leak=True)["datasets"]
    assert entry["leak"]["leaked"] == count
    assert len(entry["leak"]["some"]) == 5


def test_inputs_that_a_model_to_compare_with_was_trained_on_are_refused(model, tmp_path):
    run, other = make_run(tmp_path / "run", "i2t2i", inputs=20), f"reward:{tmp_path / 'other'}"
    model.save_pretrained(tmp_path / "other")
    write_seen(tmp_path / "other", [open_pairs(run).read("train")])
    with pytest.raises(LeakError, match=rf"are among those that {other} was trained on"):
        evaluate(model, tmp_path, [str(run)], against=(other,), split="train")
    [entry] = evaluate(model, tmp_path, [str(run)], against=(other,))["datasets"]
    assert entry["leak"] == {"checked": False, "missing": NOT_SAID}
    assert (entry["leaks_of_judges"][other]["checked"], entry["leaks_of_judges"][other]["leaked"]) == (True, 0)


def test_a_model_whose_start_does_not_say_what_it_saw_is_checked_for_the_rest_and_that_is_said(model, judged, tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / TRAIN_INPUTS_FILE).write_text("something else\n")
    (tmp_path / "model" / "metrics.json").write_text(json.dumps({"seen_before": "unknown"}))
    [entry] = evaluate(model, tmp_path / "model", [str(judged)])["datasets"]
    assert (entry["leak"]["checked"], entry["leak"]["missing"]) == (True, NOT_SAID_BEFORE)


def test_a_list_that_cannot_be_fetched_is_not_taken_for_one_that_is_not_there():
    assert read_seen("org/reward").missing == (
        "the list of what the model was trained on could not be fetched (OfflineModeIsEnabled)"
    )


def test_a_leak_is_found_by_content_in_another_layout(model, judged, tmp_path):
    folder, shown = tmp_path / "model", Image.open(judged / "4.png")
    folder.mkdir()
    (folder / TRAIN_INPUTS_FILE).write_text(content_id(shown.convert("RGB")) + "\n")
    with pytest.raises(LeakError, match="1 of the 12 inputs"):
        evaluate(model, folder, [str(judged)])


def test_without_a_list_the_training_datasets_tell_what_was_seen(tmp_path):
    run, folder = make_run(tmp_path / "run", "t2i2t", inputs=10), tmp_path / "model"
    folder.mkdir()
    assert read_seen(folder) == Seen(set(), NOT_SAID)
    (folder / "metrics.json").write_text(json.dumps({"datasets": [str(run)]}))
    assert read_seen(folder).ids >= set(open_pairs(run).read("train").inputs["input_id"].to_pylist())
    (folder / "metrics.json").write_text(json.dumps({"datasets": [str(run), str(tmp_path / "gone")]}))
    assert read_seen(folder) == Seen(set(), NOT_SAID)


def test_a_model_of_the_other_cycle_is_said(model, judged, tmp_path):
    (tmp_path / "metrics.json").write_text(json.dumps({"pairwise_accuracy": {"t2i2t": {}}}))
    [entry] = evaluate(model, tmp_path, [str(judged)])["datasets"]
    about_model, about_cycle = entry["notes"]
    assert about_model == "the model was trained on pairs of images alone, and these are of texts"
    assert about_cycle == "it has no cycle scores to compare with"


@pytest.fixture(scope="module")
def clip(captioner, tmp_path_factory) -> Path:
    """A tiny CLIP with random weights."""
    folder = tmp_path_factory.mktemp("clip")
    tokenizer = AutoProcessor.from_pretrained(captioner).tokenizer
    width = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {"vocab_size": len(tokenizer), "max_position_embeddings": 8, "eos_token_id": 3, **width}
    torch.manual_seed(0)
    config = CLIPConfig(text_config=text, vision_config={"image_size": 16, "patch_size": 8, **width}, projection_dim=8)
    CLIPModel(config).save_pretrained(folder)
    size = {"shortest_edge": 16}
    CLIPProcessor(CLIPImageProcessor(size=size, crop_size=16), tokenizer).save_pretrained(folder)
    return folder


def test_clip_scores_are_cosines_of_each_text_with_its_image(clip):
    [judge] = make_judges((f"clip:{clip}",), 2, CPU)
    red, blue = picture("red", 0), picture("blue", 1)
    inputs = [
        Shown("text", "a", "", red, ["a red", "of blue", "a red"], [2, 2, 2], [""] * 3, None, [], None),
        Shown("image", "b", "", "a red", [red, blue], [2, 2], [""] * 2, None, [], None),
    ]
    [[first, second, third], [fourth, _]] = judge.score(inputs)
    model, processor = CLIPModel.from_pretrained(clip), AutoProcessor.from_pretrained(clip)
    with torch.no_grad():
        out = model(**processor(text=["a red", "of blue"], images=[red], return_tensors="pt", padding=True))
    cosines = (out.logits_per_image / model.logit_scale.exp()).flatten().tolist()
    assert (first, second) == pytest.approx(tuple(cosines), abs=1e-5)
    assert first == pytest.approx(third)
    assert first == pytest.approx(fourth, abs=1e-5)


def test_texts_that_clip_cannot_read_whole_are_said(clip, caplog):
    [judge] = make_judges((f"clip:{clip}",), 2, CPU)
    judge.score([Shown("text", "a", "", picture("red", 0), ["red " * 30, "red"], [30, 1], [""] * 2, None, [], None)])
    assert "1 of 2 texts were cut to the 8 tokens" in caplog.text


def test_another_reward_model_can_be_compared_with(model, judged, tmp_path):
    model.save_pretrained(tmp_path / "other")
    [entry] = evaluate(model, tmp_path, [str(judged)], against=(f"reward:{tmp_path / 'other'}",))["datasets"]
    assert entry["judges"][f"reward:{tmp_path / 'other'}"]["gain"]["mean"] == 0


def test_an_unknown_name_lists_what_there_is(model, captioner):
    with pytest.raises(EvaluationError, match=r"'lenght' to compare with. Choose from: cycle, length, random, clip:"):
        make_judges(("lenght",), 2, CPU)
    with pytest.raises(EvaluationError, match=r"has no readable CLIP or SigLIP: the weights of .* do not fit"):
        make_judges((f"clip:{captioner}",), 2, CPU)
    with pytest.raises(EvaluationError, match="has no readable CLIP or SigLIP"):
        make_judges(("clip:/nowhere",), 2, CPU)


def test_the_picture_has_a_row_a_dataset(model, judged, tmp_path):
    result = evaluate(model, tmp_path, [str(judged)])
    heights = []
    for times in (1, 2):
        draw({"datasets": result["datasets"] * times}, tmp_path / "picture.png")
        heights.append(Image.open(io.BytesIO((tmp_path / "picture.png").read_bytes())).height)
    assert heights[1] > 1.8 * heights[0]
