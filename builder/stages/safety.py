"""Images that the recipe's safety model flags are left out of what is published.

A verdict is a probability, kept in the store by the image's content and the model's fingerprint: another threshold
needs no model, and neither does a second build. An image without a verdict, because the model failed on it, is left
out as well. What was left out is listed in `flagged.json` of the run directory, which is not published.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
from PIL import Image

from cyclepref.builder.catalog.resolve import resolve, settled
from cyclepref.builder.common.files import from_json
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.run.store import first_of_each, flat
from cyclepref.builder.stages.accounting import Accountant
from cyclepref.builder.stages.model_stage import (
    MEASURED_BATCHES_PER_PART,
    Content,
    Measuring,
    ModelStage,
    write_values,
)
from cyclepref.schemas.errors import visible
from cyclepref.schemas.ids import verdict_id
from cyclepref.schemas.publishing import Safety
from cyclepref.schemas.recipe import SAFETY, RecipeError
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.specs import SafetySpec

STAGE, NAME, FLAGGED_FILE = "safety", SAFETY, "flagged.json"
FIXED = {"name", "kind", "about", "licence", "evidence", "repo", "label", "parameters", "trust_remote_code"}


@dataclass(frozen=True)
class Verdicts:
    """Which images may not be published. `flagged`: content id -> probability of the label, None where the model
    failed. `checked` is how many images there were."""

    flagged: dict[str, float | None]
    checked: int

    def passed(self, rows: pa.Table, column: str) -> pa.Table:
        """The rows whose content is not flagged."""
        return rows.filter(pc.invert(pc.is_in(rows[column], value_set=pa.array(list(self.flagged), pa.string()))))


def safety_spec(safety: Safety) -> SafetySpec:
    """The spec of a recipe's safety model.

    Raises:
        RecipeError: for a setting that there is not.
    """
    base = {"name": NAME, "repo": safety.model, "label": safety.label}
    return settled(SafetySpec, base, safety.settings, NAME, FIXED)


def resolve_safety(safety: Safety | None, lock: dict[str, Any]) -> Resolved | None:
    """The safety model with its weights settled, or None if the recipe names none.

    Raises:
        RecipeError: if there is no such model, or it does not know the label; the message lists those that it knows.
    """
    if safety is None:
        return None
    model = resolve(safety_spec(safety), lock)
    labels = _labels(model.spec)
    if safety.label not in labels:
        raise RecipeError(
            f"safety: {safety.model} has no label {safety.label!r}: choose from "
            + visible(", ".join(map(str, labels)), keep="")
        )
    return model


def _labels(spec: SafetySpec) -> list[str]:
    """The labels that a classifier's config lists."""
    try:
        path = Path(spec.repo, "config.json")
        if not path.is_file():
            path = Path(hf_hub_download(spec.repo, "config.json", revision=spec.revision))
        labels = from_json(path.read_text(encoding="utf-8"))["id2label"]
        return [labels[at] for at in sorted(labels, key=int)]
    except (OSError, ValueError, LookupError, TypeError, HfHubHTTPError, LocalEntryNotFoundError) as error:
        raise RecipeError(
            f"safety: {spec.repo} has no config.json with the labels of an image classifier ({type(error).__name__}): "
            "name a model that AutoModelForImageClassification loads"
        ) from error


def judge(
    safety: Safety, model: Resolved, images: dict[str, Iterable[str]], accountant: Accountant, engine: Engine
) -> tuple[Verdicts, dict[str, Any]]:
    """Verdicts on images, making those that are missing; and the stage's counts.

    `images` are content ids by the table of the store where they are ("inputs", "generations").

    Raises:
        BuildError: if the model failed on more images than the recipe allows.
    """
    tables = [_wanted(table, ids, model) for table, ids in images.items()]
    wanted = first_of_each(pa.concat_tables(tables), "verdict_id")
    store = accountant.store
    counts = WATCHING.run(wanted, {NAME: model.spec}, accountant, engine)
    values = store.rows("verdicts", ["verdict_id", "content_id", "value"])
    values = values.filter(pc.is_in(values["verdict_id"], value_set=flat(wanted["verdict_id"])))
    known = dict(zip(values["content_id"].to_pylist(), values["value"].to_pylist(), strict=True))
    flagged = {id_: None for id_ in wanted["content_id"].to_pylist() if id_ not in known}
    flagged |= {id_: value for id_, value in known.items() if value >= safety.threshold}
    return Verdicts(flagged, wanted.num_rows), {name: count.to_dict() for name, count in counts.items()}


def _wanted(table: str, ids: Iterable[str], model: Resolved) -> pa.Table:
    contents_ = sorted(set(ids))
    columns = {
        "verdict_id": [verdict_id(id_, model.fingerprint) for id_ in contents_],
        "content_id": contents_,
        "table": [table] * len(contents_),
        "model": [NAME] * len(contents_),
        "fingerprint": [model.fingerprint] * len(contents_),
    }
    return pa.table({name: pa.array(values, pa.string()) for name, values in columns.items()})


# ---- steps that run on the cluster -----------------------------------------------------------------------------


class Classifier:
    """An image classifier of transformers.

    Raises:
        ModelError: if it cannot be loaded.
    """

    def __init__(self, spec: SafetySpec):
        import torch
        from transformers import AutoImageProcessor, AutoModelForImageClassification

        from cyclepref.builder.models.loading import check_fits, device, loading, quiet, source_of

        quiet()
        check_fits(spec)
        self.spec, self.device = spec, device()
        where, pin = source_of(spec)
        with loading(spec):
            self.processor = AutoImageProcessor.from_pretrained(where, **pin)
            model = AutoModelForImageClassification.from_pretrained(
                where, use_safetensors=True, dtype=getattr(torch, spec.dtype), **pin
            )
        self.model = model.to(self.device).eval()
        self.index = {name: at for at, name in self.model.config.id2label.items()}[spec.label]

    def probabilities(self, images: list[Image.Image]) -> list[float]:
        """The probability of the label for each RGB image, in [0, 1]: a softmax over the classifier's labels."""
        import torch

        from cyclepref.builder.models.loading import pad_batch

        with torch.inference_mode():
            padded = pad_batch(images, self.spec.batch_size)
            pixels = self.processor(images=padded, return_tensors="pt").to(self.device, self.model.dtype)
            logits = self.model(**pixels).logits[: len(images)].double()
        if not torch.isfinite(logits).all():
            raise ValueError("the safety model returned NaN or infinity")
        return logits.softmax(dim=-1)[:, self.index].tolist()


class Watcher(Measuring):
    """Loads the classifier; gives every image (`it`) a probability."""

    def __init__(self, spec: SafetySpec):
        classifier = Classifier(spec)
        super().__init__(classifier, classifier.probabilities)


WATCHING = ModelStage(
    name=STAGE,
    table="verdicts",
    key="verdict_id",
    worker=Watcher,
    roles={"it": Content("content_id", {"inputs": "input_id", "generations": "content_id"})},
    order=("it_part", "it_row"),
    write=partial(write_values, stage=STAGE, table="verdicts", key="verdict_id"),
    rows_per_part=lambda spec: spec.batch_size * MEASURED_BATCHES_PER_PART,
)
