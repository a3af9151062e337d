"""Every model is loaded once before a long build begins, so that one that cannot be says so in minutes.

Without it a missing package, a gated repository or weights that do not fit a GPU would show when the model's turn
comes: the backward model's only after every candidate has been made.
"""

from dataclasses import replace

import pyarrow as pa

from cyclepref.builder.common import progress
from cyclepref.builder.engine.engine import Engine, Lane
from cyclepref.builder.engine.plan import Pool, plan
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.models import load_model
from cyclepref.builder.run.in_flight import Journal
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.model_stage import lane
from cyclepref.builder.stages.needs import needs, refuse
from cyclepref.builder.stages.safety import Classifier
from cyclepref.builder.stages.steps import receipt
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.specs import MetricSpec, SafetySpec, Spec

STAGE = "loading"
# Candidates and reconstructions to make. With fewer, the stages tell soon enough, and loading twice would cost more
# than it saves.
LONG_BUILD = 15_000


class Loader:
    """The worker of an actor: loads its models, and has no more to do."""

    def __init__(self, specs: list[Spec]):
        load = {MetricSpec: load_metric, SafetySpec: Classifier}
        for spec in specs:
            load.get(type(spec), load_model)(spec)

    def __call__(self, block: pa.Table) -> pa.Table:
        """The block as it is."""
        return block

    @staticmethod
    def give_up(block: pa.Table, error: Exception) -> pa.Table:
        """The block as it is: a model that cannot be loaded ends the build, and no row of the store is at stake."""
        return block


class LoadCheck:
    """Loads the models of a build before work that would show only late that one of them cannot be."""

    def __init__(self, store: Store, engine: Engine):
        self.store, self.engine = store, engine
        self._loaded: set[str] = set()

    def before(self, rows: int, models: list[Resolved]) -> None:
        """Before so many candidates and reconstructions are made: ask for what the models need from outside; and
        before many rows, load each of `models` where it will run, and let it go. None is loaded twice.

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
            for wave in plan(specs, dict.fromkeys(specs, 1), self.engine.cluster):
                lanes = [_lane(pool, specs, Journal(self.store, STAGE)) for pool in wave]
                for _ in self.engine.run_pools(lanes, before=_same, after=_receipt):
                    tick(1)
        self._loaded |= set(specs)


def _lane(pool: Pool, specs: dict[str, Spec], journal: Journal) -> Lane:
    mine = {name: specs[name] for name in pool.models}
    blocks = [pa.table({"id": [name], "model": [name], "attempt": [1]}) for name in mine]
    return lane(replace(pool, actors=1), mine, blocks, Loader, "id", journal)


def _same(block: pa.Table) -> pa.Table:
    return block


def _receipt(block: pa.Table) -> pa.Table:
    return receipt(block, 0)
