"""Densely Captioned Images (Urbanek et al. 2023, arXiv 2312.08578), the inputs of CyclePrefDB, in its own layout.

    annotations/NAME.json   one for each image; of its keys, `image` (a file in photos/) and `short_caption` are read
    photos/                 not in DCI's archive: the images of SA-1B's sa_000138.tar, extracted here
    splits.json             {"train": ["NAME.json", ...], "valid": [...], "test": [...]}

The train split has the 7.6K images of CyclePrefDB.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclepref.builder.common.files import absolute, from_json, read_file, read_file_within, stamp
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import DciFolder


class WrongAnnotation(ValueError):
    """An annotation file without an image name or a short caption."""


class MissingPhoto(FileNotFoundError):
    """An annotation whose photo was not downloaded."""


@dataclass(frozen=True)
class Dci:
    """The photos or the short captions of DCI; an item is named by its annotation file."""

    spec: DciFolder
    modality: Modality

    @property
    def place(self) -> str:
        """The folder alone, since an annotation is the same input in every split."""
        return absolute(self.spec.path)

    def items(self) -> list[tuple[str, str]]:
        """Annotation files of the split, in its order, or all of them in order of name.

        The stamp is the size and time of the annotation and, if photos are read, of its photo. So a photo that is added
        later is read without further settings.

        Raises:
            RecipeError: if the folder has another layout, or the split is unknown.
        """
        self._check_layout()
        return [(name, self._stamp(name)) for name in self._names()]

    def read(self, names: list[str]) -> Iterator[bytes | str | Exception]:
        """The photos' bytes, or the captions."""
        for name in names:
            try:
                yield self._photo(name) if self.modality == "image" else self._value(name, "short_caption")
            except (OSError, ValueError) as error:
                yield error

    def _check_layout(self) -> None:
        root = Path(self.spec.path)
        needed = [root / "annotations", *([root / "photos"] if self.modality == "image" else [])]
        missing = [folder.name for folder in needed if not folder.is_dir()]
        if missing:
            raise RecipeError(
                f"inputs.path {self.spec.path}: no {' and no '.join(missing)} folder in it (looked in "
                f"{root.absolute()}); give the folder densely_captioned_images of DCI's archive, with annotations/, "
                "splits.json, and the images of SA-1B's sa_000138.tar in photos/"
            )

    def _names(self) -> list[str]:
        if self.spec.split is not None:
            return self._split(self.spec.split)
        # File managers and archivers leave files whose names begin with a dot.
        files = (Path(self.spec.path) / "annotations").glob("*.json")
        names = sorted(file.name for file in files if not file.name.startswith("."))
        if not names:
            raise RecipeError(f"inputs.path {self.spec.path}: no annotations/*.json in it")
        return names

    def _split(self, split: str) -> list[str]:
        path = Path(self.spec.path) / "splits.json"
        rule = 'it must be an object of lists of annotation files, {"train": ["NAME.json", ...], ...}'
        try:
            splits = from_json(_or_raise(read_file(path)))
        except (OSError, ValueError) as error:
            raise RecipeError(
                f"inputs.split {split!r}: cannot read {path} ({error}); {rule}, or set split to null for all"
            ) from error
        if not isinstance(splits, dict) or not all(_is_list_of_names(names) for names in splits.values()):
            raise RecipeError(f"{path} has another layout than DCI's: {rule}")
        if split not in splits:
            raise RecipeError(f"inputs.split {split!r} is not in {path}: its splits are {', '.join(splits)}, or null")
        return splits[split]

    def _stamp(self, name: str) -> str:
        file = Path(self.spec.path) / "annotations" / name
        if self.modality == "text":
            return stamp(file)
        try:
            return f"{stamp(file)}:{stamp(Path(self.spec.path) / 'photos' / self._value(name, 'image'))}"
        except (OSError, ValueError):  # reading the row gives the error
            return stamp(file)

    def _photo(self, name: str) -> bytes:
        image, photos = self._value(name, "image"), Path(self.spec.path) / "photos"
        data = read_file_within(photos, image)
        if isinstance(data, FileNotFoundError):
            raise MissingPhoto(f"{name} names the photo {image}, which is not in {photos}") from data
        return _or_raise(data)

    def _value(self, name: str, key: str) -> str:
        """One text of an annotation."""
        data = _or_raise(read_file_within(Path(self.spec.path) / "annotations", name))
        try:
            found = from_json(data)
        except ValueError as error:
            raise WrongAnnotation(f"{name} is not JSON ({error})") from error
        value = found.get(key) if isinstance(found, dict) else None
        if not isinstance(value, str):
            keys = ", ".join(sorted(found)) if isinstance(found, dict) else type(found).__name__
            raise WrongAnnotation(f"{name} has no text under {key!r}: it has {keys}")
        return value


def _is_list_of_names(names: Any) -> bool:
    return isinstance(names, list) and all(isinstance(name, str) and "\0" not in name for name in names)


def _or_raise(data: bytes | Exception) -> bytes:
    if isinstance(data, Exception):
        raise data
    return data
