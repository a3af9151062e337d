"""DreamSim's real package and classes; its CLIP branches with random weights where the package looks for them."""

import json
import shutil

import pytest
import torch
from dreamsim.feature_extraction.vision_transformer import vit_base
from safetensors.torch import load_file, save_file

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.catalog.metrics import METRICS
from cyclepref.builder.catalog.resolve import metric_spec, resolve
from cyclepref.builder.metrics import load_metric
from cyclepref.builder.metrics.requirements import DREAMSIM_FILES, REMOTE_BRANCHES, check_metric
from cyclepref.builder.models.loading import ModelError
from cyclepref.schemas.recipe import MetricChoice, RecipeError

LORA = {"r": 2, "lora_alpha": 0.5, "lora_dropout": 0.0, "bias": "none", "target_modules": ["qkv"]}
LOCAL = ["dreamsim-clip", "dreamsim-open-clip"]


def resolved(name: str, **settings):
    return resolve(metric_spec(MetricChoice(metric=name, settings=settings), "image"), {})


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A folder as DreamSim unpacks it: a ViT-B/32 with its projection, and a LoRA adapter, for each branch."""
    from dreamsim.model import PerceptualModel
    from peft import LoraConfig, get_peft_model

    folder = tmp_path_factory.mktemp("dreamsim")
    for at, name in enumerate(LOCAL):
        branch = CATALOG[name].branch
        base, adapter = DREAMSIM_FILES[branch]
        torch.manual_seed(at)
        vit = vit_base(patch_size=32)
        vit.pos_drop = torch.nn.LayerNorm(vit.embed_dim)  # as the package makes CLIP of it
        for value in vit.parameters():
            torch.nn.init.normal_(value, std=0.05)
        torch.save({"state_dict": {**vit.state_dict(), "proj": torch.randn(768, 512) * 0.05}}, folder / base)
        model = PerceptualModel(
            branch, "embedding", "32", lora=True, load_dir=str(folder), device="cpu", normalize_embeds=True
        )
        adapted = get_peft_model(model, LoraConfig(**LORA, init_lora_weights=False))
        adapted.save_pretrained(folder / adapter)
        config = json.loads((folder / adapter / "adapter_config.json").read_text())
        assert config["r"] == LORA["r"]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", LOCAL)
def test_a_clip_branch_gives_the_packages_own_distances_from_one_embedding_an_image(name, weights, pictures):
    spec = resolved(name, repo=str(weights), batch_size=3).spec
    hub = torch.hub.get_dir()
    metric = load_metric(spec)
    assert torch.hub.get_dir() == hub, "the package points torch.hub elsewhere, and later metrics would look there"
    asked = []
    embed = metric._vectors._embed
    metric._vectors._embed = lambda images: asked.extend(images) or embed(images)
    x, y = [*pictures, pictures[0]], [*pictures[1:], pictures[0], pictures[0]]
    found = metric.compare(x, y)
    with torch.inference_mode():
        expected = [metric.model(metric._prepare(a), metric._prepare(b)).item() for a, b in zip(x, y, strict=True)]
    assert found == pytest.approx(expected, abs=1e-5)
    assert found[-1] == pytest.approx(0, abs=1e-6)
    assert all(spec.low <= value <= spec.high for value in found)
    assert len(asked) == len(pictures)
    assert metric.compare(x[1:2], y[1:2]) == pytest.approx(found[1:2], abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("damaged", ["base", "adapter"])
def test_a_base_or_adapter_without_a_tensor_is_refused(damaged, weights, tmp_path):
    shutil.copytree(weights, tmp_path, dirs_exist_ok=True)
    base, adapter = DREAMSIM_FILES["clip_vitb32"]
    if damaged == "base":
        content = torch.load(tmp_path / base, weights_only=True)
        missing = next(name for name in content["state_dict"] if name.endswith("blocks.3.attn.qkv.weight"))
        del content["state_dict"][missing]
        torch.save(content, tmp_path / base)
    else:
        file = tmp_path / adapter / "adapter_model.safetensors"
        tensors = load_file(file)
        missing = next(name for name in tensors if "blocks.3.attn.qkv.lora_B" in name)
        save_file({name: value for name, value in tensors.items() if name != missing}, file)
    with pytest.raises(ModelError, match=r"dreamsim-clip: .*blocks\.3\.attn\.qkv"):
        load_metric(resolved("dreamsim-clip", repo=str(tmp_path)).spec)


@pytest.mark.parametrize("branch", sorted(REMOTE_BRANCHES))
def test_a_branch_that_runs_a_repositorys_code_is_refused_without_trust(branch):
    [name] = [spec.name for spec in METRICS if spec.branch == branch]
    with pytest.raises(RecipeError, match=r"runs the code of github.com/facebookresearch/dino.*or use dreamsim-clip"):
        resolved(name)
    assert resolved(name, trust_remote_code=True).spec.trust_remote_code


def test_every_branch_that_needs_no_trust_loads_without_torch_hub():
    trusted = [spec for spec in METRICS if spec.kind == "dreamsim" and spec.branch not in REMOTE_BRANCHES]
    assert [spec.name for spec in trusted] == LOCAL


def test_a_folder_without_the_branchs_files_is_explained(tmp_path):
    with pytest.raises(RecipeError, match=r"must be a folder that holds clip_vitb32_pretrain.pth.tar, clip_"):
        resolved("dreamsim-clip", repo=str(tmp_path))


def test_what_else_is_in_the_folder_changes_no_fingerprint(tmp_path):
    for name in DREAMSIM_FILES["clip_vitb32"]:
        (tmp_path / name).write_bytes(b"weights")
    before = resolved("dreamsim-clip", repo=str(tmp_path)).fingerprint
    (tmp_path / "facebookresearch_dino_main").mkdir()
    (tmp_path / "facebookresearch_dino_main" / "hubconf.py").write_text("")
    assert resolved("dreamsim-clip", repo=str(tmp_path)).fingerprint == before
    (tmp_path / DREAMSIM_FILES["clip_vitb32"][0]).write_bytes(b"others")
    assert resolved("dreamsim-clip", repo=str(tmp_path)).fingerprint != before


def test_a_missing_package_is_told_with_the_line_that_installs_it(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RecipeError, match=r"pip install 'cyclepref\[dreamsim\]'"):
        check_metric(CATALOG["dreamsim-clip"])


def test_weights_that_cannot_be_downloaded_are_told_with_the_folder(tmp_path, monkeypatch):
    """An address on this machine where nothing listens stands for a machine without a network."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setitem(load_module().dreamsim_weights, "clip_vitb32", "http://127.0.0.1:9/none.zip")
    with pytest.raises(ModelError, match=r"clip_vitb32 is incomplete in .*hub/dreamsim and could not be downloaded"):
        load_metric(CATALOG["dreamsim-clip"])


def load_module():
    import dreamsim.model

    return dreamsim.model
