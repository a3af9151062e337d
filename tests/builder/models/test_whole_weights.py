"""A model whose files lack a weight, name it otherwise or have it in another shape is refused, by every loader."""

import json
import shutil

import pytest
import tiny_captioners
import tiny_painters
import torch
from safetensors.torch import load_file, save_file

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.models import load_model
from cyclepref.builder.models.loading import ModelError, loading
from cyclepref.builder.models.weight_files import lacking
from cyclepref.builder.models.weights import difference
from cyclepref.schemas.specs import CaptionerSpec, PainterSpec

DAMAGES = ("removed", "renamed", "reshaped")
EMBEDDED = [name for name in CATALOG if name.startswith("shapeworld-")]


def damage(file, how, at=0.5):
    """Do something to one tensor of a file, at a place within its names in order; returns its name."""
    tensors = load_file(file)
    name = sorted(tensors)[int(at * (len(tensors) - 1))]
    value = tensors.pop(name)
    if how == "renamed":
        tensors[f"{name}_old"] = value
    elif how == "reshaped":
        tensors[name] = torch.zeros(*value.shape, 3)
    save_file(tensors, file, metadata={"format": "pt"})
    return name


def refused(spec, file, how, at=0.5):
    """The message with which a model is refused whose file is damaged; the file is whole again afterwards."""
    whole = file.read_bytes()
    damage(file, how, at)
    with pytest.raises(ModelError) as error:
        load_model(spec)
    file.write_bytes(whole)
    said = str(error.value)
    assert said.startswith(f"{spec.name}: {spec.repo} does not hold the model that its config describes: ")
    assert ("has weights of another shape for" if how == "reshaped" else "has no weights for") in said
    assert "random numbers" in said
    assert "download or copy the model again" in said
    assert "\n" not in said
    return said


@pytest.mark.parametrize("name", tiny_captioners.FAMILIES)
def test_a_captioner_with_a_damaged_tensor_is_refused(name, tmp_path):
    repo, settings = tiny_captioners.save(name, tmp_path)
    spec = CaptionerSpec(name="mine", repo=repo, **settings)
    assert lacking(tmp_path, spec) == []
    model = type(load_model(spec).model).__name__
    for at, how in zip((0.2, 0.5, 0.9), DAMAGES, strict=True):
        assert model in refused(spec, tmp_path / "model.safetensors", how, at)


@pytest.mark.parametrize("name", tiny_painters.FAMILIES)
def test_a_pipeline_with_a_damaged_tensor_in_any_component_is_refused(name, tmp_path):
    repo, settings = tiny_painters.save(name, tmp_path)
    spec = PainterSpec(name="mine", repo=repo, **settings)
    assert lacking(tmp_path, spec) == []
    files = sorted(tmp_path.glob("*/*.safetensors"))
    assert len(files) >= 3
    for number, file in enumerate(files):
        said = refused(spec, file, DAMAGES[number % 3])
        assert f"{file.parent.name} (" in said, "the message names the component"


@pytest.mark.parametrize("how", DAMAGES)
def test_a_text_encoder_and_a_denoiser_are_named_together(how, tmp_path):
    repo, settings = tiny_painters.save("stable_diffusion_3", tmp_path)
    name = damage(tmp_path / "transformer" / "diffusion_pytorch_model.safetensors", how)
    said = refused(
        PainterSpec(name="mine", repo=repo, **settings), tmp_path / "text_encoder_3" / "model.safetensors", how
    )
    assert "text_encoder_3 (T5EncoderModel)" in said
    assert "transformer (SD3Transformer2DModel)" in said
    assert name in said


@pytest.mark.parametrize("name", [name for name in EMBEDDED if hasattr(CATALOG[name], "kind") and "lpips" not in name])
def test_an_embedded_model_is_whole_and_refused_where_it_is_not(name, tmp_path):
    load_model(CATALOG[name])
    shutil.copytree(CATALOG[name].repo, tmp_path / "copy")
    spec = CATALOG[name].model_copy(update={"repo": str(tmp_path / "copy")})
    for file in sorted((tmp_path / "copy").rglob("*.safetensors"))[:2]:
        refused(spec, file, "removed")


def test_a_config_with_fewer_layers_than_the_file_is_refused(tmp_path):
    repo, settings = tiny_captioners.save("llava", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 1
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ModelError, match=r"has no place for \S*layers\.1\.\S+, .* in its files\)"):
        load_model(CaptionerSpec(name="mine", repo=repo, **settings))


