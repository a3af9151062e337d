"""What a misspelt name was meant to be: the words of every "did you mean"."""

import difflib
from collections.abc import Iterable

# More names than this are a wall, in which nobody finds one.
CLOSE_NAMES = 3
# What is so much less like the word given than the nearest name was not meant.
MUCH_FURTHER = 0.1


def close_names(name: str, names: Iterable[str], most: int = CLOSE_NAMES) -> list[str]:
    """The names that are spelt like `name`, nearest first, whatever the case; and those that it is a part of."""
    by_lower = {each.lower(): each for each in names}
    wanted = name.lower()
    near = {each: _likeness(wanted, each) for each in difflib.get_close_matches(wanted, by_lower, n=most)}
    close = [each for each in near if near[each] >= max(near.values()) - MUCH_FURTHER]
    part = [each for each in by_lower if len(wanted) > 2 and wanted in each and each not in close]
    return [by_lower[each] for each in [*close, *part][:most]]


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def did_you_mean(name: str, names: Iterable[str]) -> str:
    """The words " (did you mean 'a' or 'b'?)", or nothing where no name is near."""
    close = [repr(each) for each in close_names(name, names)]
    return f" (did you mean {' or '.join(filter(None, [', '.join(close[:-1]), close[-1]]))}?)" if close else ""
