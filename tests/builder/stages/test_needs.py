"""What models need from outside is asked for without loading them, and all of it is told at once."""

import json
import os
import shutil
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest
from huggingface_hub import constants

from cyclepref.builder.build import build
from cyclepref.builder.catalog.catalog import CATALOG, WEIGHTS
from cyclepref.builder.catalog.resolve import resolve
from cyclepref.builder.models.weight_files import cut_short, lacking
from cyclepref.builder.stages.needs import BACKBONES, CHECKPOINTS, NeedsError, needs
from cyclepref.schemas.recipe import parse_recipe
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.specs import CaptionerSpec, EndpointSpec

COMMIT = "c0ffee" + "0" * 34
ROOT = Path(__file__).parents[3]
NOWHERE = "http://127.0.0.1:9/"  # nothing listens there: a machine without a network


def ask(spec) -> list[str]:
    return needs([Resolved(spec, {})])


@pytest.fixture(autouse=True)
def _no_cluster(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def no_network(tmp_path, monkeypatch):
    """Empty caches, and addresses that do not answer."""
    monkeypatch.setattr("torch.hub._hub_dir", None)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    for table in (BACKBONES, CHECKPOINTS):
        for name, url in table.items():
            monkeypatch.setitem(table, name, NOWHERE + url.rpartition("/")[2])


def cached(repo: str, folder: Path) -> Path:
    """Put a model's folder into the Hub's cache, as a download leaves it."""
    place = Path(constants.HF_HUB_CACHE, f"models--{repo.replace('/', '--')}")
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT)
    return place / "snapshots" / COMMIT


def test_models_that_are_here_need_nothing():
    embedded = [spec for name, spec in CATALOG.items() if "shapeworld" in name] + [CATALOG["sbert"]]
    assert len(embedded) > 8
    assert needs([resolve(spec, {}) for spec in embedded]) == []


@pytest.mark.parametrize(("model", "kind"), [("blip", "captioner"), ("sd3", "text-to-image")])
def test_a_hub_model_is_needed_where_its_cache_is_not_whole(model, kind, no_network):
    spec = CATALOG[f"shapeworld-{model}"].model_copy(update={"repo": "org/model", "revision": COMMIT, "name": "mine"})
    [problem] = ask(spec)
    assert problem.startswith("mine: org/model at revision c0ffee000000 is not there in the cache ")
    assert f"unset it, or run `hf download org/model --revision {COMMIT}`" in problem
    snapshot = cached("org/model", WEIGHTS / model)
    assert ask(spec) == []
    file = sorted(snapshot.rglob("*.safetensors"))[0]
    file.unlink()
    [problem] = ask(spec)
    assert "has no weights (*.safetensors)" in problem


def test_a_backbone_or_checkpoint_that_would_be_downloaded_is_told_with_its_place(no_network, tmp_path):
    [problem] = ask(CATALOG["lpips-alex"])
    place = tmp_path / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    assert problem.startswith(f"lpips-alex: its backbone is not in {place}, and http://127.0.0.1:9/alexnet")
    assert "cannot be reached (ConnectionRefusedError): run once with a network, or download the file" in problem
    place.parent.mkdir(parents=True)
    place.write_bytes(b"weights")
    assert ask(CATALOG["lpips-alex"]) == []
    [problem] = ask(CATALOG["dreamsim-clip"])
    assert f"{tmp_path}/torch/hub/dreamsim has no clip_vitb32_pretrain.pth.tar, clip_vitb32_single_lora" in problem


def test_the_addresses_are_those_of_the_packages():
    import dreamsim.config
    import torchvision

    weights = torchvision.models
    assert set(BACKBONES.values()) == {
        weights.AlexNet_Weights.IMAGENET1K_V1.url,
        weights.VGG16_Weights.IMAGENET1K_V1.url,
        weights.SqueezeNet1_1_Weights.IMAGENET1K_V1.url,
    }
    assert {branch: dreamsim.config.dreamsim_weights[branch] for branch in CHECKPOINTS} == CHECKPOINTS


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            EndpointSpec(name="e", base_url="http://localhost/v1", served_model="m", api_key_env="CYCLEPREF_NO_KEY"),
            "e: the environment variable CYCLEPREF_NO_KEY (api_key_env) is empty or not set: export it",
        ),
        (
            CATALOG["shapeworld-blip"].model_copy(update={"quantization_config": {"load_in_4bit": True}}),
            "shapeworld-blip: the package bitsandbytes is missing: pip install bitsandbytes",
        ),
        (
            CATALOG["shapeworld-blip"].model_copy(update={"quantization_config": {"quant_method": "quanto"}}),
            "the package optimum-quanto is missing: pip install optimum-quanto",
        ),
    ],
)
def test_a_key_or_package_that_is_missing_is_told(spec, message):
    [problem] = ask(spec)
    assert message in problem


def test_a_model_that_is_code_of_its_own_is_asked_for_trust(tmp_path):
    shutil.copytree(WEIGHTS / "blip", tmp_path / "own")
    config = json.loads((tmp_path / "own" / "config.json").read_text())
    own = {**config, "model_type": "own_model", "auto_map": {"AutoModelForImageTextToText": "modeling.Own"}}
    (tmp_path / "own" / "config.json").write_text(json.dumps(own))
    spec = CaptionerSpec(name="mine", repo=str(tmp_path / "own"))
    [problem] = ask(spec)
    assert "runs code of its own: read it, and set trust_remote_code" in problem
    assert ask(spec.model_copy(update={"trust_remote_code": True})) == []
    (tmp_path / "own" / "config.json").write_text(json.dumps({**own, "model_type": "blip"}))
    assert ask(spec) == [], "transformers has the class itself, and runs that"


