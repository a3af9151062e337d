"""How long work has yet to take, told from the rows that came back. Pure: the caller says what time it is.

What comes before the first rows (starting processes, loading models) says nothing of the speed, so the clock begins
with the work on them. The time left is each model's rows left times its seconds a row, in sum, over the number of hosts
that have been at work at a time.

Where rows come without the seconds that a host worked on them, these are taken to be the time since the rows before
them, as if one host did all in turn. Then the first rows of each model tell nothing, since its loading may be in that
time; the estimate is exact for one host, and with several that finish together it is too short by n / (n - 1) after n
rounds of blocks.

No more can be said than has been seen. A model without rows counts as fast as those that have some, so where models
run one after another, the estimate is right once the slow ones have begun; the loading of models yet to come is not
foreseen; and while the first round of several hosts comes back, fewer of them seem to be at work than are.
"""

from collections.abc import Mapping


class TimeLeft:
    """The estimate for work of so many `rows` a model; tell it of every step, with a clock in seconds."""

    def __init__(self, rows: Mapping[str, int]):
        self._left = dict(rows)
        # Of each model: the seconds that hosts worked, and the rows that they made in these.
        self._seconds, self._rows = dict.fromkeys(rows, 0.0), dict.fromkeys(rows, 0)
        self._seen: set[str] = set()
        self._begin = self._last = 0.0
        self._worked = 0.0

    @property
    def begun(self) -> bool:
        """Whether rows have come back."""
        return bool(self._seen)

    def tick(self, now: float, model: str, rows: int, seconds: float | None = None) -> None:
        """`rows` more of a model were finished `now`, at least one, on which a host worked for `seconds`, if known.

        Raises:
            KeyError: for a model that there was no work for.
        """
        self._left[model] -= rows  # may come below 0, where a block was made twice
        self._begin = min(self._begin, now - (seconds or 0.0)) if self.begun else now - (seconds or 0.0)
        if seconds is not None:
            self._worked += seconds
        elif model in self._seen:
            seconds = now - self._last
        if seconds is not None:
            self._seconds[model] += seconds
            self._rows[model] += rows
        self._seen.add(model)
        self._last = now

    @property
    def rows_a_second(self) -> float | None:
        """The speed of all hosts since the work on the first rows began; None while nobody can tell."""
        seconds = sum(self._seconds.values()) / self._hosts()
        return sum(self._rows.values()) / seconds if seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """The seconds from the latest rows to the end; None while nobody can tell."""
        rows, seconds = sum(self._rows.values()), sum(self._seconds.values())
        if not rows:
            return None if any(self._left.values()) else 0.0
        costs = {name: self._seconds[name] / made if made else seconds / rows for name, made in self._rows.items()}
        return sum(max(0, left) * costs[name] for name, left in self._left.items()) / self._hosts()

    def _hosts(self) -> float:
        """How many hosts were at work at a time, on average."""
        span = self._last - self._begin
        return self._worked / span if self._worked and span > 0 else 1.0
