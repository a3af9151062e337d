"""Rules that perturb a text by changing one thing in it. In Lee et al. 2023 (arXiv 2302.12192) a reward model learns to
tell the original from such texts.

    two red dogs on the table  ->  two green dogs on the table        a colour
                                   four red dogs on the table         a count
                                   two red cats on the table          an object
                                   two red dogs under the table       a relation
    a cup left of a plate      ->  a plate left of a cup              two objects change places

The words are the paper's (see builder/sources/compositional.py), those of the embedded world, and the commonest
relations. A text without any of these words has no perturbed texts.
"""

import re
from collections.abc import Callable
from itertools import zip_longest
from typing import NamedTuple

from cyclepref.builder.shapeworld import grammar, scenes
from cyclepref.builder.sources import compositional
from cyclepref.schemas.ids import digest

PLURALS = {name: compositional.PLURALS.get(name, f"{name}s") for name in compositional.OBJECTS} | grammar.PLURALS
SINGULARS = {plural: name for name, plural in PLURALS.items()}
NOUNS = (set(compositional.OBJECTS), set(scenes.SHAPES))
COLOURS = tuple(dict.fromkeys([*compositional.COLOURS, *scenes.COLOURS, "grey"]))
COUNTS = compositional.COUNTS
RELATIONS = {
    "above": "below", "below": "above", "left": "right", "right": "left", "over": "under", "under": "over",
    "on": "under", "behind": "before", "inside": "outside", "outside": "inside",
}  # fmt: skip
# A word, a number, or the characters between them.
TOKEN = re.compile(r"[^\W\d_]+|\d+|[\W_]+")


class Edit(NamedTuple):
    """New words for some places of a text, and the kind of thing that they change."""

    kind: str
    words: tuple[tuple[int, str], ...]


def perturbed(text: str, most: int, seed: int = 0, words: int = 64) -> list[str]:
    """Up to `most` distinct texts that differ from `text` in one thing.

    Kinds of changes alternate; the order within a kind depends on the text and the seed. Only the first `words` words
    are changed, since a reward model may not read further.
    """
    tokens = TOKEN.findall(text)
    places = [at for at, token in enumerate(tokens) if token[0].isalnum()][:words]
    decks: dict[str, list[Edit]] = {}
    for edit in [*_swaps(tokens, places), *_exchange(tokens, places)]:
        decks.setdefault(edit.kind, []).append(edit)
    for deck in decks.values():
        deck.sort(key=lambda edit: digest("perturb", seed, text, edit.kind, str(edit.words)))
    found = dict.fromkeys([text])
    for edit in (edit for turn in zip_longest(*decks.values()) for edit in turn if edit):
        if len(found) > most:
            break
        found[_apply(tokens, edit)] = None
    return list(found)[1:]


def perturber(most: int, seed: int, max_text_length: int) -> Callable[[str], list[str]]:
    """`perturbed` for a reward model that reads `max_text_length` tokens, assuming two tokens per word."""
    return lambda text: perturbed(text, most, seed, max(1, max_text_length // 2))


def _swaps(tokens: list[str], places: list[int]) -> list[Edit]:
    """Every replacement of one word by another of its kind."""
    edits = []
    for at, place in enumerate(places):
        word, later = tokens[place].lower(), places[at + 1 : at + 3]
        if word in COLOURS and (word != "orange" or _is_colour_before(tokens, place)):
            edits += [Edit("colour", ((place, other),)) for other in COLOURS if other != word]
        elif word in COUNTS:
            nouns = (other for other in later if _is_noun(tokens[other].lower()))
            noun = next((other for other in nouns if not _is_colour_before(tokens, other)), None)
            edits += [_count(tokens, place, other, noun) for other in COUNTS if other != word]
        elif _is_noun(word):
            edits += [Edit("object", ((place, other),)) for other in _others(word)]
        elif word in RELATIONS:
            edits.append(Edit("relation", ((place, RELATIONS[word]),)))
    return edits


def _exchange(tokens: list[str], places: list[int]) -> list[Edit]:
    """Swap the nearest two objects around a relation."""
    nouns = [place for place in places if _is_noun(tokens[place].lower()) and not _is_colour_before(tokens, place)]
    edits = []
    for place in (place for place in places if tokens[place].lower() in RELATIONS):
        before = [noun for noun in nouns if noun < place]
        after = [noun for noun in nouns if noun > place]
        if before and after and _singular(tokens[before[-1]]) != _singular(tokens[after[0]]):
            first, second = before[-1], after[0]
            swapped = ((first, _like(tokens[second], tokens[first])), (second, _like(tokens[first], tokens[second])))
            edits.append(Edit("exchange", swapped))
    return edits


def _is_colour_before(tokens: list[str], place: int) -> bool:
    """Whether "orange" is the colour of the next word, and not the fruit."""
    following = [token.lower() for token in tokens[place + 1 :][:2]]
    return tokens[place].lower() == "orange" and any(map(_is_noun, following))


def _is_noun(word: str) -> bool:
    return word in PLURALS or word in SINGULARS


def _singular(word: str) -> str:
    return SINGULARS.get(word.lower(), word.lower())


def _like(word: str, other: str) -> str:
    """A noun in the grammatical number of another."""
    return PLURALS[_singular(word)] if other.lower() in SINGULARS else _singular(word)


def _others(word: str) -> list[str]:
    """Other objects of the same world, in the same grammatical number."""
    [world] = [world for world in NOUNS if _singular(word) in world]
    return [_like(other, word) for other in sorted(world) if other != _singular(word)]


def _count(tokens: list[str], place: int, other: str, noun: int | None) -> Edit:
    """Another count, with its noun in the matching grammatical number."""
    if noun is None:
        return Edit("count", ((place, other),))
    singular = _singular(tokens[noun])
    return Edit("count", ((place, other), (noun, singular if other == "one" else PLURALS[singular])))


def _apply(tokens: list[str], edit: Edit) -> str:
    """The text with its new words, after fixing capitals and articles."""
    made = list(tokens)
    for place, word in edit.words:
        made[place] = word.capitalize() if tokens[place][0].isupper() else word
        article = made[place - 2] if place >= 2 and made[place - 1] == " " else ""
        if article.lower() in ("a", "an"):
            made[place - 2] = article[0] + ("n" if word[0] in "aeiou" else "")
    return "".join(made)
