"""Flagged images leave what is published, and nothing else: judged once, by a real classifier, on real Ray."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dataset_run import make_run, noise
from inline_builds import InlineEngine
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from cyclepref.builder.build import build
from cyclepref.builder.common.images import decode, encode
from cyclepref.builder.dataset.edition import release
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.models.loading import ModelError
from cyclepref.builder.run.content import Contents
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.safety import WATCHING, Classifier, Watcher, resolve_safety
from cyclepref.schemas.ids import image_id, verdict_id
from cyclepref.schemas.publishing import Safety
from cyclepref.schemas.recipe import RecipeError, parse_recipe
from cyclepref.schemas.resolved import Resolved


@pytest.fixture(scope="module")
def classifier(tmp_path_factory) -> Path:
    """A tiny vision transformer with random weights and two labels."""
    folder = tmp_path_factory.mktemp("classifier")
    torch.manual_seed(0)
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, image_size=32, patch_size=8,
        id2label={0: "safe", 1: "unsafe"}, initializer_range=0.6,
    )  # fmt: skip
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def safety(classifier: Path, threshold: float = 0.5, **settings) -> Safety:
    return Safety(model=str(classifier), label="unsafe", threshold=threshold, settings=settings)


def judged(judge: Watcher, images: list) -> list[float | Exception]:
    """What the worker says of images, read as it reads them on a host."""
    data = [encode(image) for image in images]
    block = pa.table({"it_text": pa.nulls(len(data), pa.string()), "it_image": pa.array(data, pa.binary())})
    return judge(block, Contents(block, ["it"], judge.measure.model.spec.batch_size))


def test_a_probability_does_not_depend_on_the_batch_that_an_image_is_in(classifier):
    judge = Watcher(resolve_safety(safety(classifier, batch_size=4), {}).spec)
    images = [noise(at) for at in range(6)]
    together = judged(judge, images)
    assert together == [value for image in images for value in judged(judge, [image])]
    assert all(0 < value < 1 for value in together)
    assert len(set(together)) == 6


def test_a_batch_that_does_not_fit_in_memory_is_halved_and_no_image_is_lost(classifier):
    spec = resolve_safety(safety(classifier, batch_size=8), {}).spec
    roomy, small = Watcher(spec), Watcher(spec)
    whole = small.measure.call

    def with_room_for_two(images):
        if len(images) > 2:
            raise MemoryError
        return whole(images)

    small.measure.call = with_room_for_two
    images = [noise(at) for at in range(48)]
    assert judged(small, images) == pytest.approx(judged(roomy, images))
    assert (small.measure.model.spec.batch_size, small.halvings(), small.halvings()) == (2, 2, 0)


def test_a_model_that_computes_nan_fails_its_rows_with_the_reason(classifier, tmp_path):
    judge = Watcher(resolve_safety(safety(classifier), {}).spec)
    torch.nn.init.constant_(judge.measure.model.model.classifier.weight, float("nan"))
    values = judged(judge, [noise(0)])
    ids = {"verdict_id": "0" * 32, "content_id": "1" * 32, "model": "safety", "fingerprint": "f", "attempt": 1}
    rows = pa.Table.from_pylist([ids])
    store = Store(tmp_path)
    assert WATCHING.write(rows, values, 0, store=store)["failed"].to_pylist() == [1]
    assert "NaN" in store.rows("failures")["message"][0].as_py()
    assert store.rows("verdicts").num_rows == 0


def test_a_label_or_setting_or_model_that_is_not_is_refused_before_anything_runs(classifier, tmp_path):
    with pytest.raises(RecipeError, match=r"has no label 'nsfw': choose from safe, unsafe"):
        resolve_safety(Safety(model=str(classifier), label="nsfw", threshold=0.5), {})
    with pytest.raises(RecipeError, match=r"settings.batchsize: unknown setting \(did you mean 'batch_size'"):
        resolve_safety(safety(classifier, batchsize=2), {})
    with pytest.raises(RecipeError, match=r"safety: settings\.batch_size"):
        resolve_safety(safety(classifier, batch_size=0), {})
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(RecipeError, match=r"has no config\.json with the labels of an image classifier"):
        resolve_safety(safety(tmp_path), {})
    (tmp_path / "config.json").write_text(json.dumps({"id2label": {"0": "unsafe"}}))
    with pytest.raises(ModelError, match="safety: cannot load"):
        Classifier(resolve_safety(safety(tmp_path), {}).spec)


@pytest.mark.parametrize("cycle", ["i2t2i", "t2i2t"])
def test_flagged_inputs_and_candidates_leave_every_file_that_is_published(tmp_path, classifier, cycle):
    """With verdicts that are in the store, so that no model is needed."""
    run = make_run(tmp_path, cycle, safety=safety(classifier).model_dump())
    model = resolve_safety(run.recipe.safety, {})
    table, key = ("inputs", "input_id") if cycle == "i2t2i" else ("candidates", "content_id")
    rows = run.views.inputs if table == "inputs" else run.views.candidates.table()
    ids = sorted(set(rows[key].to_pylist()))
    verdicts(run.store, model, {id_: 0.9 if at < 5 else 0.1 for at, id_ in enumerate(ids)})
    counts = release(_with(run.facts, model), run.views, run.accountant(), None, None)
    assert counts["flagged"]["images"] == 5
    shown = {image_id(image.width, image.height, image.tobytes()) for image in published_images(tmp_path / "dataset")}
    assert shown & set(ids) == set(ids[5:])
    listed = json.loads((tmp_path / "flagged.json").read_text())
    assert listed["images"] == dict.fromkeys(ids[:5], 0.9)
    assert len(listed["inputs"]) == counts["flagged"]["inputs"] == (5 if cycle == "i2t2i" else 0)
    assert len(listed["candidates"]) == counts["flagged"]["candidates"] == (15 if cycle == "i2t2i" else 5)
    card = (tmp_path / "dataset" / "README.md").read_text()
    assert "with a probability of at least 0.5 (5 images" in card
    assert not [id_ for id_ in ids[:5] if id_ in card]


def verdicts(store: Store, model: Resolved, values: dict[str, float]) -> None:
    rows = pa.table(
        {
            "verdict_id": [verdict_id(id_, model.fingerprint) for id_ in values], "content_id": list(values),
            "model": ["safety"] * len(values), "fingerprint": [model.fingerprint] * len(values),
            "value": list(values.values()), "code_version": ["1"] * len(values),
        }
    )  # fmt: skip
    store.write_part("verdicts", rows)


def _with(facts, model: Resolved):
    from dataclasses import replace

    return replace(facts, safety=model)


def published_images(folder: Path) -> list:
    found: list[bytes] = []

    def walk(value) -> None:
        if isinstance(value, bytes):
            found.append(value)
        for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
            walk(inner)

    for path in folder.rglob("*.parquet"):
        walk(pq.read_table(path).to_pylist())
    return [decode(data) for data in found]


def test_a_run_of_which_everything_is_flagged_has_an_empty_dataset_and_a_card_that_says_so(tmp_path, classifier):
    run = make_run(tmp_path, "i2t2i", safety=safety(classifier).model_dump())
    model = resolve_safety(run.recipe.safety, {})
    verdicts(run.store, model, dict.fromkeys(run.views.inputs["input_id"].to_pylist(), 0.9))
    counts = release(_with(run.facts, model), run.views, run.accountant(), None, None)
    assert counts["dataset"]["splits"] == {}
    assert counts["flagged"] == {"images": 20, "inputs": 20, "candidates": 60, "pairs": 60}
    assert "20 images, 20 inputs, 60 candidates, 60 pairs" in (tmp_path / "dataset" / "README.md").read_text()


@pytest.mark.usefixtures("ray_local")
def test_a_build_judges_each_image_once_and_another_threshold_loads_no_model(tmp_path, classifier, engine):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("two red circles on a white background\none blue star on a black background\n")
    content = {
        "name": "test", "cycle": "t2i2t", "inputs": {"source": "prompts", "path": str(prompts)},
        "forward": [{"model": "shapeworld-sd3", "samples": 3, "settings": {"steps": 2}}],
        "backward": {"model": "shapeworld-llava"}, "metric": {"metric": "sbert"},
        "pairs": {"min_margin": 0.0, "poor_chosen": None},
        "safety": {"model": str(classifier), "label": "unsafe", "threshold": 1.0},
    }  # fmt: skip
    out = tmp_path / "run"
    # All but the verdicts is made in this process, sooner than on Ray.
    build(parse_recipe({**content, "safety": None}), out, engine=InlineEngine())
    report = build(parse_recipe(content), out, engine=engine)
    assert report["counts"]["safety"]["safety"] == {"wanted": 6, "ok": 6, "failed": 0, "reused": 0}
    assert report["counts"]["flagged"] == {"images": 0, "inputs": 0, "candidates": 0, "pairs": 0}
    assert report["models"]["safety"]["label"] == "unsafe"
    values = sorted(Store(out).rows("verdicts")["value"].to_pylist())
    content["safety"]["threshold"] = values[3]
    unused = Engine()
    report = build(parse_recipe(content), out, engine=unused)
    assert "cluster" not in vars(unused)
    assert report["counts"]["flagged"]["images"] == report["counts"]["flagged"]["candidates"] == 3
    assert len(published_images(out / "dataset")) == 3
    assert (out / "groups.parquet").is_file(), "prompts are looked through for near-duplicates"
