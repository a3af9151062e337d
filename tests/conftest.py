"""What every test stands on: no network, few threads, and one small Ray for the tests that need a cluster."""

import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest

# Read at import by the libraries below, so set before any test module is. HF_HUB_OFFLINE=0 in the environment wins:
# that is how tests marked `network` are run.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tokenizer threads would compete with the models for two cores, and warn at every fork. OMP_NUM_THREADS stays unset
# on purpose: Ray gives each worker the threads that it declares, and leaves a value that is already there alone.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A cluster that the user works on must never run our tests, nor may they write the token that a new Ray would put in
# the user's home: it decides how the user's own Ray authenticates from then on.
for name in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "RAY_AUTH_TOKEN"):
    os.environ.pop(name, None)
_secret = tempfile.TemporaryDirectory(prefix="ray-token-")
_token = Path(_secret.name, "token")
_token.write_text(secrets.token_hex(32))
os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(_token))

# Processes that Ray starts import the workers that tests of the engine define, as they import ours.
_workers_of_tests = [str(Path(__file__).parent / folder) for folder in ("builder", "builder/engine", "benchmarks")]
os.environ["PYTHONPATH"] = os.pathsep.join([*_workers_of_tests, os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)

# On a busy machine the first example of a test pays for imports: slow is not wrong.
hypothesis.settings.register_profile("cyclepref", deadline=None)
hypothesis.settings.load_profile("cyclepref")


@pytest.fixture(scope="session")
def ray_local() -> Iterator[None]:
    """One small Ray on this machine, shared by all tests that ask for it; `Engine()` joins it."""
    import ray

    # Short and directly under /tmp: Ray's sockets lie in it, and a socket's path may have 107 characters.
    folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=0,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=512 * 2**20,
        _temp_dir=folder,
    )
    yield
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)
