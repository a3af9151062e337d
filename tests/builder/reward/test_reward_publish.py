"""Publishing a reward model through the real client to a Hub-shaped server on loopback, and loading it from there."""

import os
import subprocess
import sys
from pathlib import Path

import hub_server

ROOT = Path(__file__).parents[3]
PUSH = f"""
from cyclepref.builder.reward.model import RewardModel
model = RewardModel.from_captioner({str(ROOT / "builder/shapeworld/weights/blip")!r}, head_sizes=[4])
print(model.push_to_hub("org/reward", private=True))
again = RewardModel.from_pretrained("org/reward")
from PIL import Image
image = Image.new("RGB", (64, 64), "red")
[one], [other] = (each.score(images=image, texts="a red circle") for each in (again, model))
assert abs(one - other) < 1e-5, (one, other)  # the last bits depend on where weights lie in memory
from transformers import AutoModel, AutoProcessor
assert type(AutoModel.from_pretrained("org/reward")) is RewardModel
assert type(AutoProcessor.from_pretrained("org/reward")).__name__ == "BlipProcessor"
"""
# A model is trained from it; then its main branch moves.
TRAIN = f"""
import sys
sys.path.insert(0, {str(ROOT / "tests/builder/reward")!r})
from pathlib import Path
from plain_colours import make_rows, write_dataset
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.training.settings import TrainSettings
from cyclepref.builder.reward.training.train import train_reward
data = write_dataset(Path("data"), "i2t2i", make_rows("i2t2i", train=2))
def train(**options):
    return train_reward([data], "org/reward", "trained", TrainSettings(epochs=1), **options).metrics
first = train()
assert train()["seconds"] == first["seconds"]  # it was finished
model.head[-1].bias.data += 1
model.push_to_hub("org/reward")
try:
    train()
except RewardError as error:
    print("REFUSED", error)
assert train(revision=first["revision"])["seconds"] == first["seconds"]
print("STARTED FROM", first["revision"])
"""

FILES = r"/(?P<repo>org/reward)/resolve/(?P<revision>[^/]+)/(?P<name>.+)"


def test_a_published_reward_model_loads_by_its_id_and_training_from_it_names_the_commit(tmp_path, monkeypatch):
    # The server's own concern is datasets: it is told how a model is made, and where its files are.
    made = ("POST", r"/api/repos/create", lambda answer: answer._say({"url": f"{answer.hub.url}/org/reward"}))
    routes = [made, *hub_server.ROUTES, ("GET HEAD", FILES, hub_server.Handler.resolve)]
    monkeypatch.setattr(hub_server, "ROUTES", routes)
    with hub_server.hub_server() as hub:
        repo = hub.repos["datasets", "org/reward"] = hub.make("org/reward", "models")
        environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
        environment |= {"HF_HOME": str(tmp_path), "HF_TOKEN": hub_server.WRITER, "PYTHONPATH": str(ROOT)}
        environment["OMP_NUM_THREADS"] = "1"  # two threads of a model this small wait for each other
        done = subprocess.run(
            [sys.executable, "-c", PUSH + TRAIN],
            cwd=tmp_path,
            env=environment,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "REFUSED trained has a finished model of a training with other start" in done.stdout
        commits = [commit for commit, _ in repo.branches["main"]]
        assert f"STARTED FROM {commits[-2]}" in done.stdout
        files = repo.branches["main"][-1][1]
        assert {"README.md", "config.json", "model.safetensors", "processor_config.json", "tokenizer.json"} <= set(
            files
        )
        assert b"# Reward model" in files["README.md"].data
        assert hub_server.WRITER not in done.stdout + done.stderr
