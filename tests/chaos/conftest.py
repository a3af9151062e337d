"""Fixtures of the chaos tests: builds to kill, and a run of each cycle that nothing disturbs."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from builds import Build


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """Short and directly under /tmp: Ray's sockets lie in it, and a socket's path may have 107 characters."""
    path = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def start(folder) -> Iterator:
    """Starts builds, and ends what is left of them."""
    builds: list[Build] = []

    def begin(cycle: str, out: Path, *options: str, **settings) -> Build:
        builds.append(Build(cycle, out, folder, *options, **settings))
        return builds[-1]

    yield begin
    for build in builds:
        if build.running():
            build.kill("everything")
        build.end()


@pytest.fixture(scope="session")
def clean(folder, tmp_path_factory):
    """A run of each cycle that nothing disturbs: (run directory, parts, output), made when it is first asked for."""
    made: dict[str, tuple[Path, int, str]] = {}

    def get(cycle: str) -> tuple[Path, int, str]:
        if cycle not in made:
            build = Build(cycle, tmp_path_factory.mktemp("clean") / cycle, folder)
            build.wait_for(lambda: bool(build.family()) and not build.running())
            assert build.end() == 0, build.output
            made[cycle] = build.out, build.parts, build.output
        return made[cycle]

    return get
