"""Losses against the formulas written out, number by number."""

import math

import pytest
import torch

from cyclepref.builder.reward.training import losses
from cyclepref.builder.reward.training.settings import AuxiliarySettings, TrainSettings
from cyclepref.builder.reward.training.step import counts, loss_of

CHOSEN, REJECTED = torch.tensor([2.0, -1.0, 0.5]), torch.tensor([1.0, 1.0, 0.5])
SIDES = list(zip(CHOSEN.tolist(), REJECTED.tolist(), strict=True))


def test_the_loss_is_the_negative_log_likelihood_of_bradley_and_terry():
    expected = [-math.log(math.exp(c) / (math.exp(c) + math.exp(r))) for c, r in SIDES]
    assert losses.bradley_terry(CHOSEN, REJECTED).tolist() == pytest.approx(expected, abs=1e-6)


def test_swapping_chosen_and_rejected_turns_the_gradient_round():
    first, second = torch.tensor([0.3], requires_grad=True), torch.tensor([-0.4], requires_grad=True)
    gradient = torch.autograd.grad(losses.bradley_terry(first, second).sum(), (first, second))
    swapped = torch.autograd.grad(losses.bradley_terry(second, first).sum(), (first, second))
    assert gradient[0] < 0 < gradient[1]
    assert swapped[0] > 0 > swapped[1]
    difference = losses.bradley_terry(second, first) - losses.bradley_terry(first, second)
    assert difference.item() == pytest.approx(0.7, abs=1e-6)  # log-odds: the difference of the rewards


def test_a_margin_asks_for_as_much_more():
    margin = torch.tensor([0.0, 0.2, 3.0])
    expected = [math.log(1 + math.exp(-(c - r - 0.5 * m))) for (c, r), m in zip(SIDES, margin.tolist(), strict=True)]
    assert losses.margin_bradley_terry(CHOSEN, REJECTED, margin, 0.5).tolist() == pytest.approx(expected, abs=1e-6)
    without = losses.margin_bradley_terry(CHOSEN, REJECTED, margin, 0.0)
    assert torch.equal(without, losses.bradley_terry(CHOSEN, REJECTED))


def test_the_mse_is_against_one_for_the_chosen_and_zero_for_the_rejected():
    chosen, rejected = torch.tensor([0.9, 0.2]), torch.tensor([0.1, 0.6])
    expected = [((0.9 - 1) ** 2 + (0.1 - 0) ** 2) / 2, ((0.2 - 1) ** 2 + (0.6 - 0) ** 2) / 2]
    assert losses.binary_mse(chosen, rejected).tolist() == pytest.approx(expected, abs=1e-6)


def test_the_combo_loss_is_the_text_loss_plus_lambda_times_the_image_loss():
    each, of_images = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([False, False, True])
    assert losses.combo(each, of_images, 0.5).item() == pytest.approx(2.0 + 0.5 * 10.0)
    assert losses.combo(each[:2], of_images[:2], 0.5).item() == pytest.approx(2.0)
    assert losses.combo(each[2:], of_images[2:], 0.5).item() == pytest.approx(5.0)
    assert losses.combo(each[:0], of_images[:0], 0.5).item() == 0.0


def test_shares_of_a_step_add_up_to_its_loss():
    each, of_images = torch.rand(7), torch.tensor([True, False, False, True, False, True, False])
    of = torch.tensor([4, 3])
    parts = [losses.combo(each[some], of_images[some], 0.3, of) for some in (slice(0, 1), slice(1, 5), slice(5, 7))]
    assert sum(parts).item() == pytest.approx(losses.combo(each, of_images, 0.3).item(), abs=1e-6)


def test_the_auxiliary_loss_is_the_cross_entropy_of_picking_the_original_prompt():
    rewards = torch.tensor([[0.9, 0.1, 0.4], [0.2, 0.8, float("-inf")]])
    temperature = 0.1
    first = [math.exp(r / temperature) for r in (0.9, 0.1, 0.4)]
    second = [math.exp(r / temperature) for r in (0.2, 0.8)]
    expected = [-math.log(first[0] / sum(first)), -math.log(second[0] / sum(second))]
    assert losses.prompt_classification(rewards, temperature).tolist() == pytest.approx(expected, abs=1e-5)


def test_a_step_adds_the_auxiliary_loss_by_its_weight_and_leaves_gaps_out():
    rewards = torch.tensor([0.7, 0.2, 0.5, 0.3], requires_grad=True)
    batch = {
        "chosen": torch.tensor([0]), "rejected": torch.tensor([1]), "margin": torch.tensor([0.1]),
        "of_images": torch.tensor([False]), "examples": torch.tensor([[0, 2, -1], [0, 2, 3]]),
    }  # fmt: skip
    settings = TrainSettings(loss="mse", auxiliary=AuxiliarySettings(weight=0.25, temperature=0.5))
    picked = [math.exp(0.7 / 0.5) / sum(math.exp(r / 0.5) for r in others) for others in ((0.7, 0.5), (0.7, 0.5, 0.3))]
    auxiliary = -sum(map(math.log, picked)) / 2
    expected = ((0.7 - 1) ** 2 + 0.2**2) / 2 + 0.25 * auxiliary
    loss = loss_of(rewards, batch, settings, counts(batch))
    assert loss.item() == pytest.approx(expected, abs=1e-6)
    assert torch.autograd.grad(loss, rewards)[0].isfinite().all()
