"""Writes what best-of-n kept: a folder of pictures with one line for each in metadata.jsonl, which `load_dataset`
opens."""

import io
import json
from pathlib import Path
from typing import Any

from cyclepref.builder.common.images import content_id, encode
from cyclepref.builder.reward.best_of_n import METADATA, Choice, Kept
from cyclepref.builder.reward.errors import RewardError
from cyclepref.builder.reward.opening import open_image
from cyclepref.schemas.ids import digest


def new_folder(out: Path) -> None:
    """Refuse a folder that is not empty.

    Raises:
        RewardError: if it is not empty.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RewardError(f"{out} exists and is not empty: --out must name a new or empty folder")


def row_of(choice: Choice, rank: int) -> dict[str, Any]:
    """A kept candidate as JSON; `rank` is 1 for the best."""
    model = {"model": choice.model} if choice.model else {}
    return {"candidate": choice.candidate, "rank": rank, "reward": choice.reward, **model, "text": choice.text}


class BestOfN:
    """Writes kept candidates one by one; `close` writes the file of rows at the end.

    Raises:
        RewardError: if the folder is not empty, or cannot be written to.
    """

    file = METADATA

    def __init__(self, out: Path):
        new_folder(out)
        self._out, self._lines = out, io.StringIO()
        self.rows = 0
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RewardError(f"cannot write to {out}: {error.strerror or error}") from error

    def add(self, kept: Kept) -> None:
        """Write the pictures of one input, and note its rows."""
        for rank, choice in enumerate(kept.kept, 1):
            name = self._picture(choice, kept.name)
            row = {"file_name": name, "input": kept.name, "candidates": kept.kind, **row_of(choice, rank)}
            self._lines.write(json.dumps(row, ensure_ascii=False) + "\n")
            self.rows += 1

    def close(self) -> None:
        """Write the file of rows."""
        scratch = self._out / f".{METADATA}.tmp"
        scratch.write_text(self._lines.getvalue(), encoding="utf-8")
        scratch.replace(self._out / METADATA)

    def _picture(self, choice: Choice, of: str) -> str:
        image = open_image(choice.image)
        # Equal pictures of two prompts become two files, since each file has one prompt.
        name = f"{digest('kept', of, content_id(image))}.png"
        if not (self._out / name).exists():
            (self._out / name).write_bytes(encode(image))
        return name
