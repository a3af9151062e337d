"""Models are loaded before long work, and only then; the safety model among them."""

import pytest

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.catalog.resolve import resolve
from cyclepref.builder.models.loading import ModelError
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.load_check import LONG_BUILD, LoadCheck, Loader
from cyclepref.schemas.specs import SafetySpec


def test_a_safety_model_that_cannot_be_loaded_says_so_before_a_long_build(tmp_path):
    with pytest.raises(ModelError, match="safety"):
        Loader([SafetySpec(name="safety", repo=str(tmp_path / "nowhere"), label="nsfw")])


def test_before_much_work_each_model_is_loaded_once_and_before_little_none(tmp_path, engine):
    model = resolve(CATALOG["sbert"], {})
    check = LoadCheck(Store(tmp_path), engine)
    check.before(LONG_BUILD - 1, [model])
    assert "cluster" not in vars(engine)
    check.before(LONG_BUILD, [model])
    streams = engine._streams
    check.before(LONG_BUILD, [model])
    assert streams == engine._streams == 1
