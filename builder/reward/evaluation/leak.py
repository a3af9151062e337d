"""Test inputs that a reward model was trained on: accuracy on them says nothing of new ones."""

from collections.abc import Callable

from builder.images import UnreadableImage
from builder.judged.items import Judged, Layout
from builder.reward.evaluation.errors import LeakError
from builder.reward.evaluation.shown import key_of

NAMED = 5


def check_leak(
    layout: Layout, seen: set[str] | None, allow: bool, tick: Callable[[int], None] = lambda done: None
) -> dict[str, object]:
    """How many inputs of a dataset are among those `seen` in training: checked, inputs, leaked, and ids of some.

    An input is known by its content id or by its dataset's own id. `seen` None: it is not known what the model was
    trained on, so nothing is checked.

    Raises:
        LeakError: if there is one, unless `allow`.
    """
    if seen is None:
        return {"checked": False}
    inputs, leaked = set(), {}
    for item in layout:
        key = _key(item)
        tick(1)
        inputs.add(key)
        if key in seen or item.name in seen:
            leaked[key] = item.name if item.name in seen else key
    some = sorted(leaked.values())[:NAMED]
    if leaked and not allow:
        more = ", ..." if len(leaked) > NAMED else ""
        raise LeakError(
            f"{len(leaked)} of the {len(inputs)} inputs of {layout.place} are among those that the model was trained "
            f"on ({', '.join(some)}{more}): evaluate on other inputs (--split), or say --allow-leak to go on anyway"
        )
    return {"checked": True, "inputs": len(inputs), "leaked": len(leaked), "some": some}


def _key(item: Judged) -> str:
    if isinstance(item.shared, str):
        return key_of(item.shared)
    try:
        return key_of(item.shared.open()[0])
    except UnreadableImage:  # counted when its candidates are judged
        return item.name
