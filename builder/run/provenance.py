"""What made a run: code, recipe, models with their revisions or weights, libraries."""

import json
import platform
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

import pyarrow as pa

from cyclepref.builder import __version__
from cyclepref.builder.run.store import Store
from cyclepref.schemas import records
from cyclepref.schemas.recipe import Recipe
from cyclepref.schemas.resolved import Resolved

LIBRARIES = (
    "torch", "transformers", "diffusers", "sentence-transformers", "lpips", "ray", "datasets", "pyarrow",
    "dreamsim",
)  # fmt: skip


OPTIONAL = {"dreamsim"}


def provenance(recipe: Recipe, models: list[Resolved]) -> dict[str, Any]:
    """What made a run, for run.json: code, recipe, models with their revisions or weights, libraries."""
    return {
        "cyclepref": __version__,
        "recipe": recipe.model_dump(mode="json"),
        "models": {model.name: {"fingerprint": model.fingerprint, **model.identity} for model in models},
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES if name not in OPTIONAL or find_spec(name)},
    }


def remember(store: Store, models: list[Resolved]) -> None:
    """Store the settings behind each fingerprint, so that every row can be traced."""
    known = set(store.rows("models", ["fingerprint"])["fingerprint"].to_pylist())
    for model in models:
        if model.fingerprint not in known:
            row = (model.fingerprint, model.name, model.spec.kind, json.dumps(model.identity, sort_keys=True))
            rows = [dict(zip(records.MODEL.names, row, strict=True))]
            store.write_part("models", pa.Table.from_pylist(rows, schema=records.MODEL))
