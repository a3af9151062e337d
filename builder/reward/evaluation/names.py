"""The names of the baselines for a reward model; this file loads no library."""

from collections.abc import Sequence

from cyclepref.builder.reward.evaluation.errors import EvaluationError

REWARD, CYCLE = "reward", "cycle"
# The default baselines, which need no model.
DEFAULT = (CYCLE, "length", "random")
CHOICES = (*DEFAULT, "clip:FOLDER_OR_ID", "reward:FOLDER_OR_ID")
WITH_PLACE = ("clip", REWARD)


def check_names(names: Sequence[str]) -> None:
    """Refuse an unknown name.

    Raises:
        EvaluationError: lists the choices.
    """
    for name in names:
        kind, _, place = name.partition(":")
        if name not in DEFAULT and not (place and kind in WITH_PLACE):
            raise EvaluationError(f"there is no baseline {name!r} to compare with. Choose from: {', '.join(CHOICES)}")
