"""Out of memory: the batch is halved within the worker, rows stay what they are, and it is counted."""

import pyarrow as pa
import pytest
import torch

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.engine.memory import Fitting, is_out_of_memory
from cyclepref.builder.models import load_model
from cyclepref.builder.models.captioners import TransformersCaptioner
from cyclepref.builder.run.store import Store
from cyclepref.builder.shapeworld import render, scenes
from cyclepref.builder.stages.accounting import Accountant
from cyclepref.builder.stages.steps import attempt

IMAGES = [render.render(scene, at) for at, scene in enumerate(scenes.sample_scenes(5, seed=3, held_out=False))]


class SmallDevice(TransformersCaptioner):
    """A real captioner on a device with room for `room` images, and none at all for `too_large`."""

    room, too_large, error = 2, None, torch.OutOfMemoryError("CUDA out of memory")

    def _caption_batch(self, images, seeds):
        if len(images) > self.room or any(image is self.too_large for image in images):
            raise self.error
        return super()._caption_batch(images, seeds)


@pytest.fixture(scope="module")
def spec():
    return CATALOG["shapeworld-blip"].model_copy(update={"batch_size": 8})


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_a_batch_that_does_not_fit_is_halved_until_it_does_and_no_row_is_lost(spec, error):
    model = SmallDevice(spec)
    model.error = error
    run = Fitting(model, model.caption)
    captions = attempt(run, IMAGES, [None] * 5)
    assert [c.text for c in captions] == [c.text for c in load_model(spec).caption(IMAGES, [None] * 5)]
    assert model.spec.batch_size == 2
    assert run.halvings() == 2


def test_the_smaller_batch_is_remembered_and_halvings_are_counted_once(spec):
    model = SmallDevice(spec)
    run = Fitting(model, model.caption)
    run(IMAGES, [None] * 5)
    assert run.halvings() == 2
    run(IMAGES, [None] * 5)
    assert run.halvings() == 0


def test_only_a_row_that_does_not_fit_alone_is_a_failure(spec):
    model = SmallDevice(spec)
    model.too_large = IMAGES[3]
    results = attempt(Fitting(model, model.caption), IMAGES, [None] * 5)
    assert [at for at, result in enumerate(results) if isinstance(result, Exception)] == [3]
    assert isinstance(results[3], torch.OutOfMemoryError)


def test_other_errors_halve_nothing(spec):
    model = SmallDevice(spec)
    model.error = RuntimeError("shapes differ")
    run = Fitting(model, model.caption)
    with pytest.raises(RuntimeError, match="shapes differ"):
        run(IMAGES, [None] * 5)
    assert run.halvings() == 0


def test_the_cpu_allocators_error_is_out_of_memory_too():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)
    assert not is_out_of_memory(RuntimeError("memory format is not supported"))


def test_halvings_are_told_once_for_each_model_and_all_counted(tmp_path, caplog):
    accountant = Accountant(Store(tmp_path), 0.05)
    for _ in range(3):
        rows = [
            {"model": "a", "done": 1, "failed": 0, "halved": 2},
            {"model": "b", "done": 1, "failed": 0, "halved": 0},
        ]
        accountant.note_halved("candidates", pa.Table.from_pylist(rows))
    assert accountant.halved == {"candidates": {"a": 6}}
    assert [record.message.split(" and ")[0] for record in caplog.records] == ["candidates: a ran out of memory"]
