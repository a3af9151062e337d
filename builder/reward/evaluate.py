"""How well a reward model orders candidates."""

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import torch

from builder.reward.data import MODEL_INPUTS, Collate, PreferenceError, PreferenceSplit, load_preferences
from builder.reward.model import RewardModel

INPUTS_PER_BATCH = 16


@dataclass(frozen=True)
class PairwiseAccuracy:
    """The share of pairs, in [0, 1], whose chosen candidate has the larger reward; equal rewards count one half.

    `inputs` are those that the pairs come from.
    """

    cycle: str
    split: str
    inputs: int
    pairs: int
    accuracy: float


def pairwise_accuracy(model: RewardModel, dataset: str | Path, split: str) -> PairwiseAccuracy:
    """Pairwise accuracy of a model on one split of a preference dataset.

    Raises:
        PreferenceError: if the split has no pairs, or the dataset is broken (see `load_preferences`).
    """
    found = _find(dataset, split)
    return accuracy_of(found, input_rewards(model, found))


def candidate_rewards(model: RewardModel, dataset: str | Path, split: str) -> pa.Table:
    """The reward of every candidate of one split, in pairs or not: generation_id, reward; in the dataset's order.

    Raises:
        PreferenceError: if there is no such split, or the dataset is broken (see `load_preferences`).
    """
    found = _find(dataset, split)
    rewards = torch.cat(input_rewards(model, found)).double().numpy()
    return pa.table({"generation_id": pa.array(found.generation_ids, pa.string()), "reward": rewards})


def accuracy_of(split: PreferenceSplit, rewards: list[torch.Tensor]) -> PairwiseAccuracy:
    """As `pairwise_accuracy`, from the rewards that `input_rewards` gave."""
    if not split.pair_count:
        raise PreferenceError(
            f"{split} has no pairs to measure accuracy on: choose another split, or build more inputs"
        )
    differences = torch.cat(
        [
            reward[[chosen for chosen, _ in pairs]] - reward[[rejected for _, rejected in pairs]]
            for reward, pairs in zip(rewards, split.pairs, strict=True)
            if pairs
        ]
    )
    right = (differences > 0).sum().item() + 0.5 * (differences == 0).sum().item()
    return PairwiseAccuracy(split.cycle, split.name, len(split.with_pairs), len(differences), right / len(differences))


@torch.inference_mode()
def input_rewards(model: RewardModel, split: PreferenceSplit, collate: Collate | None = None) -> list[torch.Tensor]:
    """For each input of a split the rewards (candidates,) of its candidates, float on the CPU.

    `collate` may know pixel values of an earlier pass.
    """
    collate = collate or Collate(model.processor, model.max_text_length, cache_mb=0)
    rewards: list[torch.Tensor] = []
    training = model.training
    model.eval()
    for start in range(0, len(split), INPUTS_PER_BATCH):
        inputs = [split[index] for index in range(start, min(start + INPUTS_PER_BATCH, len(split)))]
        batch = collate(inputs)
        scored = model(**{name: batch[name].to(model.device) for name in MODEL_INPUTS}).float().cpu()
        rewards += scored.split([len(each.generation_ids) for each in inputs])
    model.train(training)
    return rewards


def _find(dataset: str | Path, split: str) -> PreferenceSplit:
    splits = load_preferences(dataset)
    if split not in splits:
        raise PreferenceError(f"{dataset} has no inputs in a split {split!r}. Choose from: {', '.join(splits)}")
    return splits[split]
