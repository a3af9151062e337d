import math

import pytest
import torch
from plain_colours import make_rows, write_dataset

from cyclepref.builder.common.images import decode
from cyclepref.builder.preferences.filters import Filters
from cyclepref.builder.preferences.rankings import LoadError
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.training.accuracy import candidate_rewards, pairwise_accuracy
from cyclepref.builder.reward.training.batches import Collate
from cyclepref.builder.reward.training.data import load_preferences
from cyclepref.builder.reward.training.step import TrainingView


@pytest.fixture(scope="module")
def model(captioner):
    torch.manual_seed(1)
    return RewardModel.from_captioner(captioner)


@pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
def test_no_pair_is_lost_or_counted_twice(build, cycle):
    path = build(cycle, train=5, validation=2, test=3)
    written = make_rows(cycle, 5, 2, 3)["pairs"]
    for name, split in load_preferences(path).items():
        found = []
        for each in split:
            ids = each.generation_ids
            found += [(ids[chosen], ids[rejected]) for chosen, rejected in each.pairs]
        assert sorted(found) == sorted((pair["chosen_id"], pair["rejected_id"]) for pair in written[name])
        assert split.pair_count == len(found) > 0
        assert split.cycle == cycle


def test_two_folders_of_one_name_are_two_datasets(tmp_path):
    found = []
    for run, inputs in (("first", 1), ("second", 2)):
        path = write_dataset(tmp_path / run / "dataset", "i2t2i", make_rows("i2t2i", inputs))
        found.append(len(load_preferences(path)["train"]))
    write_dataset(path, "i2t2i", make_rows("i2t2i", 3))
    assert [*found, len(load_preferences(path)["train"])] == [1, 2, 3]


@pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
def test_a_batch_scores_each_candidate_as_it_is_scored_alone(build, model, cycle):
    split = load_preferences(build(cycle, train=3))["train"]
    collate, reader = Collate(model.processor, model.max_text_length, cache_mb=1), TrainingView(model)
    for _ in range(2):  # the second time with cached pixels
        batch = collate([split[index] for index in range(3)])
        distinct = {picture.read() for index in range(3) for picture in split[index].images}
        assert len(batch["pixel_values"]) == len(distinct)
        single = [collate([split[index]]) for index in range(3)]
        alone = torch.cat([reader(**each) for each in single])
        torch.testing.assert_close(reader(**batch), alone, atol=1e-5, rtol=0)
    offsets = torch.tensor([0, 4, 8]).repeat_interleave(torch.tensor([len(each["chosen"]) for each in single]))
    assert torch.equal(batch["chosen"], torch.cat([each["chosen"] for each in single]) + offsets)
    assert torch.equal(batch["rejected"], torch.cat([each["rejected"] for each in single]) + offsets)
    assert batch["of_images"].all() == (cycle == "t2i2t")


def test_an_image_in_two_datasets_is_encoded_once(build, model):
    splits = [load_preferences(build("i2t2i", train=2))["train"] for _ in range(2)]
    batch = Collate(model.processor, 16, cache_mb=0)([splits[0][0], splits[1][0], splits[0][1]])
    assert batch["image_index"].tolist() == [0] * 8 + [1] * 4


def test_rewards_of_candidates_come_as_a_table(build, model):
    path = build("t2i2t", train=1, test=4)
    table = candidate_rewards(model, path, "test")
    rows = make_rows("t2i2t", 1, 0, 4)["rankings"]["test"]
    assert table["generation_id"].to_pylist() == [each["generation_id"] for row in rows for each in row["candidates"]]
    first = load_preferences(path)["test"][0]
    (shared,) = first.texts
    alone = model.score(images=[decode(picture.read()) for picture in first.images], texts=shared)
    assert table["reward"].to_pylist()[:4] == pytest.approx(alone, abs=1e-5)


def test_pairwise_accuracy_counts_pairs_whose_chosen_candidate_has_the_larger_reward(build, model):
    path = build("i2t2i", train=1, test=6)
    rewards = dict(zip(*candidate_rewards(model, path, "test").to_pydict().values(), strict=True))
    pairs = make_rows("i2t2i", 1, 0, 6)["pairs"]["test"]
    right = [rewards[pair["chosen_id"]] > rewards[pair["rejected_id"]] for pair in pairs]
    found = pairwise_accuracy(model, path, "test")
    assert found.accuracy == pytest.approx(sum(right) / len(right))
    assert (found.pairs, found.inputs, found.cycle, found.split) == (len(pairs), 6, "i2t2i", "test")


def test_a_model_that_tells_nothing_apart_has_accuracy_one_half(build, captioner):
    model = RewardModel.from_captioner(captioner)
    torch.nn.init.zeros_(model.head[-1].weight)
    assert pairwise_accuracy(model, build("i2t2i", train=3), "train").accuracy == 0.5


def _set(config, split, row, **values):
    def edit(rows):
        rows[config][split][row].update(values)

    return edit


def _candidate(score):
    def edit(rows):
        rows["rankings"]["train"][0]["candidates"][1]["score"] = score

    return edit


BROKEN = {
    "a NaN margin": (_set("pairs", "train", 0, margin=math.nan), "has the margin nan"),
    "a missing margin": (_set("pairs", "train", 0, margin=None), "has the margin None"),
    "an infinite score": (_candidate(math.inf), "a candidate has no score, or one that is not a finite number"),
    "a NaN score": (_candidate(math.nan), "a candidate has no score, or one that is not a finite number"),
    "an unknown candidate": (_set("pairs", "train", 1, rejected_id="nobody"), "name the candidate nobody as rejected"),
    "another input's candidate": (_set("pairs", "train", 0, rejected_id="i2t2i-1-0"), "candidates of two inputs"),
    "a pair twice": (lambda rows: rows["pairs"]["train"].append(rows["pairs"]["train"][0]), "were compared before"),
    "an input twice": (
        lambda rows: rows["rankings"]["train"].append(rows["rankings"]["train"][0]),
        "two candidates have the same generation_id",
    ),
    "a candidate twice": (
        lambda rows: rows["rankings"]["train"][0]["candidates"].append(rows["rankings"]["train"][0]["candidates"][0]),
        "two candidates have the same generation_id",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_dataset_is_refused(build, name):
    edit, message = BROKEN[name]
    with pytest.raises(LoadError, match=message):
        load_preferences(build("i2t2i", edit=edit, train=2))


def test_an_empty_dataset_is_refused(build, tmp_path):
    with pytest.raises(LoadError, match="is empty: it has no input in any split"):
        load_preferences(build("i2t2i", train=0))
    with pytest.raises(LoadError, match="there is no folder"):
        load_preferences(tmp_path / "nowhere")


def test_a_split_without_pairs_has_no_accuracy(build, model):
    path = build("i2t2i", edit=lambda rows: rows["pairs"]["test"].clear(), train=2, test=1)
    with pytest.raises(LoadError, match=r"split 'test' of .* has no pairs"):
        pairwise_accuracy(model, path, "test")
    assert len(candidate_rewards(model, path, "test")) == 4
    with pytest.raises(LoadError, match=r"no inputs in a split 'validation'. Choose from: train, test"):
        candidate_rewards(model, path, "validation")


def test_filters_leave_pairs_out(build):
    split = load_preferences(build("i2t2i", train=3), Filters(max_pairs_per_input=1))["train"]
    assert split.pair_count == len(split) == 3
