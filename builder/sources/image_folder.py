"""`source: images`: the pictures below a folder."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cyclepref.builder.common.files import absolute, listing, path_fault, read_file, shown, stamp, unshown
from cyclepref.builder.common.images import ENDINGS
from cyclepref.builder.sources.source import Items
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import ImageFolder


@dataclass(frozen=True)
class Images:
    """Everything under a folder, at any depth, that is named like an image file, in order of path.

    Files with other endings are not inputs. Links to files are followed; links to folders are not, as they can loop.
    One warning counts the skipped files and links when the items are listed.
    """

    spec: ImageFolder
    modality: Modality

    @property
    def place(self) -> str:
        """The folder."""
        return absolute(self.spec.path)

    def items(self) -> Items:
        """Paths relative to the folder; the stamp is size and modification time."""
        if fault := path_fault(self.spec.path, "folder"):
            raise RecipeError(f"inputs.path {fault}")
        root = Path(self.spec.path)
        found = listing(root, ENDINGS)
        if not found.files:
            there = found.skipped("images") or "it has no files"
            raise RecipeError(f"inputs.path {self.spec.path}: no image files in this folder ({there})")
        found.tell(f"inputs.path {self.spec.path}", "images")
        return [(shown(f.relative_to(root)), stamp(f)) for f in found.files]

    def read(self, names: list[str]) -> Iterator[bytes | Exception]:
        """The files' bytes."""
        for name in names:
            yield read_file(Path(self.spec.path) / unshown(name))
