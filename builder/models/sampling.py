"""Sampled decoding in which a row depends on its own seed alone, whatever the batch around it.

A token costs one random number a row, not one a row and word. Laid end to end, the words' probabilities fill the range
0 to 1, and the word on which the random number falls is drawn: the inverse of the cumulated distribution. Cumulated
are whole numbers, since a sum of floating-point numbers depends on its order, which a GPU does not promise.

`SAMPLING` in schemas/specs.py versions this.
"""

import torch
from transformers import LogitsProcessor

# A share of 1 as a whole number: finer than a float32 says it, and small enough for a float64 to hold every sum.
WHOLE = 2.0**50
# Neighbouring words that are summed before they are cumulated: a running sum is slow, a plain sum of a block is not.
BLOCK = 512
# The nucleus is looked for among so many words, the most likely ones, before all words are sorted.
LIKELIEST = 1024


class Sampling(LogitsProcessor):
    """Draws each row's next token from its logits, by numbers from one generator a row, and makes it the greedy choice.

    (transformers samples a batch from one global generator, which would make a row depend on its neighbours.)

    Args:
        seeds: one a row.
        steps: the most tokens that are drawn.
        temperature: above 0; logits are divided by it.
        top_p: above 0, to 1; see `nucleus`.
    """

    def __init__(self, seeds: list[int], steps: int, temperature: float, top_p: float):
        numbers = [torch.rand(steps, dtype=torch.float64, generator=_generator(seed)) for seed in seeds]
        self._numbers = torch.stack(numbers, dim=1)
        self._temperature, self._top_p = temperature, top_p
        self._step = 0

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Set the drawn word's logit to infinity in `scores`, (batch, vocabulary), which are this step's own."""
        self._numbers = self._numbers.to(scores.device)
        shares = (scores / self._temperature).softmax(-1)
        if self._top_p < 1:
            shares = nucleus(shares, self._top_p)
        drawn = draw(shares, self._numbers[self._step])
        self._step += 1
        return scores.scatter_(1, drawn[:, None], float("inf"))


def nucleus(shares: torch.Tensor, top_p: float) -> torch.Tensor:
    """Probabilities, shape (rows, words), without the words outside the nucleus: the fewest most likely words that have
    `top_p` together. Words as likely as the last of these are in it too, so that no order among equals decides."""
    cut, found = _cut(shares.topk(min(LIKELIEST, shares.shape[1])).values, top_p)
    if not bool(found.all()):
        wide = ~found
        cut[wide], _ = _cut(shares[wide].sort(descending=True).values, top_p)
    return shares.where(shares >= cut, 0)


def _cut(likeliest: torch.Tensor, top_p: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The least share in each row's nucleus (rows, 1), and whether the shares given, (rows, n) in descending order,
    hold `top_p` together (rows,)."""
    goal = round(top_p * WHOLE)
    held = _whole(likeliest).cumsum(-1)
    last = (held < goal).sum(-1, keepdim=True).clamp(max=likeliest.shape[1] - 1)
    return likeliest.gather(1, last), held[:, -1] >= goal


def draw(shares: torch.Tensor, numbers: torch.Tensor) -> torch.Tensor:
    """A word for each row of `shares`, (rows, words), each as likely as its share of the row's sum.

    Args:
        shares: float32, 0 or more, some above 0; about 1 in all.
        numbers: float64 of shape (rows,), random, from 0 to below 1.

    Returns:
        The words' places, int64, (rows,). One whose share is 0 is never drawn.
    """
    sums = _block_sums(shares)
    block, numbers = _fall(sums, numbers)
    places = block * BLOCK + torch.arange(BLOCK, device=shares.device)
    inside = shares.gather(1, places.clamp(max=shares.shape[1] - 1)).where(places < shares.shape[1], 0)
    within, _ = _fall(inside / sums.gather(1, block), numbers)
    return (block * BLOCK + within).clamp(max=shares.shape[1] - 1)[:, 0]


def _block_sums(shares: torch.Tensor) -> torch.Tensor:
    """The sum of every BLOCK neighbours, and of what is left of them at the end: (rows, blocks)."""
    full = shares.shape[1] // BLOCK * BLOCK
    sums = shares[:, :full].unflatten(1, (-1, BLOCK)).sum(-1) if full else shares[:, :0]
    return sums if full == shares.shape[1] else torch.cat([sums, shares[:, full:].sum(-1, keepdim=True)], dim=1)


def _fall(shares: torch.Tensor, numbers: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where in each row of shares, laid end to end, its number falls: the place (rows, 1), and how far into that
    place, from 0 to below 1 (rows,), which is random again."""
    widths = _whole(shares)
    ends = widths.cumsum(-1)
    at = (numbers * ends[:, -1])[:, None]
    place = (ends <= at.long()).sum(-1, keepdim=True).clamp(max=shares.shape[1] - 1)
    width = widths.gather(1, place)
    return place, ((at - (ends.gather(1, place) - width)) / width)[:, 0]


def _whole(shares: torch.Tensor) -> torch.Tensor:
    return (shares.double() * WHOLE).long()


def _generator(seed: int) -> torch.Generator:
    # On the CPU, so that the numbers are the same on every device.
    return torch.Generator("cpu").manual_seed(seed)