@pytest.mark.parametrize(
    "extra",
    [
        "lm_head_of_another_task.weight",
        "model.vision_tower.embeddings.position_ids",
        "model.language_model.layers.0.self_attn.rotary_emb.inv_freq",
    ],
)
def test_parts_of_other_tasks_and_tables_of_older_versions_are_no_fault(extra, tmp_path):
    repo, settings = tiny_captioners.save("llava", tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({**load_file(file), extra: torch.zeros(2)}, file, metadata={"format": "pt"})
    load_model(CaptionerSpec(name="mine", repo=repo, **settings))


def test_an_adapters_tensors_beside_the_layers_are_not_dropped_silently(tmp_path):
    repo, settings = tiny_captioners.save("blip", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    layer = next(name for name in tensors if name.endswith("layer.0.attention.self.query.weight"))
    adapted = layer.replace("query.weight", "query.lora_A.weight")
    save_file({**tensors, adapted: torch.zeros(2, 32)}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"has no place for .*lora_A"):
        load_model(CaptionerSpec(name="mine", repo=repo, **settings))


@pytest.mark.parametrize("kind", ["captioner", "pipeline"])
def test_sharded_files_load_and_are_refused_where_a_shard_lacks_what_the_index_names(kind, tmp_path):
    if kind == "captioner":
        repo, settings = tiny_captioners.save("llava", tmp_path)
        spec, part = CaptionerSpec(name="mine", repo=repo, **settings), tmp_path
        load_model(spec).model.save_pretrained(part, max_shard_size="60KB")
    else:
        repo, settings = tiny_painters.save("stable_diffusion", tmp_path)
        spec, part = PainterSpec(name="mine", repo=repo, **settings), tmp_path / "unet"
        load_model(spec).pipeline.unet.save_pretrained(part, max_shard_size="200KB")
    for single in part.glob("*model.safetensors"):
        single.unlink()
    shards = sorted(part.glob("*-of-*.safetensors"))
    assert len(shards) > 2
    assert lacking(tmp_path, spec) == []
    load_model(spec)
    assert "has no weights for" in refused(spec, shards[1], "removed")


def test_weights_of_a_variant_are_those_that_are_looked_at(tmp_path):
    repo, settings = tiny_painters.save("stable_diffusion", tmp_path)
    spec = PainterSpec(name="mine", repo=repo, variant="fp16", dtype="float32", **settings)
    load_model(spec.model_copy(update={"variant": None})).pipeline.save_pretrained(tmp_path, variant="fp16")
    for plain in tmp_path.glob("*/*model.safetensors"):
        plain.unlink()
    assert lacking(tmp_path, spec) == []
    load_model(spec)
    refused(spec, tmp_path / "text_encoder" / "model.fp16.safetensors", "removed")
    refused(spec, tmp_path / "vae" / "diffusion_pytorch_model.fp16.safetensors", "reshaped")


def test_tied_weights_may_be_stored_under_either_name_and_not_under_none(tmp_path):
    """BLIP's vocabulary is read by its decoder and its embeddings: transformers stores one of them."""
    repo, settings = tiny_captioners.save("blip", tmp_path)
    spec, file = CaptionerSpec(name="mine", repo=repo, **settings), tmp_path / "model.safetensors"
    tensors = load_file(file)
    tied = [name for name in tensors if name.endswith(("word_embeddings.weight", "decoder.weight"))]
    assert tied
    save_file({name: value for name, value in tensors.items() if name not in tied}, file, metadata={"format": "pt"})
    with pytest.raises(ModelError, match="has no weights for"):
        load_model(spec)


@pytest.mark.parametrize("component", ["text_encoder/model.safetensors", "vae/diffusion_pytorch_model.safetensors"])
def test_a_file_that_is_cut_short_is_told_with_model_and_component(component, tmp_path):
    repo, settings = tiny_painters.save("stable_diffusion", tmp_path)
    content = (tmp_path / component).read_bytes()
    (tmp_path / component).write_bytes(content[: len(content) // 2])
    expected = rf"mine: cannot load .* as a text-to-image: {component.split('/')[0]} \(\w+\): .*damaged or cut short"
    with pytest.raises(ModelError, match=expected):
        load_model(PainterSpec(name="mine", repo=repo, **settings))


def test_the_libraries_are_left_as_they_were(tmp_path):
    import diffusers
    import transformers

    before = [vars(kind)["from_pretrained"] for kind in (transformers.PreTrainedModel, diffusers.ModelMixin)]
    spec = CaptionerSpec(name="x", repo=str(tmp_path), prompt_style="none")
    with pytest.raises(ModelError, match="x: cannot load"), loading(spec), loading(spec):
        raise KeyError("anything")
    assert [vars(kind)["from_pretrained"] for kind in (transformers.PreTrainedModel, diffusers.ModelMixin)] == before


def test_a_difference_tells_names_shapes_and_counts():
    model = {name: torch.zeros(2, 3) for name in "abcde"}
    said = difference("the backbone", model, {"a": torch.zeros(2, 3), "b": torch.zeros(3), "x": torch.zeros(1)})
    assert str(said) == (
        "the backbone has no weights for c, d, e (3 of 5 tensors) and has weights of another shape for "
        "b (3 in the file, 2x3 in the model) (1 of 5 tensors) and has no place for x (1 in its files)"
    )
    assert not difference("the backbone", model, model)
