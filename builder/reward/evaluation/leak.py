"""Finds test inputs that a reward model was trained on: accuracy on these says nothing about new inputs."""

from collections.abc import Callable

from cyclepref.builder.common.images import UnreadableImage
from cyclepref.builder.preferences.layouts.items import Judged, JudgedDataset
from cyclepref.builder.reward.evaluation.decoded import key_of
from cyclepref.builder.reward.evaluation.errors import LeakError
from cyclepref.builder.reward.training.seen import Seen

NAMED = 5


def inputs_of(layout: JudgedDataset, tick: Callable[[int], None] = lambda done: None) -> dict[str, str]:
    """The inputs of a dataset: content id -> the dataset's own id."""
    found = {}
    for item in layout:
        found[_key(item)] = item.name
        tick(1)
    return found


def check_leak(
    place: str, inputs: dict[str, str], seen: Seen, allow: bool, who: str = "the model"
) -> dict[str, object]:
    """Count the `inputs` (see `inputs_of`) of the dataset at `place` that `who` has `seen` in training: checked,
    inputs, leaked, ids of some, and what is missing in `seen`.

    An input is recognised by its content id or its dataset's own id. Nothing is checked for a model without a list of
    its training inputs.

    Raises:
        LeakError: if an input was seen, unless `allow`.
    """
    if not seen.ids:
        return {"checked": False, "missing": seen.missing}
    leaked = sorted(name if name in seen.ids else key for key, name in inputs.items() if {key, name} & seen.ids)
    if leaked and not allow:
        more = ", ..." if len(leaked) > NAMED else ""
        raise LeakError(
            f"{len(leaked)} of the {len(inputs)} inputs of {place} are among those that {who} was trained on "
            f"({', '.join(leaked[:NAMED])}{more}): evaluate on other inputs (--split), or use --allow-leak to go "
            "on anyway"
        )
    found = {"checked": True, "inputs": len(inputs), "leaked": len(leaked), "some": leaked[:NAMED]}
    return found | ({"missing": seen.missing} if seen.missing else {})


def _key(item: Judged) -> str:
    if isinstance(item.shared, str):
        return key_of(item.shared)
    try:
        return key_of(item.shared.open()[0])
    except UnreadableImage:  # counted when its candidates are judged
        return item.name
