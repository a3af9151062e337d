"""A user's own folders builder/, jobs/ and schemas/ change nothing: `cyclepref` is the only name that an install takes.

They are beside the script, in the working directory and on PYTHONPATH at once here, and each raises when imported.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
OURS = ("builder", "jobs", "schemas")
API = "import cyclepref\nprint(cyclepref.load_recipe('shapeworld_i2t2i').name, cyclepref.__file__)\n"
SPAWNED = """\
import multiprocessing
import cyclepref

def work(_):
    from cyclepref.builder.pairing.pair import Direction
    import cyclepref
    return cyclepref.__file__

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert pool.map(work, [0]) == [cyclepref.__file__]
"""
RECIPE = {
    "name": "names", "cycle": "i2t2i", "inputs": {"source": "shapeworld", "limit": 2},
    "forward": [{"model": "shapeworld-blip", "samples": 2, "settings": {"temperature": 2.0}}],
    "backward": {"model": "shapeworld-sd", "settings": {"steps": 2}}, "metric": {"metric": "lpips-shapeworld"},
    "pairs": {"min_margin": 0, "poor_chosen": None},
}  # fmt: skip


@pytest.fixture
def user(tmp_path) -> Path:
    """A working directory with a user's folders of our folders' names, and scripts beside them."""
    for name in OURS:
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise RuntimeError('the folder of the user was imported')\n")
    (tmp_path / "api.py").write_text(API)
    (tmp_path / "spawned.py").write_text(SPAWNED)
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    return tmp_path


def run(python: str, user: Path, *arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(user)}
    done = subprocess.run([python, *arguments], cwd=user, env=environment, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check(python: str, user: Path) -> str:
    """The API, the command line and a spawned process; returns where cyclepref is."""
    assert "cyclepref" in run(python, user, "-m", "cyclepref.jobs", "build", "--help")
    assert "cyclepref" in run(python, user, "-m", "cyclepref.jobs.cli", "--version")
    run(python, user, "spawned.py")
    return run(python, user, "api.py").split()[1]


def test_folders_of_the_user_change_nothing_for_what_is_installed_here(user):
    check(sys.executable, user)


@pytest.mark.slow
def test_folders_of_the_user_change_nothing_for_a_build_and_its_workers(user):
    out = run(sys.executable, user, "-m", "cyclepref.jobs", "build", "recipe.yaml", "--out", "run")
    assert (user / "run" / "run.json").is_file(), out


@pytest.fixture(scope="session")
def wheel_python(tmp_path_factory) -> str:
    """Python with the wheel of this tree installed, and all else from the environment of the tests."""
    folder = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    # Of a copy: setuptools leaves a folder build/ behind, and would ship what an earlier one had.
    tree = folder / "tree"
    for name in OURS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, tree)
    command = [*pip, "wheel", str(tree), "--no-deps", "--no-build-isolation", "-q", "-w", str(folder)]
    subprocess.run(command, check=True, timeout=300, capture_output=True)
    (wheel,) = folder.glob("cyclepref-*.whl")
    venv.create(folder / "venv", with_pip=False)
    purelib = sysconfig.get_path("purelib", "venv", {"base": str(folder / "venv")})
    subprocess.run([*pip, "install", "-q", "--no-deps", "--target", purelib, str(wheel)], check=True, timeout=300)
    # After the wheel's own folder, so that an editable install there does not stand in for it.
    others = [entry for entry in sys.path if entry.endswith("site-packages")]
    Path(purelib, "others.pth").write_text("\n".join(others) + "\n")
    return str(folder / "venv" / "bin" / "python")


@pytest.mark.slow
def test_folders_of_the_user_change_nothing_for_a_wheel(wheel_python, user):
    where = check(wheel_python, user)
    assert Path(where).is_relative_to(Path(wheel_python).parents[1])
    run(wheel_python, user, "-m", "cyclepref.jobs", "build", "recipe.yaml", "--out", "run")
    names = {path.name for path in Path(where).parents[1].iterdir()}
    assert not names & set(OURS)


def test_a_checkout_runs_its_own_code_whatever_is_installed(tmp_path):
    """What a Ray job does: `python -m jobs` in an upload, which is another tree than the one that is installed."""
    for name in OURS:
        (tmp_path / name).mkdir()
        for entry in (ROOT / name).iterdir():
            if entry.name not in ("__pycache__", "__init__.py"):
                (tmp_path / name / entry.name).symlink_to(entry)
        (tmp_path / name / "__init__.py").write_text((ROOT / name / "__init__.py").read_text())
    (tmp_path / "jobs" / "checkout.py").unlink()
    (tmp_path / "jobs" / "checkout.py").write_text((ROOT / "jobs" / "checkout.py").read_text())
    (tmp_path / "builder" / "__init__.py").write_text('"""A copy."""\n\n__version__ = "0.0.0+copy"\n')
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "jobs", "--version"]
    for _ in range(2):  # the links are made, then found
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "cyclepref 0.0.0+copy"
