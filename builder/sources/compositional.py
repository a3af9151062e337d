"""The compositional prompts of Lee et al. 2023, Aligning Text-to-Image Models using Human Feedback (arXiv 2302.12192).

An object in a colour, in a number, in a place, or in several of these at once. The words are the paper's: 9 colours,
counts from 1 to 6, 8 backgrounds, 25 objects of which 5 are held out. The paper shows examples and gives no templates,
so the wording, the prepositions and the article of a single object are choices of this file:

    colour                    a red apple
    count                     one dog, two wolves
    background                an orange on the table
    colour-count              two green dogs
    colour-background         a green dog on the moon
    count-background          three wolves in the forest
    colour-count-background   two green dogs on the table

All combinations exist, sensible or not (the paper's do too): 15,725 prompts of all kinds and objects.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, product, zip_longest
from typing import get_args

from cyclepref.builder.sources import compositional
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.ids import digest
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.sources import CompositionalPrompts, PromptKind

COLOURS = ("red", "yellow", "green", "blue", "black", "pink", "purple", "white", "brown")
COUNTS = ("one", "two", "three", "four", "five", "six")
BACKGROUNDS = (
    "in the forest", "in the city", "on the moon", "in the field",
    "in the sea", "on the table", "in the desert", "in San Francisco",
)  # fmt: skip
HELD_OUT = ("bear", "tiger", "rabbit", "rose", "wolf")
OBJECTS = (
    "dog", "cat", "lion", "orange", "vase", "cup", "apple", "chair", "bird", "cake", "bicycle", "tree", "donut",
    "box", "plate", "clock", "backpack", "car", "airplane", "horse", *HELD_OUT,
)  # fmt: skip
KINDS: tuple[PromptKind, ...] = get_args(PromptKind)
# All other objects take an s.
PLURALS = {"box": "boxes", "wolf": "wolves"}


def prompts(kinds: Iterable[PromptKind], held_out: str = "exclude", seed: int = 0) -> list[str]:
    """All prompts of these kinds, each once, shuffled by `seed`; the kinds alternate until each runs out.

    `held_out` is "exclude", "only" or "include". The order of `kinds` and repeated kinds have no effect.
    """
    groups = {"exclude": set(OBJECTS) - set(HELD_OUT), "only": set(HELD_OUT), "include": set(OBJECTS)}
    objects = [name for name in OBJECTS if name in groups[held_out]]
    decks = [sorted(_of_kind(kind, objects), key=lambda p: digest("compositional", seed, p)) for kind in KINDS
             if kind in set(kinds)]  # fmt: skip
    return [prompt for prompt in chain.from_iterable(zip_longest(*decks)) if prompt is not None]


def phrase(name: str, colour: str | None = None, count: str | None = None, background: str | None = None) -> str:
    """One prompt, in the wording above.

    >>> phrase("wolf", colour="white", count="two", background="on the moon")
    'two white wolves on the moon'
    """
    noun = PLURALS.get(name, f"{name}s") if count not in (None, "one") else name
    words = [colour, noun] if colour else [noun]
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([count or article, *words, *([background] if background else [])])


def _of_kind(kind: PromptKind, objects: list[str]) -> list[str]:
    """Every combination of the attributes that a kind names."""
    values = {"colour": COLOURS, "count": COUNTS, "background": BACKGROUNDS}
    named = kind.split("-")
    return [
        phrase(name, **dict(zip(named, chosen, strict=True)))
        for name in objects
        for chosen in product(*(values[attribute] for attribute in named))
    ]


@dataclass(frozen=True)
class Compositional:
    """Compositional prompts; an item is named by its prompt."""

    spec: CompositionalPrompts
    modality: Modality

    @property
    def place(self) -> str:
        """The generator alone, since a prompt does not depend on the settings that drew it."""
        return "compositional"

    def items(self) -> list[tuple[str, str]]:
        """`limit` distinct prompts of the kinds asked for.

        Raises:
            RecipeError: if there are fewer.
        """
        found = compositional.prompts(self.spec.kinds, self.spec.held_out, self.spec.seed)
        if (self.spec.limit or 0) > len(found):
            raise RecipeError(
                f"inputs.limit is {self.spec.limit}, but these kinds with held_out {self.spec.held_out!r} give only "
                f"{len(found)} prompts: lower it, or add kinds ({', '.join(compositional.KINDS)})"
            )
        return [(prompt, "") for prompt in found[: self.spec.limit]]

    def read(self, names: list[str]) -> Iterator[str]:
        """The prompts themselves."""
        yield from names
