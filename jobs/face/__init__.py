"""Preference data for image-text alignment without human labels, by cycle consistency.

    import cyclepref

    run = cyclepref.build("shapeworld_i2t2i", "runs/mine")
    pairs = cyclepref.load_pairs("runs/mine")
    reward = cyclepref.train_reward("runs/mine", "runs/reward", recipe="shapeworld")

Every command of the command line is a function here, of the same name with _ for -. Functions return their results;
long ones show their progress on standard error. A module is imported when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclepref._data import (
        build,
        demo,
        export,
        failures,
        load_recipe,
        merge,
        models,
        prune,
        publish,
        recipes,
        stats,
        status,
        verify,
    )
    from cyclepref._pages import audit, report, watch
    from cyclepref._planning import check, init, plan
    from cyclepref._rewards import best_of_n, convert_reward, evaluate, rank, score, train_reward
    from cyclepref.builder import __version__
    from cyclepref.builder.common.images import UnreadableImage
    from cyclepref.builder.costs.gpus import UnknownGpu
    from cyclepref.builder.dataset.publish import PublishError
    from cyclepref.builder.dataset.reader import DatasetError
    from cyclepref.builder.engine.cluster import EngineError
    from cyclepref.builder.engine.plan import PlanError
    from cyclepref.builder.exports.export import ExportError
    from cyclepref.builder.models.endpoint import EndpointError
    from cyclepref.builder.models.loading import ModelError
    from cyclepref.builder.planning.budget import BudgetError
    from cyclepref.builder.preferences.filters import FilterError
    from cyclepref.builder.preferences.layouts.items import JudgedError
    from cyclepref.builder.preferences.load import load_pairs
    from cyclepref.builder.preferences.rankings import LoadError
    from cyclepref.builder.report.page import ReportError
    from cyclepref.builder.report.reward_charts import RewardFileError
    from cyclepref.builder.reward.errors import ImageNotFound, RewardError, WrongType
    from cyclepref.builder.reward.evaluation.errors import EvaluationError, LeakError
    from cyclepref.builder.reward.model import RewardModel
    from cyclepref.builder.reward.training.data import PreferenceError
    from cyclepref.builder.run.failures import FailuresError
    from cyclepref.builder.run.folder import StoreError
    from cyclepref.builder.run.lock import LockError
    from cyclepref.builder.run.upkeep import UpkeepError
    from cyclepref.builder.stages.accounting import BuildError
    from cyclepref.schemas.errors import CyclePrefError, Unavailable
    from cyclepref.schemas.recipe import Recipe, RecipeError

__all__ = [
    "BudgetError",
    "BuildError",
    "CyclePrefError",
    "DatasetError",
    "EndpointError",
    "EngineError",
    "EvaluationError",
    "ExportError",
    "FailuresError",
    "FilterError",
    "ImageNotFound",
    "JudgedError",
    "LeakError",
    "LoadError",
    "LockError",
    "ModelError",
    "PlanError",
    "PreferenceError",
    "PublishError",
    "Recipe",
    "RecipeError",
    "ReportError",
    "RewardError",
    "RewardFileError",
    "RewardModel",
    "StoreError",
    "Unavailable",
    "UnknownGpu",
    "UnreadableImage",
    "UpkeepError",
    "WrongType",
    "__version__",
    "audit",
    "best_of_n",
    "build",
    "check",
    "convert_reward",
    "demo",
    "evaluate",
    "export",
    "failures",
    "init",
    "load_pairs",
    "load_recipe",
    "merge",
    "models",
    "plan",
    "prune",
    "publish",
    "rank",
    "recipes",
    "report",
    "score",
    "stats",
    "status",
    "train_reward",
    "verify",
    "watch",
]

# Where each name is defined; a test compares this with the imports above, which are for type checkers.
_MODULES = {
    "_data": "build demo export failures load_recipe merge models prune publish recipes stats status verify",
    "_pages": "audit report watch",
    "_planning": "check init plan",
    "_rewards": "best_of_n convert_reward evaluate rank score train_reward",
    "builder": "__version__",
    "builder.common.images": "UnreadableImage",
    "builder.costs.gpus": "UnknownGpu",
    "builder.dataset.publish": "PublishError",
    "builder.dataset.reader": "DatasetError",
    "builder.engine.cluster": "EngineError",
    "builder.engine.plan": "PlanError",
    "builder.exports.export": "ExportError",
    "builder.models.endpoint": "EndpointError",
    "builder.models.loading": "ModelError",
    "builder.planning.budget": "BudgetError",
    "builder.preferences.filters": "FilterError",
    "builder.preferences.layouts.items": "JudgedError",
    "builder.preferences.load": "load_pairs",
    "builder.preferences.rankings": "LoadError",
    "builder.report.page": "ReportError",
    "builder.report.reward_charts": "RewardFileError",
    "builder.reward.errors": "ImageNotFound RewardError WrongType",
    "builder.reward.evaluation.errors": "EvaluationError LeakError",
    "builder.reward.model": "RewardModel",
    "builder.reward.training.data": "PreferenceError",
    "builder.run.failures": "FailuresError",
    "builder.run.folder": "StoreError",
    "builder.run.lock": "LockError",
    "builder.run.upkeep": "UpkeepError",
    "builder.stages.accounting": "BuildError",
    "schemas.errors": "CyclePrefError Unavailable",
    "schemas.recipe": "Recipe RecipeError",
}
_MODULE_OF = {name: f"cyclepref.{module}" for module, names in _MODULES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module 'cyclepref' has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
