"""Signs of life of a process that loads models: what it reads and writes, and a download that it may be waiting for."""

from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import psutil
from huggingface_hub import constants
from huggingface_hub.errors import HFValidationError
from huggingface_hub.file_download import repo_folder_name

from cyclepref.schemas.specs import Spec

# So much is one; less is what a process that hangs may still say to itself.
SIGN_BYTES = 2**20


class Signs:
    """Whether a process, or the download of what it loads, has moved on since the last time this was asked."""

    def __init__(self, pid: int, specs: Iterable[Spec]):
        named = {getattr(spec, "repo", None) for spec in specs} - {None}
        # What lies in a folder is not downloaded.
        self.pid, self.repos = pid, {repo for repo in named if not Path(repo).is_dir()}
        self._moved = 0

    def moved_on(self) -> bool:
        """Whether SIGN_BYTES have moved. One of several processes downloads a model while the others wait for it."""
        moved = _bytes_moved(self.pid) + sum(map(_bytes_in_cache, self.repos))
        if abs(moved - self._moved) < SIGN_BYTES:
            return False
        self._moved = moved
        return True


def _bytes_moved(pid: int) -> int:
    """Bytes that a process and its children have read and written so far; 0 where the system does not tell."""
    moved = 0
    with suppress(psutil.Error):
        process = psutil.Process(pid)
        for each in (process, *process.children(recursive=True)):
            # Not every system tells; and one of them may have ended by now.
            with suppress(psutil.Error, AttributeError):
                moved += sum(each.io_counters()[2:])
    return moved


def _bytes_in_cache(repo: str) -> int:
    """Bytes of a Hub repository in this machine's cache, files that are not yet whole among them."""
    held = 0
    # Nothing of it is there yet, or it can be no repository at all; and files are renamed when they are whole.
    with suppress(OSError, HFValidationError):
        folder = Path(constants.HF_HUB_CACHE, repo_folder_name(repo_id=repo, repo_type="model"), "blobs")
        for blob in folder.iterdir():
            held += blob.stat().st_blocks * 512  # a file may be made as long as it will be before it is filled
    return held
