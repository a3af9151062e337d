"""`source: prompts`: a text file with one prompt on each line."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cyclepref.builder.common.files import absolute, numbered_lines, text_lines
from cyclepref.builder.sources.source import Items
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.ids import digest
from cyclepref.schemas.sources import PromptFile


@dataclass(frozen=True)
class Prompts:
    """The lines of a UTF-8 file, each a prompt. Blank lines are skipped; one warning counts them."""

    spec: PromptFile
    modality: Modality

    @property
    def place(self) -> str:
        """The file."""
        return absolute(self.spec.path)

    def items(self) -> Items:
        """Line numbers from 1, stamped by the line's bytes."""
        name = Path(self.spec.path).name
        return [(f"{name}:{n}", digest(line)) for n, line in numbered_lines(self.spec.path)]

    def read(self, names: list[str]) -> Iterator[str | Exception]:
        """The lines, without their ends."""
        lines = text_lines(self.spec.path)
        for name in names:
            try:
                yield lines[int(name.rsplit(":", 1)[1]) - 1].decode("utf-8")
            except UnicodeDecodeError as error:
                yield error
