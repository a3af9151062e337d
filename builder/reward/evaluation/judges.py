"""The judges of candidates: the reward model, and the baselines that it is compared with."""

from collections.abc import Callable
from typing import Any, Protocol

import torch

from cyclepref.builder.reward.evaluation.decoded import Shown, by_input, flat, key_of
from cyclepref.builder.reward.evaluation.errors import EvaluationError
from cyclepref.builder.reward.evaluation.names import CYCLE, check_names
from cyclepref.schemas.ids import digest


class Judge(Protocol):
    """Scores candidates; larger is better. Only candidates of one input are compared."""

    name: str

    def score(self, inputs: list[Shown]) -> list[list[float]]:
        """For each input the scores of its candidates, in order."""


class Plain:
    """A judge that looks at one input at a time."""

    def __init__(self, name: str, of: Callable[[Shown], list[float]]):
        self.name, self._of = name, of

    def score(self, inputs: list[Shown]) -> list[list[float]]:
        """As in `Judge`."""
        return [self._of(each) for each in inputs]


class Reward:
    """A reward model."""

    def __init__(self, name: str, model: Any, batch_size: int):
        self.name, self._model, self._batch_size = name, model, batch_size
        self.truncated = 0

    def score(self, inputs: list[Shown]) -> list[list[float]]:
        """As in `Judge`.

        Raises:
            RewardError: if a reward is not a finite number.
        """
        images, texts = flat(inputs)
        rewards = self._model.score(images=images, texts=texts, batch_size=self._batch_size)
        self.truncated += len(rewards.truncated)
        return by_input(inputs, list(rewards))


def make_judges(names: tuple[str, ...], batch_size: int, device: torch.device) -> list[Judge]:
    """The judges of these names besides the reward model: `cycle`, `length`, `random`, `clip:...`, `reward:...`.

    `length` is words of a caption or bytes of an image's file; `random` a hash of input and candidate; `cycle` the
    dataset's own cycle score.

    Raises:
        EvaluationError: if a name is unknown.
        RewardError: if there is no such model.
    """
    check_names(names)
    return [_judge(name, batch_size, device) for name in dict.fromkeys(names)]


def _judge(name: str, batch_size: int, device: torch.device) -> Judge:
    kind, _, place = name.partition(":")
    if name in PLAIN:
        return Plain(name, PLAIN[name])
    if kind == "clip":
        from cyclepref.builder.reward.evaluation.clip import Clip

        return Clip(name, place, batch_size, device)
    from cyclepref.builder.reward.model import RewardModel

    return Reward(name, RewardModel.from_pretrained(place).to(device).eval(), batch_size)


def _cycle(each: Shown) -> list[float]:
    if each.scores is None:
        raise EvaluationError(f"input {each.name} has no cycle scores")
    return each.scores


def _random(each: Shown) -> list[float]:
    """Random scores that depend only on the contents, not on their order."""
    ids = map(key_of, each.candidates)
    return [int(digest("random judge", each.key, id_)[:13], 16) / 16**13 for id_ in ids]


PLAIN: dict[str, Callable[[Shown], list[float]]] = {
    CYCLE: _cycle,
    "length": lambda each: [float(size) for size in each.sizes],
    "random": _random,
}
