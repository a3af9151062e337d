"""How well a reward model orders candidates."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.training.batches import Collate
from cyclepref.builder.reward.training.data import PreferenceError, PreferenceSplit, load_preferences
from cyclepref.builder.reward.training.step import TrainingView

INPUTS_PER_BATCH = 16


@dataclass(frozen=True)
class PairwiseAccuracy:
    """The share of pairs, in [0, 1], whose chosen candidate has the larger reward; equal rewards count one half.

    `inputs` is the number of inputs with pairs.
    """

    cycle: str
    split: str
    inputs: int
    pairs: int
    accuracy: float


def pairwise_accuracy(model: RewardModel, dataset: str | Path, split: str) -> PairwiseAccuracy:
    """Pairwise accuracy of a model on one split of a preference dataset.

    Raises:
        PreferenceError: if the split has no pairs, or the dataset is inconsistent (see `load_preferences`).
    """
    found = _find(dataset, split)
    return accuracy_of(found, input_rewards(model, found))


def candidate_rewards(model: RewardModel, dataset: str | Path, split: str) -> pa.Table:
    """The reward of every candidate of one split, including those in no pair: generation_id, reward; in the dataset's
    order.

    Raises:
        PreferenceError: if there is no such split, or the dataset is inconsistent (see `load_preferences`).
    """
    found = _find(dataset, split)
    rewards = torch.cat(input_rewards(model, found)).double().numpy()
    return pa.table({"generation_id": pa.array(found.generation_ids, pa.string()), "reward": rewards})


def accuracy_of(split: PreferenceSplit, rewards: list[torch.Tensor]) -> PairwiseAccuracy:
    """As `pairwise_accuracy`, from the rewards of `input_rewards`."""
    if not split.pair_count:
        raise PreferenceError(
            f"{split} has no pairs to measure accuracy on: choose another split, or build more inputs"
        )
    right, pairs = right_of(split.pairs, rewards)
    return PairwiseAccuracy(split.cycle, split.name, len(split.with_pairs), pairs, right / pairs)


def right_of(pairs: Sequence[list[tuple[int, int]]], rewards: Sequence[torch.Tensor]) -> tuple[float, int]:
    """The number of pairs whose chosen candidate has the larger reward (equal rewards count one half), and the number
    of pairs."""
    right, count = 0.0, 0
    for places, reward in zip(pairs, rewards, strict=True):
        differences = [float(reward[chosen] - reward[rejected]) for chosen, rejected in places]
        right += sum(0.5 if difference == 0 else difference > 0 for difference in differences)
        count += len(places)
    return right, count


@torch.inference_mode()
def input_rewards(
    model: RewardModel,
    split: PreferenceSplit,
    read: tuple[TrainingView, Collate] | None = None,
    rows: Sequence[int] | None = None,
    tick: Callable[[int], None] = lambda done: None,
) -> list[torch.Tensor]:
    """For each input of a split (or of some `rows` of it) the rewards (candidates,) of its candidates, floats on the
    CPU.

    `read` may reuse results of an earlier pass or of frozen layers. `tick` is called with the number of inputs done.
    """
    rows = range(len(split)) if rows is None else rows
    reader, collate = read or (TrainingView(model), Collate(model.need_processor(), model.max_text_length, cache_mb=0))
    rewards: list[torch.Tensor] = []
    training = model.training
    model.eval()
    for start in range(0, len(rows), INPUTS_PER_BATCH):
        inputs = [split[row] for row in rows[start : start + INPUTS_PER_BATCH]]
        batch = {name: value.to(model.device) for name, value in collate(inputs).items()}
        scored = reader(**batch).float().cpu()
        rewards += scored.split([len(each.generation_ids) for each in inputs])
        tick(len(inputs))
    model.train(training)
    return rewards


def _find(dataset: str | Path, split: str) -> PreferenceSplit:
    splits = load_preferences(dataset)
    if split not in splits:
        raise PreferenceError(f"{dataset} has no inputs in a split {split!r}. Choose from: {', '.join(splits)}")
    return splits[split]
