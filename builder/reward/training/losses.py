"""The losses of a reward model's training. Rewards and losses are (pairs,), unless noted otherwise."""

from typing import NamedTuple

import torch
from torch.nn.functional import cross_entropy, logsigmoid


class Pairs(NamedTuple):
    """The rewards of some pairs, their margins (>= 0, in the units of the deciding score), and whether each compares
    images."""

    chosen: torch.Tensor
    rejected: torch.Tensor
    margin: torch.Tensor
    of_images: torch.Tensor


def bradley_terry(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """-log sigmoid(r_chosen - r_rejected): the negative log-likelihood under Bradley & Terry (1952); differences of
    rewards are log-odds. The loss of ImageReward (arXiv 2304.05977) and CycleReward (arXiv 2506.02095)."""
    return -logsigmoid(chosen - rejected)


def margin_bradley_terry(
    chosen: torch.Tensor, rejected: torch.Tensor, margin: torch.Tensor, weight: float
) -> torch.Tensor:
    """-log sigmoid(r_chosen - r_rejected - weight * margin): a pair with a larger margin needs a larger difference of
    rewards (Llama 2, arXiv 2307.09288, section 3.2.2, where the margin is from a human rating)."""
    return -logsigmoid(chosen - rejected - weight * margin)


def binary_mse(chosen: torch.Tensor, rejected: torch.Tensor) -> torch.Tensor:
    """((r_chosen - 1)^2 + r_rejected^2) / 2: Lee et al.'s regression on binary labels (arXiv 2302.12192), where
    a pair's label is 1 for its chosen candidate and 0 for the other. For rewards in [0, 1]."""
    return ((chosen - 1) ** 2 + rejected**2) / 2


def combo(
    losses: torch.Tensor, of_images: torch.Tensor, image_weight: float, counts: torch.Tensor | None = None
) -> torch.Tensor:
    """L_text + lambda * L_image, each the mean over its pairs (CycleReward-Combo); without pairs a term is 0.

    `counts` (2,) are the numbers of text and image pairs to divide by, if `losses` are only part of a step's.
    """
    if counts is None:
        counts = torch.stack([(~of_images).sum(), of_images.sum()])
    text, image = counts.clamp(min=1)
    weight = torch.where(of_images, image_weight / image, 1 / text)
    return (losses * weight).sum()


def prompt_classification(rewards: torch.Tensor, temperature: float) -> torch.Tensor:
    """Lee et al.'s auxiliary loss (arXiv 2302.12192): cross-entropy of picking the original prompt.

    `rewards` are (examples, 1 + perturbed): an image with its prompt, then with the perturbed ones, padded with -inf;
    the softmax is of rewards / temperature. Returns (examples,).
    """
    original = torch.zeros(len(rewards), dtype=torch.long, device=rewards.device)
    return cross_entropy(rewards / temperature, original, reduction="none")
