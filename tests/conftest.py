"""What every test stands on: no network, few threads, and one small Ray for the tests that need a cluster."""

import logging
import os
import secrets
import shutil
import sys
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

# By seconds, longest first: a file is one worker's, and one that began late would run alone at the end.
LONGEST = (
    "tests/jobs/test_demo.py",
    "tests/test_ray_job.py",
    "tests/builder/stages/test_build.py",
    "tests/builder/engine/test_supervisor.py",
    "tests/builder/engine/test_engine.py",
    "tests/builder/engine/test_own_ray.py",
    "tests/builder/stages/test_determinism.py",
    "tests/builder/stages/test_endpoint_build.py",
    "tests/builder/shapeworld/test_train.py",
    "tests/builder/dataset/test_publish.py",
    "tests/chaos/test_kills.py",
    "tests/chaos/test_stops.py",
)


def pytest_configure(config: pytest.Config) -> None:
    """With several workers, give files out in this order; pytest-xdist would go by their number of tests."""
    if missing := [name for name in LONGEST if not (config.rootpath / name).is_file()]:
        raise pytest.UsageError(f"tests/conftest.py: LONGEST names what is no file: {', '.join(missing)}")
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Long files first, where there are several workers."""
    if hasattr(config, "workerinput"):
        places = {name: place for place, name in enumerate(LONGEST)}
        items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Share the cores among the workers: PyTorch would take all of them for each, and its threads wait for others."""
    if hasattr(session.config, "workerinput") and "torch" in sys.modules:
        workers = session.config.workerinput["workercount"]
        sys.modules["torch"].set_num_threads(max(1, (os.cpu_count() or 1) // workers))


@pytest.fixture(scope="module")
def engine(ray_local) -> Iterator:
    """One engine for the builds of a file, so that they share whatever it keeps loaded."""
    from cyclepref.builder.engine.engine import Engine

    with Engine() as shared:
        yield shared


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
