"""Suggestions for misspelt names: the text of every "did you mean"."""

import difflib
from collections.abc import Iterable

# Nobody finds a name in a longer list: the message then names the command that lists them all.
SHORT_LIST = 12
CLOSE_NAMES = 3
# Names are suggested only if their likeness is this close to that of the nearest one.
MUCH_FURTHER = 0.1


def close_names(name: str, names: Iterable[str], most: int = CLOSE_NAMES) -> list[str]:
    """The names spelt like `name` (ignoring case), nearest first, then those that contain it."""
    by_lower = {each.lower(): each for each in names}
    wanted = name.lower()
    near = {each: _likeness(wanted, each) for each in difflib.get_close_matches(wanted, by_lower, n=most)}
    close = [each for each in near if near[each] >= max(near.values()) - MUCH_FURTHER]
    part = [each for each in by_lower if len(wanted) > 2 and wanted in each and each not in close]
    return [by_lower[each] for each in [*close, *part][:most]]


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The text " (did you mean 'a' or 'b'?)", or an empty text if no name is near."""
    close = [repr(each) for each in close_names(name, names)]
    return f" (did you mean {' or '.join(filter(None, [', '.join(close[:-1]), close[-1]]))}?)" if close else ""


def choices(names: Iterable[str], where: str) -> str:
    """All names if they are few; otherwise how many there are, and the command (`where`) that lists them."""
    names = list(names)
    return ", ".join(names) if len(names) <= SHORT_LIST else f"one of {len(names)} that {where} lists"
