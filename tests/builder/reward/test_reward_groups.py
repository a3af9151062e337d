"""Best-of-n over folders and runs."""

import json

import pyarrow as pa
import pytest
import torch
from datasets import load_dataset
from PIL import Image
from plain_colours import COLOURS, caption, picture

from cyclepref.builder.common.images import encode, to_store
from cyclepref.builder.reward.best_of_n import best_of_groups, open_groups
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.kept import BestOfN
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.run.store import Store
from cyclepref.schemas.records import CANDIDATE, GENERATION, INPUT


@pytest.fixture(scope="module")
def model(captioner):
    torch.manual_seed(1)
    return RewardModel.from_captioner(captioner, head_sizes=[16, 4])


@pytest.fixture
def folder(tmp_path):
    """Four pictures for each of two prompts, in two folders, with metadata."""
    rows = []
    for prompt in ("red", "blue"):
        (tmp_path / prompt).mkdir()
        for number, colour in enumerate(COLOURS):
            name = f"{prompt}/{number}.png"
            picture(colour, number).save(tmp_path / name)
            rows.append({"file_name": name, "prompt": caption(prompt)})
    # U+2028 ends a line for some readers, not for JSON.
    rows[0]["note"] = "\u2028"
    (tmp_path / "metadata.jsonl").write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows))
    return tmp_path


def test_the_best_k_pictures_of_each_prompt_are_kept(folder, model):
    count, groups = open_groups(folder)
    found = list(best_of_groups(model, groups, k=2))
    assert count == len(found) == 2
    for each in found:
        name = each.name.split()[-1]
        ranking = model.rank(prompt=each.name, images=[folder / f"{name}/{n}.png" for n in range(4)])
        assert [choice.candidate for choice in each.kept] == [f"{name}/{at}.png" for at in ranking.order[:2]]
        assert [choice.reward for choice in each.kept] == pytest.approx(sorted(ranking.rewards)[::-1][:2], abs=1e-5)
        assert (each.of, each.mean) == (4, pytest.approx(sum(ranking.rewards) / 4, abs=1e-5))


def test_prompts_may_lie_beside_the_pictures(tmp_path, model):
    for number, colour in enumerate(COLOURS):
        picture(colour, number).save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(caption("red") + "\n")
    count, groups = open_groups(tmp_path)
    (found,) = best_of_groups(model, groups, k=9)
    assert (count, found.name, len(found.kept), found.of) == (1, caption("red"), 4, 4)


def test_what_was_kept_is_a_folder_that_datasets_and_best_of_n_open(folder, model, tmp_path):
    out = tmp_path / "best"
    written = BestOfN(out)
    kept = list(best_of_groups(model, open_groups(folder)[1], k=2))
    for each in kept:
        written.add(each)
    assert not (out / "metadata.jsonl").exists()
    written.close()
    rows = [json.loads(line) for line in (out / "metadata.jsonl").read_text().splitlines()]
    assert [(row["candidate"], row["rank"]) for row in rows] == [
        (choice.candidate, rank) for each in kept for rank, choice in enumerate(each.kept, 1)
    ]
    for row in rows:
        assert Image.open(out / row["file_name"]).tobytes() == Image.open(folder / row["candidate"]).tobytes()
    again = best_of_groups(model, open_groups(out)[1], k=1)
    assert sorted(each.name for each in again) == sorted(each.name for each in kept)
    found = load_dataset("imagefolder", data_dir=str(out), split="train")
    assert sorted(found["text"]) == sorted(row["text"] for row in rows)
    assert found[0]["image"].size == (16, 16)
    with pytest.raises(RewardError, match="must name a new or empty folder"):
        BestOfN(out)


def test_folders_without_what_is_needed_are_refused(folder, tmp_path, model):
    with pytest.raises(RewardError, match="k must be positive, got 0"):
        list(best_of_groups(model, open_groups(folder)[1], k=0))
    with pytest.raises(RewardError, match="no folder at"):
        open_groups(folder / "nothing")
    (folder / "empty").mkdir()
    with pytest.raises(RewardError, match="has no candidates"):
        open_groups(folder / "empty")
    with pytest.raises(RewardError, match=r"4 pictures have no prompt, '0.png' among them: write metadata.jsonl"):
        open_groups(folder / "red")
    for line, message in [
        ("no json", "line 1: not JSON"),
        ('{"file_name": "red/0.png"}', "line 1: not JSON with file_name and prompt"),
        ('{"file_name": "../secret.png", "prompt": "a"}', "line 1: '../secret.png' is not a picture here"),
        ('{"file_name": "red/0.png", "prompt": 3}', "its prompt is not a text"),
        ('{"file_name": "red/0.png", "prompt": "a"}', "has no prompt for 7 pictures, 'blue/0.png' among them"),
    ]:
        (folder / "metadata.jsonl").write_text(line)
        with pytest.raises(RewardError, match=message):
            open_groups(folder)


def test_a_runs_candidates_are_its_groups_and_equal_ones_count_once(tmp_path, model):
    """A run of captions, of which two captioners said the same and one said nothing."""
    store = Store(tmp_path)
    images = {f"input {n}": to_store(encode(picture(colour, n))) for n, colour in enumerate(("red", "blue"))}
    inputs = [{"input_id": name, "modality": "image", "image": image.data} for name, image in images.items()]
    candidates = [
        {"generation_id": f"{name} {n}", "input_id": name, "content_id": text or "none", "text": text, "model": "m"}
        for name in images
        for n, text in enumerate(["a picture of red", "blue", "blue", None])
    ]
    for rows in (candidates, inputs):
        for row in rows:
            row |= {key: None for key in (INPUT if rows is inputs else CANDIDATE).names if key not in row}
    made = [{name: row.get(name) for name in GENERATION.names} for row in candidates if row["text"]]
    store.write_part("inputs", pa.Table.from_pylist(inputs, schema=INPUT))
    store.write_part("generations", pa.Table.from_pylist(made, schema=GENERATION))
    rows = [{**row, "status": "ok" if row["text"] else "failed"} for row in candidates]
    store.write_view("candidates", pa.Table.from_pylist(rows, schema=CANDIDATE))

    count, groups = open_groups(tmp_path)
    found = list(best_of_groups(model, groups, k=1))
    assert count == len(found) == 2
    for each, colour in zip(found, ("red", "blue"), strict=True):
        ranking = model.rank_captions(
            image=picture(colour, list(images).index(each.name)), texts=["a picture of red", "blue"]
        )
        name, reward, captioner, text, _ = each.kept[0]
        assert captioner == "m"
        assert (name, text) == [(f"{each.name} 0", "a picture of red"), (f"{each.name} 1", "blue")][ranking.order[0]]
        assert reward == pytest.approx(max(ranking.rewards), abs=1e-5)
        assert each.of == 2
    written = BestOfN(tmp_path / "best")
    for each in best_of_groups(model, open_groups(tmp_path)[1], k=2):
        written.add(each)
    written.close()
    rows = load_dataset("imagefolder", data_dir=str(tmp_path / "best"), split="train")
    assert sorted(rows["text"]) == ["a picture of red"] * 2 + ["blue"] * 2
    assert len(list((tmp_path / "best").glob("*.png"))) == 2
