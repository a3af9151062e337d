"""Every model is loaded before a long build begins, so that one that cannot be says so in minutes; its host keeps it.

Without this a missing package, a gated repository or weights that do not fit a GPU would show when the model's turn
comes: the backward model's only after every candidate has been made.
"""

from cyclepref.builder.common import progress
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.engine.task import Task
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.compare import Comparer
from cyclepref.builder.stages.generate import Generator
from cyclepref.builder.stages.needs import needs, refuse
from cyclepref.builder.stages.safety import Watcher
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.specs import MetricSpec, SafetySpec, Spec

STAGE = "loading"
# Candidates and reconstructions to make. With fewer, the stages tell soon enough, and loading twice would cost more
# than it saves.
LONG_BUILD = 15_000


class LoadCheck:
    """Loads the models of a build before work that would show only late that one of them cannot be."""

    def __init__(self, store: Store, engine: Engine):
        self.store, self.engine = store, engine
        self._loaded: set[str] = set()

    def before(self, rows: int, models: list[Resolved]) -> None:
        """Before so many candidates and reconstructions are made: ask for what the models need from outside; and
        before many rows, load each of `models` where it will run.

        Raises:
            NeedsError: if something that a model needs is not there.
            EngineError: for one that cannot be loaded, with its own reason.
        """
        if rows:
            refuse(needs(models))
        specs = {model.name: model.spec for model in models if model.name not in self._loaded}
        if rows < LONG_BUILD or not specs:
            return
        with progress.stage(STAGE, len(specs)) as tick:
            for _ in self.engine.load(self.task(spec) for spec in specs.values()):
                tick(1)
        self._loaded |= set(specs)

    def task(self, spec: Spec) -> Task:
        """A task without rows, whose model is the one that the stages ask for."""
        workers = ((MetricSpec, Comparer), (SafetySpec, Watcher))
        worker = next((worker for kind, worker in workers if isinstance(spec, kind)), Generator)
        return Task(STAGE, spec, "id", worker, _nothing, _nothing, Journal(self.store, STAGE), spec.batch_size)


def _nothing(*_: object) -> None:
    raise AssertionError("a task that only loads its model has no rows")
