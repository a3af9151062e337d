"""Small finished runs, and a cache of the datasets library that is the tests' own."""

from pathlib import Path

import datasets
import pytest
from made_run import make_run


@pytest.fixture(scope="session")
def own_cache(tmp_path_factory):
    """Keep what `load_dataset` prepares out of the user's cache, and its progress bars out of the log."""
    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets-cache")
    datasets.disable_progress_bars()
    yield
    datasets.config.HF_DATASETS_CACHE = before
    datasets.enable_progress_bars()


@pytest.fixture(scope="session")
def runs(own_cache, tmp_path_factory) -> dict[str, Path]:
    """A finished run directory of each cycle; only to be read."""
    return {cycle: make_run(tmp_path_factory.mktemp(cycle), cycle) for cycle in ("i2t2i", "t2i2t")}
