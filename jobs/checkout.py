"""Running from a checkout, without installing it: `python -m jobs COMMAND`, `python -m jobs.build RECIPE`.

The folders builder/, jobs/ and schemas/ are the package `cyclepref` only after an install. A Ray job uploads the
folders as they are, to nodes that may have no `cyclepref`, or an older one. So this file makes a package of links to
them and puts it first on Python's path. Processes that this one starts find the package by PYTHONPATH, and the workers
of a Ray job make their own (see `_connect` in builder/engine/engine.py).
"""

import os
import stat
import sys
import tempfile
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

# The environment variable that tells this process and those it starts which checkout's code runs.
VARIABLE = "CYCLEPREF_CHECKOUT"
FOLDERS = ("builder", "jobs", "schemas")


def use_checkout() -> None:
    """Import `cyclepref` from the checkout that contains this file, whatever is installed.

    Raises:
        RuntimeError: if `cyclepref` is already loaded from elsewhere, or another user can write to the folder of links.
    """
    checkout = Path(__file__).resolve().parents[1]
    links = _linked(checkout)
    loaded = sys.modules.get("cyclepref")
    if loaded is not None and not str(loaded.__file__).startswith(str(links)):
        raise RuntimeError(f"cyclepref is loaded from {loaded.__file__} already, so that {checkout} cannot be used")
    # Python searches the folders on its path before it asks the finder of an editable install.
    sys.path[:] = [str(links), *(entry for entry in sys.path if entry != str(links))]
    others = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry not in ("", str(links))]
    os.environ["PYTHONPATH"] = os.pathsep.join([str(links), *others])
    os.environ[VARIABLE] = str(checkout)


def _linked(checkout: Path) -> Path:
    """A folder that links the checkout as the package `cyclepref`; only this user can write to it, and every call
    returns the same one."""
    name = f"cyclepref-{os.getuid()}-{sha256(str(checkout).encode()).hexdigest()[:16]}"
    folder = Path(tempfile.gettempdir()).resolve() / name
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    found = folder.lstat()
    # Another user who could write here would decide which code runs.
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid() or found.st_mode & 0o022:
        raise RuntimeError(f"{folder} is not a folder that only you can write to: remove it, or set TMPDIR to another")
    package = folder / "cyclepref"
    package.mkdir(exist_ok=True)
    targets = {name: checkout / name for name in FOLDERS}
    targets |= {path.name: path for path in (checkout / "jobs" / "face").iterdir() if path.name != "__pycache__"}
    for name, target in targets.items():
        # Several workers of a node may be here at once.
        with suppress(FileExistsError):
            (package / name).symlink_to(target)
    for link in package.iterdir():
        if link.is_symlink() and link.name not in targets:
            with suppress(FileNotFoundError):
                link.unlink()
    return folder
