"""A sampled token comes from the model's own distribution, and from its row's seed alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.generation import TopPLogitsWarper

from cyclepref.builder.models import sampling
from cyclepref.builder.models.sampling import BLOCK, LIKELIEST, Sampling, draw, nucleus
from cyclepref.schemas.specs import CaptionerSpec

# The 99.99th percentile of chi-square by degrees of freedom; the seeds are fixed, so a test cannot fail by chance.
CHI_SQUARE = {4: 23.5, 9: 33.7}


def tokens(logits: torch.Tensor, seeds: list[int], steps: int = 1, temperature: float = 1.0, top_p: float = 1.0):
    """The tokens (rows, steps) that are drawn when every step has the same logits (rows, words)."""
    sampler = Sampling(seeds, steps, temperature, top_p)
    drawn = [sampler(torch.zeros(len(seeds), 1), logits.clone()).argmax(-1) for _ in range(steps)]
    return torch.stack(drawn, dim=1)


def chi_square(drawn: torch.Tensor, expected: torch.Tensor) -> float:
    """How far counts of words are from their expected shares (words,)."""
    counts = torch.bincount(drawn.flatten(), minlength=len(expected))
    wanted = expected * drawn.numel()
    return float(((counts - wanted) ** 2 / wanted).sum())


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_tokens_are_drawn_from_the_softmax_of_the_logits_over_the_temperature(temperature):
    logits = torch.tensor([0.0, 1.0, 2.0, -1.0, 0.5])
    over_rows = tokens(logits.expand(4000, 5), list(range(4000)), 1, temperature)
    over_steps = tokens(logits.expand(2, 5), [1, 2], 2000, temperature)
    expected = (logits / temperature).softmax(-1)
    assert chi_square(over_rows, expected) < CHI_SQUARE[4]
    assert chi_square(over_steps, expected) < CHI_SQUARE[4]


@pytest.mark.parametrize("words", [BLOCK * 3, BLOCK * 3 + 100])
def test_words_of_every_block_are_drawn_as_often_as_their_share(words):
    logits = torch.linspace(-2, 2, words)
    drawn = tokens(logits.expand(2, words), [3, 4], 4000)
    group = torch.arange(words) * 10 // words
    expected = torch.zeros(10).scatter_add(0, group, logits.softmax(-1))
    assert chi_square(group[drawn], expected) < CHI_SQUARE[9]


def test_successive_tokens_of_a_row_are_independent():
    drawn = tokens(torch.zeros(2000, 2), list(range(2000)), 2)
    pairs = drawn[:, 0] * 2 + drawn[:, 1]
    assert (torch.bincount(pairs, minlength=4) - 500).abs().max() < 80, "four standard deviations"


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 3 * BLOCK), st.integers(0, 2**63 - 1), st.floats(0.1, 5), st.sampled_from([0.2, 0.9, 1.0]))
def test_a_row_does_not_depend_on_the_others_or_on_its_place(words, seed, temperature, top_p):
    logits = torch.randn(4, words, generator=torch.Generator().manual_seed(seed % 1000)) * 4
    seeds = [seed, 1, 2, seed]
    together = tokens(logits, seeds, 3, temperature, top_p)
    alone = [tokens(logits[at : at + 1], seeds[at : at + 1], 3, temperature, top_p)[0] for at in range(4)]
    backwards = tokens(logits.flip(0), seeds[::-1], 3, temperature, top_p).flip(0)
    assert together.tolist() == torch.stack(alone).tolist() == backwards.tolist()


def test_a_token_does_not_depend_on_how_many_may_follow():
    logits = torch.zeros(2, 1000)
    assert tokens(logits, [5, 6], 3).tolist() == tokens(logits, [5, 6], 50)[:, :3].tolist()


@pytest.mark.parametrize("likeliest", [4, LIKELIEST])
@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_the_nucleus_is_that_of_transformers(monkeypatch, likeliest, top_p):
    monkeypatch.setattr(sampling, "LIKELIEST", likeliest)  # few: some rows must be sorted whole, and others not
    logits = torch.randn(20, 700, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 9, 20)[:, None]
    theirs = TopPLogitsWarper(top_p)(None, logits).isfinite()
    assert (nucleus(logits.softmax(-1), top_p) > 0).tolist() == theirs.tolist()


def test_words_as_likely_as_the_last_of_the_nucleus_are_in_it():
    kept = nucleus(torch.tensor([[0.2, 0.4, 0.2, 0.1, 0.1]]), 0.5)
    assert kept.tolist() == torch.tensor([[0.2, 0.4, 0.2, 0.0, 0.0]]).tolist()


@pytest.mark.parametrize("number", [0.0, 0.5, 1 - 2**-53])
def test_a_word_that_is_ruled_out_is_never_drawn(number):
    logits = torch.full((1, 2 * BLOCK + 10), -torch.inf)
    logits[0, [7, BLOCK + 3]] = torch.tensor([0.0, -30.0])
    assert draw(logits.softmax(-1), torch.tensor([number], dtype=torch.float64)).item() in (7, BLOCK + 3)


def test_the_ends_of_the_range_are_the_first_and_the_last_word():
    shares = torch.full((2, BLOCK + 1), 1 / (BLOCK + 1))
    assert draw(shares, torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)).tolist() == [0, BLOCK]


def test_how_tokens_are_drawn_is_part_of_a_sampled_captioners_identity_alone():
    """Rows that an earlier version sampled are made again, and greedy ones are reused."""
    greedy = CaptionerSpec(name="c", repo="r", prompt_style="none")
    assert "sampling" not in greedy.identity()
    assert greedy.model_copy(update={"temperature": 1.0}).identity()["sampling"] == 2
