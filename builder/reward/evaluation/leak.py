"""Test inputs that a reward model was trained on: accuracy on them says nothing of new ones."""

from collections.abc import Callable

from cyclepref.builder.common.images import UnreadableImage
from cyclepref.builder.preferences.layouts.items import Judged, JudgedDataset
from cyclepref.builder.reward.evaluation.decoded import key_of
from cyclepref.builder.reward.evaluation.errors import LeakError
from cyclepref.builder.reward.training.seen import Seen

NAMED = 5


def inputs_of(layout: JudgedDataset, tick: Callable[[int], None] = lambda done: None) -> dict[str, str]:
    """The inputs of a dataset: the content id of each, and its dataset's own."""
    found = {}
    for item in layout:
        found[_key(item)] = item.name
        tick(1)
    return found


def check_leak(
    place: str, inputs: dict[str, str], seen: Seen, allow: bool, who: str = "the model"
) -> dict[str, object]:
    """How many `inputs` (see `inputs_of`) of the dataset at `place` are among those that `who` has `seen` in training:
    checked, inputs, leaked, ids of some, and what is missing of what it has seen.

    An input is known by its content id or by its dataset's own id. Of a model that does not say what it was trained on
    nothing is checked.

    Raises:
        LeakError: if there is one, unless `allow`.
    """
    if not seen.ids:
        return {"checked": False, "missing": seen.missing}
    leaked = sorted(name if name in seen.ids else key for key, name in inputs.items() if {key, name} & seen.ids)
    if leaked and not allow:
        more = ", ..." if len(leaked) > NAMED else ""
        raise LeakError(
            f"{len(leaked)} of the {len(inputs)} inputs of {place} are among those that {who} was trained on "
            f"({', '.join(leaked[:NAMED])}{more}): evaluate on other inputs (--split), or say --allow-leak to go on "
            "anyway"
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
