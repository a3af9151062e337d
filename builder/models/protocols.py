"""What every captioner and text-to-image pipeline answers, and the two Protocols: batch in, same length and order
out."""

from dataclasses import dataclass
from typing import Protocol

from PIL import Image


class NoOutput(ValueError):
    """A model answered without an output: what it sampled is at fault, not the row, so another draw may do."""


@dataclass(frozen=True)
class Caption:
    """A caption as compared (`text`: cleaned) and as generated (`raw`); `truncated`: it ended by token limit."""

    text: str
    raw: str
    truncated: bool


@dataclass(frozen=True)
class Painting:
    """A generated image.

    `cut_by` names the tokenizers that cut the prompt (CLIP's at 77 tokens...); `truncated`: all of them did, so part
    of the prompt was read by none. `refused`: a safety checker blacked the image; None where no checker says.
    """

    image: Image.Image
    truncated: bool
    cut_by: tuple[str, ...] = ()
    refused: bool | None = None


class Captioner(Protocol):
    """Image to text."""

    def caption(self, images: list[Image.Image], seeds: list[int | None]) -> list[Caption | Exception]:
        """One caption an image, in order, or why there is none; a seed decides all of its sampling, None means greedy
        decoding."""


class TextToImage(Protocol):
    """Text to image."""

    def paint(self, prompts: list[str], seeds: list[int]) -> list[Painting]:
        """One image a prompt, in order; a seed decides all of its noise."""
