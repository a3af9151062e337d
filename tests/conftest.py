"""What every test stands on: no network, few threads, and one small Ray for the tests that need a cluster."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator

# Read at import by the libraries below, so set before any test module is. HF_HUB_OFFLINE=0 in the environment wins:
# that is how tests marked `network` are run.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Tokenizer threads would compete with the models for two cores, and warn at every fork. OMP_NUM_THREADS stays unset
# on purpose: Ray gives each worker the threads that it declares, and leaves a value that is already there alone.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# A cluster that the user works on must never run our tests.
os.environ.pop("RAY_ADDRESS", None)

import hypothesis
import pytest

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
