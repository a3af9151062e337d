"""Several workers, started by Ray Train, make the model that one makes."""

import json

import pytest
import torch
from safetensors.torch import load_file

from cyclepref.builder.engine.plan import Cluster, Node
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.training.settings import HeadSettings, TrainRecipe
from cyclepref.builder.reward.training.train import train_reward
from cyclepref.builder.reward.training.workers import cores_each, train_with_workers


def recipe(captioner, **changes) -> TrainRecipe:
    settings = {"epochs": 2, "inputs_per_step": 5, "learning_rate": 1e-3, "fix_rate": 0.5, "prefix_cache": "float32"}
    return TrainRecipe(start=str(captioner), head=HeadSettings(head_sizes=(8,)), **settings, **changes)


@pytest.mark.slow
def test_two_workers_make_the_model_of_one(ray_local, build, captioner, tmp_path):
    sources = [str(build(cycle, train=7, validation=3)) for cycle in ("i2t2i", "t2i2t")]
    given = recipe(captioner)
    metrics = train_with_workers(sources, given, tmp_path / "two", 2)
    alone = train_reward(sources, given.start, tmp_path / "one", given).metrics
    assert (metrics["workers"], alone["workers"]) == (2, 1)
    one, two = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name in set(one) - {"head.3.bias"}:  # no difference of rewards depends on it
        torch.testing.assert_close(two[name], one[name], atol=5e-5, rtol=0, msg=name)
    assert metrics["pairwise_accuracy"] == json.loads(json.dumps(alone["pairwise_accuracy"]))
    assert [epoch["validation_accuracy"] for epoch in metrics["epochs"]] == [
        epoch["validation_accuracy"] for epoch in alone["epochs"]
    ]
    assert not (tmp_path / "two" / "work" / "ray").exists()


@pytest.mark.slow
def test_a_worker_s_error_is_the_command_s(ray_local, build, captioner, tmp_path):
    source = str(build("i2t2i", edit=lambda rows: rows["pairs"]["train"].clear(), train=2))
    with pytest.raises(RewardError, match="has no pairs in its train split"):
        train_with_workers([source], recipe(captioner), tmp_path / "out", 2)


def test_more_workers_than_cores_are_refused(ray_local, build, captioner, tmp_path):
    with pytest.raises(RewardError, match="64 needs as many CPU cores, but the cluster has 2: ask"):
        train_with_workers(["anything"], recipe(captioner), tmp_path / "out", 64)


@pytest.mark.parametrize(
    ("nodes", "workers", "cores"), [([8], 2, 4), ([3, 3], 3, 1), ([3, 3], 2, 3), ([2, 16], 4, 4), ([1], 1, 1)]
)
def test_workers_get_the_cores_that_lie_on_one_node(nodes, workers, cores):
    assert cores_each(Cluster.of([Node(cpus, 0) for cpus in nodes]), workers) == cores
