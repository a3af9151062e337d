"""Writing what a training makes: whole or not at all, and with one clear error where the disk does not take it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cyclepref.builder.reward.errors import RewardError

# How safetensors and tokenizers (Rust), and torch's writer of archives, tell of a write that failed.
WORDS = ("(os error ", "inline_container")


def replace_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    scratch = path.with_suffix(".tmp")
    scratch.write_text(text, encoding="utf-8")
    scratch.replace(path)


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """While files are written into a folder, by whatever library.

    Raises:
        RewardError: if the disk is full, or does not take them for another reason.
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
        f"{folder} does not take what is written there ({said:.200}; {free:,.0f} MB free): make room, and say the same "
        "again: it goes on from the last checkpoint and part of the cache"
    )
