"""Builds that keep to a budget: slices of the inputs in the source's own order, each a whole build of its own.

After every slice there is a dataset of all inputs so far, the same one that `inputs.limit` gives. A slice is as large
as the rest of the budget probably holds, by what the last one took; the first ones are small, and so are the last ones.
Should a slice take more than is left, what is in flight is finished and kept, and the dataset of the slice before
stays. A larger budget goes on where this one ended, with nothing made twice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclepref.builder.build import build
from cyclepref.builder.common.stopping import Interrupted
from cyclepref.builder.costs.spent import Spent, spent
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.planning.calibrate import first_inputs, inputs_done
from cyclepref.builder.run.store import Store
from cyclepref.builder.sources.open import open_source
from cyclepref.builder.stages.ingest import list_items
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.recipe import Recipe

# Inputs of the first slice: whole batches of most models, so that what they take can be told.
FIRST = 32
# The part of what is left that a slice may probably take; of the last one, which ends the inputs.
SHARE, SHARE_OF_LAST = 0.7, 0.9
# A slice that adds less than this part of the inputs so far (or of the first slice) is not worth loading models for.
LEAST = 0.02


class BudgetError(CyclePrefError, ValueError):
    """A budget that nothing can be done with."""


@dataclass(frozen=True)
class Outcome:
    """What a budget came to: the last slice's run.json (None if the first one was not done), how many of the inputs are
    in it, and what all builds of the run directory have taken, in `unit`."""

    run: dict[str, Any] | None
    inputs: int
    total: int
    spent: float
    unit: str

    @property
    def finished(self) -> bool:
        """Whether all inputs are done."""
        return self.run is not None and self.inputs >= self.total

    def dataset(self) -> dict[str, Any]:
        """The run.json of the dataset that is there.

        Raises:
            BudgetError: if there is none.
        """
        if self.run is None:
            raise BudgetError(
                f"the budget ended after {self.spent:.3g} {self.unit}, before the first dataset was there: what was "
                "made is kept, and a larger budget goes on"
            )
        return self.run


def build_within(
    recipe: Recipe,
    out: str | Path,
    budget_hours: float,
    retry_failed: bool = False,
    engine: Engine | None = None,
    tell: Callable[[Outcome], None] = lambda outcome: None,
) -> Outcome:
    """Build a recipe until its inputs or its budget end; `tell` hears of every slice.

    `budget_hours` is for all builds of the run directory together. It is in GPU hours on a cluster with GPUs (hours
    that the build has the cluster, times the GPUs that are up, busy or not), and in hours on one without.

    Raises:
        BudgetError: if earlier builds have taken all of it.
        RecipeError, StoreError, LockError, BuildError, EngineError: as `build`.
    """
    if engine is None:
        with Engine() as own:
            return build_within(recipe, out, budget_hours, retry_failed, own, tell)
    return _Slices(recipe, Store(out), budget_hours, engine, tell).run(retry_failed)


class _Slices:
    def __init__(self, recipe: Recipe, store: Store, budget: float, engine: Engine, tell: Callable[[Outcome], None]):
        self.recipe, self.store, self.budget, self.engine, self.tell = recipe, store, budget, engine, tell
        source = open_source(recipe.inputs, recipe.shape.input)
        self.total = len(list_items(source)[: recipe.inputs.limit])
        self.done = 0
        self.rate: float | None = None  # hours that an input took in the last slice, if enough of them were new

    def run(self, retry_failed: bool) -> Outcome:
        # The first build has taken nothing, and looks at its recipe before it starts a process.
        if spent(self.store).hours and (taken := self._taken()) >= self.budget:
            raise BudgetError(
                f"earlier builds of {self.store.root} have taken {taken:.3g} {self._unit}, and the budget for all of "
                f"them is {self.budget:.3g}: give a larger one, and the build goes on"
            )
        last, upto = None, self._first()
        while upto is not None:
            earlier = spent(self.store)
            if (run := self._slice(upto, earlier, retry_failed)) is None:
                # The run directory is left as the build of the slice before leaves it: finished, and to be published.
                last = last and build(self._recipe(self.done), self.store.root, False, self.engine)
                break
            took, retry_failed = self._taken() - self._of(earlier), False
            self.rate, self.done, last = _rate(run, took), upto, run
            self.tell(self._outcome(last))
            upto = self._next()
        return self._outcome(last)

    def _outcome(self, run: dict[str, Any] | None) -> Outcome:
        return Outcome(run, self.done, self.total, self._taken(), self._unit)

    def _slice(self, upto: int, earlier: Spent, retry_failed: bool) -> dict[str, Any] | None:
        """A whole build of the first inputs; None if the budget ended before it did."""
        at_first = self.engine.meter.read()
        self.engine.enough = lambda: self._of(earlier + (self.engine.meter.read() - at_first)) >= self.budget
        try:
            return build(self._recipe(upto), self.store.root, retry_failed, self.engine)
        except Interrupted:
            if not self.engine.enough():
                raise  # by its user
            return None
        finally:
            self.engine.enough = lambda: False

    def _recipe(self, upto: int) -> Recipe:
        return first_inputs(self.recipe, upto, self.total)

    def _first(self) -> int:
        """The inputs of the first slice: those that the run has a dataset of, so that it never becomes smaller."""
        return min(self.total, max(inputs_done(self.store, self.recipe), FIRST))

    def _next(self) -> int | None:
        """How many inputs the next slice ends with; None if there are no more, or the budget holds no more."""
        left = self.budget - self._taken()
        if self.done >= self.total or left <= 0:
            return None
        if self.rate is None:
            return min(self.total, self.done + max(FIRST, self.done // 8))
        if (self.total - self.done) * self.rate <= left * SHARE_OF_LAST:
            return self.total
        more = int(left * SHARE / self.rate)
        return self.done + more if more >= max(1, FIRST // 4, LEAST * self.done) else None

    # ---- hours ---------------------------------------------------------------------------------------------------

    @property
    def _unit(self) -> str:
        return "GPU hours" if self.engine.cluster.gpus else "hours"

    def _of(self, taken: Spent) -> float:
        return taken.gpu_hours if self.engine.cluster.gpus else taken.hours

    def _taken(self) -> float:
        """By all builds of the run directory so far."""
        return self._of(spent(self.store))


def _rate(run: dict[str, Any], took: float) -> float | None:
    """Hours that an input takes, by a slice's run.json: what was there before cost nothing. None if too little was
    new to tell."""
    counts = [count for stage in ("candidates", "reconstructions") for count in run["counts"][stage].values()]
    ok = sum(count["ok"] for count in counts)
    new = sum(count["ok"] - count["reused"] for count in counts) / max(1, ok) * run["counts"]["inputs"]["read"]
    return took / new if new >= max(1, FIRST // 8) and took > 0 else None
