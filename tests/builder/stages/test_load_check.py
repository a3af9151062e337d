"""Models are loaded before long work, and only then; the safety model among them."""

import pytest

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.catalog.resolve import resolve
from cyclepref.builder.engine.cluster import EngineError
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.load_check import LONG_BUILD, LoadCheck
from cyclepref.schemas.specs import SafetySpec

pytestmark = pytest.mark.usefixtures("ray_local")


def test_a_safety_model_that_cannot_be_loaded_says_so_before_a_long_build(tmp_path):
    spec = SafetySpec(name="safety", repo=str(tmp_path / "nowhere"), label="nsfw")
    with Engine() as engine, pytest.raises(EngineError, match="safety: cannot load"):
        for _ in engine.load([LoadCheck(Store(tmp_path), engine).task(spec)]):
            pass


def test_before_much_work_each_model_is_loaded_once_and_kept_and_before_little_none(tmp_path):
    with Engine() as engine:
        model = resolve(CATALOG["sbert"], {})
        check = LoadCheck(Store(tmp_path), engine)
        check.before(LONG_BUILD - 1, [model])
        assert "cluster" not in vars(engine)
        check.before(LONG_BUILD, [model])
        assert list(engine.load([check.task(model.spec)])) == [0.0]
