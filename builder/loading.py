"""Every model is loaded once before a long build begins, so that one that cannot be says so in minutes.

Without it a missing package, a gated repository or weights that do not fit a GPU would show when the model's turn
comes: the backward model's only after every candidate has been made.
"""

import pyarrow as pa

from builder import progress
from builder.engine import Engine, Lane
from builder.journal import Journal
from builder.metrics import load_metric
from builder.models import load_model
from builder.plan import Pool, plan
from builder.stage import receipt
from builder.store import Store
from schemas.specs import MetricSpec, Spec

STAGE = "loading"
# Candidates to make. With fewer, the stages tell soon enough, and loading twice would cost more than it saves.
LONG_BUILD = 5_000


class Loader:
    """The worker of an actor: loads its models, and has no more to do."""

    def __init__(self, specs: list[Spec]):
        for spec in specs:
            load_metric(spec) if isinstance(spec, MetricSpec) else load_model(spec)

    def __call__(self, block: pa.Table) -> pa.Table:
        """The block as it is."""
        return block

    @staticmethod
    def give_up(block: pa.Table, error: Exception) -> pa.Table:
        """The block, whose rows are no one's loss."""
        return block


def check_loading(specs: dict[str, Spec], store: Store, engine: Engine) -> None:
    """Load every model where it will run, and let it go.

    Raises:
        EngineError: for one that cannot be loaded, with its own reason.
    """
    with progress.stage(STAGE, len(specs)) as tick:
        for wave in plan(specs, dict.fromkeys(specs, 1), engine.cluster):
            lanes = [_lane(pool, specs, Journal(store, STAGE)) for pool in wave]
            for _ in engine.run_pools(lanes, before=_same, after=_receipt):
                tick(1)


def _lane(pool: Pool, specs: dict[str, Spec], journal: Journal) -> Lane:
    mine = {name: specs[name] for name in pool.models}
    blocks = [pa.table({"id": [name], "model": [name], "attempt": [1]}) for name in mine]
    what = {"specs": mine, "key": "id", "journal": journal, "kwargs": {"specs": list(mine.values())}}
    return Lane(blocks, Loader, **what, num_cpus=pool.num_cpus, num_gpus=pool.num_gpus)


def _same(block: pa.Table) -> pa.Table:
    return block


def _receipt(block: pa.Table) -> pa.Table:
    return receipt(block, 0)
