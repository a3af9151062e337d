"""Whole builds in this process and in under a second: models whose outputs are hashes, and an engine without a
cluster."""

import random
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from cyclepref.builder.engine.cluster import EngineError
from cyclepref.builder.engine.engine import Engine, Step
from cyclepref.builder.engine.plan import Cluster
from cyclepref.builder.engine.task import Ahead, Task
from cyclepref.builder.models.protocols import Caption, Painting
from cyclepref.builder.stages import compare, generate
from cyclepref.builder.stages.steps import blocks_of
from cyclepref.schemas.ids import digest
from cyclepref.schemas.recipe import Recipe, parse_recipe


class InlineEngine(Engine):
    """Runs steps where it stands; an error ends the build as that of a worker on a cluster does."""

    cluster = Cluster(cpus=2, gpus=0)

    def run_tasks(self, blocks: list[pa.Table], *steps: Step) -> Iterator[pa.Table]:
        """As of `Engine`."""
        for block in blocks:
            with worker_errors():
                for step in steps:
                    block = step(block)
            yield block

    def run(self, work: Iterable[tuple[Task, pa.Table]], ahead: Ahead | None = None) -> Iterator[pa.Table]:
        """As of `Engine`; it has no hosts that would have nothing to do."""
        for task, rows in work:
            worker = task.worker(task.spec) if rows.num_rows else None
            for block in blocks_of(rows, task.rows_per_part):
                with worker_errors():
                    read, contents = task.read(block)
                    made = task.write(read, worker(read, contents), worker.halvings())
                yield made


@contextmanager
def worker_errors() -> Iterator[None]:
    """Errors as those of a worker reach a build."""
    try:
        yield
    except Exception as error:
        raise EngineError(f"a worker failed: {error}", type(error).__name__) from error


class Hashed:
    """Both operations and a metric: what comes out is a hash of what goes in."""

    def __init__(self, spec: Any):
        self.spec, self.name = spec, spec.name

    def caption(self, images: list[Image.Image], seeds: list[int | None]) -> list[Caption]:
        """A few words."""
        made = [digest(self.name, image.tobytes(), seed)[:12] for image, seed in zip(images, seeds, strict=True)]
        return [Caption(text, text, False) for text in made]

    def paint(self, prompts: list[str], seeds: list[int | None]) -> list[Painting]:
        """Noise of 24x24."""
        made = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            dice = np.random.default_rng(int(digest(self.name, prompt, seed)[:12], 16))
            made.append(Painting(Image.fromarray(dice.integers(0, 256, (24, 24, 3), dtype=np.uint8)), False))
        return made

    def compare(self, left: list[Any], right: list[Any]) -> list[float]:
        """A number in [0, 1)."""
        said = [[x if isinstance(x, str) else x.tobytes() for x in both] for both in zip(left, right, strict=True)]
        return [random.Random(digest(self.name, *both)).random() for both in said]


def put_hashed_models(patch: pytest.MonkeyPatch) -> None:
    """In the place of every model and metric."""
    patch.setattr(generate, "load_model", Hashed)
    patch.setattr(compare, "load_metric", Hashed)


@pytest.fixture
def hashed_models(monkeypatch) -> None:
    """As `put_hashed_models`."""
    put_hashed_models(monkeypatch)


MODELS = {
    "i2t2i": ("shapeworld-blip", "shapeworld-llava", "shapeworld-sd3", "lpips-shapeworld"),
    "t2i2t": ("shapeworld-sd3", "shapeworld-sd", "shapeworld-blip", "sbert"),
}


def small_recipe(cycle: str = "i2t2i", limit: int = 6, third: bool = False, **changes: Any) -> Recipe:
    """Two forward models, or `third` as well; names and settings are those of real models."""
    first, second, back, metric = MODELS[cycle]
    more = [{"model": second, "name": "third", "settings": {"prompt": "What?"} if cycle == "i2t2i" else {"steps": 3}}]
    return parse_recipe(
        {
            "name": "small",
            "cycle": cycle,
            "inputs": {"source": "shapeworld", "limit": limit, "seed": 1},
            "forward": [{"model": first}, {"model": second}, *(more if third else [])],
            "backward": {"model": back},
            "metric": {"metric": metric},
            "pairs": {"min_margin": 0.0, "poor_chosen": None},
            "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
            **changes,
        }
    )
