"""The names of what a reward model can be held against; no library is loaded for them."""

from collections.abc import Sequence

from cyclepref.builder.reward.evaluation.errors import EvaluationError

REWARD, CYCLE = "reward", "cycle"
# What runs where nothing else is said: no model besides the reward.
DEFAULT = (CYCLE, "length", "random")
CHOICES = (*DEFAULT, "clip:FOLDER_OR_ID", "reward:FOLDER_OR_ID")
WITH_PLACE = ("clip", REWARD)


def check_names(names: Sequence[str]) -> None:
    """Refuse a name that nothing has.

    Raises:
        EvaluationError: lists the choices.
    """
    for name in names:
        kind, _, place = name.partition(":")
        if name not in DEFAULT and not (place and kind in WITH_PLACE):
            raise EvaluationError(
                f"there is nothing called {name!r} to compare with. Choose from: {', '.join(CHOICES)}"
            )
