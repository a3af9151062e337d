"""A model that does nothing, in the worker of a real stage: what is left is the engine.

A module of its own, since the processes that run it import it.
"""

from functools import partial
from typing import Any

import pyarrow as pa

from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.engine.memory import Fitting
from cyclepref.builder.models.protocols import Caption
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.accounting import Accountant, Count
from cyclepref.builder.stages.generate import BATCHES_PER_PART, Generator, write_generations
from cyclepref.builder.stages.model_stage import Content, ModelStage
from cyclepref.builder.stages.wanted import Use, wanted_generations
from cyclepref.schemas import records
from cyclepref.schemas.ids import text_id
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.specs import CaptionerSpec


class NoOp:
    """Answers each source with a text at once."""

    def __init__(self, spec: CaptionerSpec):
        self.spec = spec

    def caption(self, sources: list[Any], seeds: list[int | None]) -> list[Caption]:
        """One caption a source."""
        return [Caption(f"seen {seed}", "", False) for seed in seeds]


class NoOpGenerator(Generator):
    """The stage's own worker, with models that do nothing."""

    def __init__(self, spec: CaptionerSpec):
        model = NoOp(spec)
        self.spec, self.run = spec, Fitting(model, model.caption)


def uses_of(models: int, batch_size: int, samples: int) -> list[Use]:
    """Models of one recipe that differ in nothing but their identity."""
    specs = [
        CaptionerSpec(
            name=f"no-op-{at}", repo="no/op", revision=str(at), temperature=1, batch_size=batch_size, num_gpus=0.05
        )
        for at in range(models)
    ]
    return [Use(Resolved(spec, spec.identity()), samples) for spec in specs]


def write_inputs(store: Store, count: int) -> list[str]:
    """Put so many texts into the store as inputs; their ids."""
    texts = [f"a scene with the number {at}" for at in range(count)]
    ids = [text_id(text) for text in texts]
    for start in range(0, count, 4096):
        some = slice(start, start + 4096)
        columns = {"input_id": ids[some], "modality": ["text"] * len(ids[some]), "text": texts[some]}
        nulls = {name: [None] * len(ids[some]) for name in ("image", "width", "height")}
        store.write_part("inputs", pa.table({**columns, **nulls}, schema=records.INPUT))
    return ids


def wanted(ids: list[str], uses: list[Use]) -> pa.Table:
    """The generations of all inputs, models and samples."""
    return wanted_generations(pa.table({"source_id": ids, "input_id": ids}), uses, 0, "forward")


def make(rows: pa.Table, uses: list[Use], accountant: Accountant, engine: Engine) -> dict[str, Count]:
    """The stage `candidates` as a build has it, with other workers; counts by model."""
    stage = ModelStage(
        name="candidates",
        table="generations",
        key="generation_id",
        worker=NoOpGenerator,
        roles={"source": Content("source_id", {"inputs": "input_id"})},
        order=("source_part", "source_row", "seed"),
        write=partial(write_generations, stage="candidates"),
        rows_per_part=lambda spec: spec.batch_size * BATCHES_PER_PART,
    )
    return stage.run(rows, {use.model.name: use.model.spec for use in uses}, accountant, engine)
