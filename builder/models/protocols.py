"""The two Protocols of captioners and text-to-image pipelines, and their outputs: one for each input, in order."""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image


class NoOutput(ValueError):
    """A model gave no output for a sample. The row itself may be fine, so another draw with another seed may work."""


@dataclass(frozen=True)
class Caption:
    """A caption, cleaned for comparison (`text`) and as generated (`raw`); `truncated`: the token limit ended it."""

    text: str
    raw: str
    truncated: bool


@dataclass(frozen=True)
class Painting:
    """A generated image.

    `cut_by` names the tokenizers that cut the prompt (CLIP's at 77 tokens...); `truncated`: all of them cut it, so no
    encoder read the whole prompt. `refused`: a safety checker blackened the image; None if the pipeline has no checker.
    """

    image: Image.Image
    truncated: bool
    cut_by: tuple[str, ...] = ()
    refused: bool | None = None


class Captioner(Protocol):
    """Image to text."""

    def caption(self, images: list[Image.Image], seeds: list[int | None]) -> list[Caption | Exception]:
        """One caption for each image, in order, or the reason why there is none. The seed determines all sampling; None
        means greedy decoding."""


class TextToImage(Protocol):
    """Text to image."""

    def paint(self, prompts: list[str], seeds: list[int]) -> list[Painting]:
        """One image for each prompt, in order; the seed determines all of its noise."""
