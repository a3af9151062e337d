"""Publishing a reward model through the real client to a Hub-shaped server on loopback, and loading it from there."""

import os
import subprocess
import sys
from pathlib import Path

import hub_server

ROOT = Path(__file__).parents[2]
PUSH = f"""
from builder.reward.model import RewardModel
model = RewardModel.from_captioner({str(ROOT / "builder/shapeworld/weights/blip")!r}, head_sizes=[4])
print(model.push_to_hub("org/reward", private=True))
again = RewardModel.from_pretrained("org/reward")
from PIL import Image
image = Image.new("RGB", (64, 64), "red")
assert again.score(images=image, texts="a red circle") == model.score(images=image, texts="a red circle")
from transformers import AutoModel, AutoProcessor
assert type(AutoModel.from_pretrained("org/reward")) is RewardModel
assert type(AutoProcessor.from_pretrained("org/reward")).__name__ == "BlipProcessor"
"""

FILES = r"/(?P<repo>org/reward)/resolve/(?P<revision>[^/]+)/(?P<name>.+)"


def test_a_published_reward_model_has_its_card_and_processor_and_loads_by_its_id(tmp_path, monkeypatch):
    # The server's own concern is datasets: it is told how a model is made, and where its files are.
    made = ("POST", r"/api/repos/create", lambda answer: answer._say({"url": f"{answer.hub.url}/org/reward"}))
    routes = [made, *hub_server.ROUTES, ("GET HEAD", FILES, hub_server.Handler.resolve)]
    monkeypatch.setattr(hub_server, "ROUTES", routes)
    with hub_server.hub_server() as hub:
        repo = hub.repos["datasets", "org/reward"] = hub.make("org/reward", "models")
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HOME": str(tmp_path), "HF_TOKEN": hub_server.WRITER, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", PUSH], env=environment, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        files = repo.branches["main"][-1][1]
        assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= set(
            files
        )
        assert b"# Reward model" in files["README.md"].data
        assert hub_server.WRITER not in done.stdout + done.stderr