def _remove_component(folder: Path) -> None:
    shutil.rmtree(folder / "vae")


def _cut(folder: Path) -> None:
    file = folder / "unet" / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _break_header(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"<html>404</html>" * 9)


def _lose_shard(folder: Path) -> None:
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    index = {"weight_map": {"a": "m-1-of-2.safetensors", "b": "m-2-of-2.safetensors"}}
    (folder / "unet" / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    shutil.copy(folder / "vae" / "diffusion_pytorch_model.safetensors", folder / "unet" / "m-1-of-2.safetensors")


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_remove_component, "has no vae/, which its model_index.json names"),
        (_cut, r"diffusion_pytorch_model.safetensors in unet/ has \d+ bytes of \d+"),
        (_break_header, "in unet/ is cut short or not a safetensors file"),
        (_lose_shard, r"has no m-2-of-2.safetensors \(1 of 2 shards\) in unet/"),
        (lambda folder: (folder / "model_index.json").unlink(), r"has no model_index\.json"),
        (lambda folder: (folder / "model_index.json").write_text("{"), r"model_index\.json that is not JSON"),
    ],
)
def test_a_folder_that_is_not_whole_is_told(harm, said, tmp_path):
    import re

    shutil.copytree(WEIGHTS / "sd", tmp_path / "sd")
    harm(tmp_path / "sd")
    [problem] = ask(CATALOG["shapeworld-sd"].model_copy(update={"repo": str(tmp_path / "sd")}))
    assert re.search(said, problem), problem
    assert "download or copy the model again" in problem


def test_files_of_another_variant_are_not_looked_at(tmp_path):
    shutil.copytree(WEIGHTS / "sd", tmp_path / "sd")
    spec = CATALOG["shapeworld-sd"]
    (tmp_path / "sd" / "unet" / "diffusion_pytorch_model.fp16.safetensors").write_bytes(b"cut")
    assert lacking(tmp_path / "sd", spec) == []
    assert lacking(tmp_path / "sd", spec.model_copy(update={"variant": "fp16"})) == [
        "diffusion_pytorch_model.fp16.safetensors in unet/ is cut short or not a safetensors file"
    ]
    assert cut_short(tmp_path / "sd" / "unet" / "diffusion_pytorch_model.safetensors") is None


def test_a_build_that_joins_a_cluster_loads_its_models_elsewhere(no_network, monkeypatch):
    assert ask(CATALOG["lpips-alex"])
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert ask(CATALOG["lpips-alex"]) == []


def test_everything_that_a_recipe_needs_is_told_at_once_before_anything_is_read(no_network, tmp_path):
    server = {"base_url": "http://localhost:1/v1", "served_model": "m", "api_key_env": "CYCLEPREF_NO_KEY"}
    photos = tmp_path / "photos"
    photos.mkdir()
    recipe = parse_recipe(
        {
            "name": "test", "cycle": "i2t2i", "inputs": {"source": "images", "path": str(photos)},
            "forward": [{"model": "org/absent"}, {"model": "openai-endpoint", "settings": server}],
            "backward": {"model": "shapeworld-sd"},
            "metrics": [{"metric": "lpips-alex"}, {"metric": "dreamsim-dino"}],
            "pairs": {"min_margin": 0.0, "poor_chosen": None, "by": "lpips-alex"},
        }
    )  # fmt: skip
    with pytest.raises(NeedsError) as error:
        build(recipe, tmp_path / "out")
    first, *lines = str(error.value).splitlines()
    assert first == "4 things that the recipe needs are not here:"
    for start, line in zip(
        ("org/absent: cannot find", "dreamsim-dino: DreamSim's", "openai-endpoint: the env", "lpips-alex: its"),
        lines,
        strict=True,
    ):
        assert line.startswith(start)
    assert not (tmp_path / "out").exists()


class _Gate(BaseHTTPRequestHandler):
    """A Hub with a gated repository, and none else."""

    def do_HEAD(self) -> None:
        gated = self.path.startswith("/org/gated/")
        self.send_response(403 if gated else 404)
        self.send_header("X-Error-Code", "GatedRepo" if gated else "RepoNotFound")
        self.end_headers()

    def log_message(self, *args: object) -> None:
        pass


def test_a_gated_or_unreachable_repository_is_told_with_the_way_out(tmp_path):
    """In a process of its own: the Hub's client reads its settings at import."""
    code = (
        "import sys\nfrom cyclepref.builder.stages.needs import needs\n"
        "from cyclepref.schemas.resolved import Resolved\n"
        "from cyclepref.schemas.specs import CaptionerSpec\n"
        "for repo in sys.argv[1:]:\n"
        f"    print(*needs([Resolved(CaptionerSpec(name='m', repo=repo, revision='{COMMIT}'), {{}})]))"
    )
    server = HTTPServer(("127.0.0.1", 0), _Gate)
    Thread(target=server.serve_forever, daemon=True).start()

    def run(address: str, *repos: str) -> list[str]:
        own = {"HF_ENDPOINT": address, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "RAY_"))}
        command = [sys.executable, "-c", code, *repos]
        done = subprocess.run(
            command, env={**kept, **own}, capture_output=True, text=True, cwd=Path(__file__).parents[3]
        )
        assert done.returncode == 0, done.stderr[-2000:]
        return done.stdout.splitlines()

    address = f"http://127.0.0.1:{server.server_port}"
    gated, absent = run(address, "org/gated", "org/absent")
    server.shutdown()
    assert gated.startswith(f"m: org/gated is gated: accept its terms at {address}/org/gated, then `hf auth login`")
    assert "does not give it (" in absent
    [lost] = run(NOWHERE.rstrip("/"), "org/gated")
    assert "ConnectError" in lost
    assert "run `hf download org/gated" in lost
