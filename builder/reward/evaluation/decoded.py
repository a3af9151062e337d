"""Inputs for the judges: decoded, without images that cannot be decoded."""

from dataclasses import dataclass, field
from typing import Any

from PIL import Image

from cyclepref.builder.common.images import UnreadableImage, content_id
from cyclepref.builder.preferences.layouts.items import Content, Judged
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.ids import text_id

Seen = str | Image.Image


@dataclass(frozen=True)
class Shown:
    """An input and its candidates. `key` is the content id of the input, `sizes` are the candidates' lengths: words of
    a text, bytes of an image's file. The rest is as in `Judged`."""

    kind: Modality
    name: str
    key: str
    shared: Seen
    candidates: list[Seen]
    sizes: list[int]
    models: list[str]
    scores: list[float] | None
    pairs: list[tuple[int, int]]
    margins: list[float] | None


@dataclass
class Unreadable:
    """What was left out: the images that do not decode, each with the reason, and the number of pairs lost with
    them."""

    images: list[str] = field(default_factory=list)
    pairs: int = 0


def show(item: Judged, unreadable: Unreadable) -> Shown | None:
    """An input with its readable candidates; None if the input is not readable, or fewer than two candidates are."""
    shared = _opened(item.shared, unreadable)
    opened = [_opened(candidate, unreadable) if shared else None for candidate in item.candidates]
    kept = [at for at, candidate in enumerate(opened) if candidate is not None]
    place = {at: new for new, at in enumerate(kept)}
    used = [number for number, pair in enumerate(item.pairs) if place.keys() >= set(pair)]
    unreadable.pairs += len(item.pairs) - len(used)
    if shared is None or len(kept) < 2:
        return None
    return Shown(
        item.kind, item.name, key_of(shared[0]), shared[0],
        [opened[at][0] for at in kept], [opened[at][1] for at in kept], [item.models[at] for at in kept],
        None if item.scores is None else [item.scores[at] for at in kept],
        [(place[item.pairs[number][0]], place[item.pairs[number][1]]) for number in used],
        None if item.margins is None else [item.margins[number] for number in used],
    )  # fmt: skip


def key_of(content: Seen) -> str:
    """The content id of a text or of a decoded image, as in schemas/ids.py."""
    return text_id(content) if isinstance(content, str) else content_id(content)


def _opened(content: Content, unreadable: Unreadable) -> tuple[Seen, int] | None:
    if isinstance(content, str):
        return content, len(content.split())
    try:
        return content.open()
    except UnreadableImage as error:
        unreadable.images.append(str(error))
        return None


def flat(inputs: list[Shown]) -> tuple[list[Any], list[Any]]:
    """Images and texts, one of each for every candidate."""
    sides = [([each.shared] * len(each.candidates), each.candidates, each.kind) for each in inputs]
    images = [image for shared, own, kind in sides for image in (shared if kind == "text" else own)]
    texts = [text for shared, own, kind in sides for text in (own if kind == "text" else shared)]
    return images, texts


def by_input(inputs: list[Shown], values: list[float]) -> list[list[float]]:
    """The values of all candidates, input by input."""
    found, rest = [], iter(values)
    for each in inputs:
        found.append([next(rest) for _ in each.candidates])
    return found
