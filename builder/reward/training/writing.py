"""Writing a training's files completely or not at all, with one clear error if the disk refuses them."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclepref.builder.reward.errors import RewardError

# The texts with which safetensors and tokenizers (Rust), and torch's archive writer, report a failed write.
WORDS = ("(os error ", "inline_container")


def replace_text(path: Path, text: str) -> None:
    """Write a file completely or not at all."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn write errors of any library in this block into a RewardError.

    Raises:
        RewardError: if the disk is full, or refuses the files for another reason.
    """
    try:
        yield
    except Exception as error:
        if not (isinstance(error, OSError) or any(words in str(error) for words in WORDS)):
            raise
        raise _refused(folder, error) from error


def _refused(folder: Path, error: Exception) -> RewardError:
    here = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    free = shutil.disk_usage(here).free / 2**20
    said = " ".join(str(error).split())
    return RewardError(
        f"cannot write to {folder} ({said:.200}; {free:,.0f} MB free): make room and run the same again, which resumes "
        "from the last checkpoint and part of the cache"
    )
