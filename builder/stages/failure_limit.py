"""How often a model may fail in a stage before the build stops."""

from collections import Counter
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

# Of a model that fails on more than half of so many rows, nobody wants to wait for the rest.
EARLY_ROWS, EARLY_RATE = 200, 0.5


class Excess(NamedTuple):
    """A model that fails too often: which, what was found, and the ways out."""

    model: str
    found: str
    way_out: str


class FailureLimit:
    """The failures that a stage allows each of its models. A model has too many

    - once more than `rate` of all rows that are wanted of it have failed, in this run or before: what is left to do
      cannot mend that;
    - early, once it has done EARLY_ROWS rows in this run and more than EARLY_RATE of them failed (more than `rate`,
      where that is higher), however many are wanted. Rows whose failure is tried again say nothing new: all of them
      are left out of this count, as if they had been done first and had failed again.

    The rows are those `wanted`, those of them that are `missing`, and what is `todo`: all missing ones but for failures
    of earlier runs that are left alone. All have the column `model`, and `todo` has `attempt`.
    """

    def __init__(self, rate: float, wanted: pa.Table, missing: pa.Table, todo: pa.Table):
        self.rate = rate
        self._wanted = _by_model(wanted)
        self._before = _by_model(missing) - _by_model(todo)
        self._again = _by_model(todo.filter(pc.greater(todo["attempt"], 1)))
        self._done: Counter[str] = Counter()
        self._failed: Counter[str] = Counter()

    def count(self, receipt: pa.Table) -> None:
        """Rows were done."""
        for row in receipt.to_pylist():
            self._done[row["model"]] += row["done"]
            self._failed[row["model"]] += row["failed"]

    def excess(self) -> Excess | None:
        """The first model, by name, that has too many failures."""
        early_rate = max(self.rate, EARLY_RATE)
        for model, wanted in sorted(self._wanted.items()):
            done, failed, again = (counts[model] for counts in (self._done, self._failed, self._again))
            if failed + self._before[model] > self.rate * wanted:
                return Excess(
                    model,
                    f"{failed + self._before[model]} of {wanted} rows failed, more than max_failure_rate {self.rate:g} "
                    "allows",
                    "Mend the cause and run again with --retry-failed, or raise max_failure_rate in the recipe.",
                )
            if done - again >= EARLY_ROWS and failed - again > early_rate * (done - again):
                return Excess(
                    model,
                    f"{failed} of the first {done} rows of this run failed, more than {early_rate:.0%} of them",
                    "Mend the cause and run again with --retry-failed; without it the same command leaves these rows "
                    "out and goes on with the others.",
                )
        return None


def _by_model(rows: pa.Table) -> Counter[str]:
    return Counter({row["values"]: row["counts"] for row in pc.value_counts(rows["model"]).to_pylist()})
