"""Scenes in words: one canonical phrasing, its exact reading, a lenient reading, and other phrasings as a stress set.

    three red circles above one blue star on a white background

`parse` accepts exactly what `describe` writes. `claims` reads whatever a captioner wrote and returns what it asserts.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

from cyclepref.builder.shapeworld.scenes import BACKGROUNDS, COLOURS, OPPOSITE, SHAPES, Group, Scene

COUNT_WORDS = {1: "one", 2: "two", 3: "three", 4: "four"}
PLURALS = {shape: "crosses" if shape == "cross" else shape + "s" for shape in SHAPES}
WORDS = (
    *COUNT_WORDS.values(),
    *COLOURS,
    *SHAPES,
    *PLURALS.values(),
    *("above", "below", "left", "right", "of", "on", "a"),
    *BACKGROUNDS,
    "background",
)
"""Every word of the canonical phrasing."""

_EXAMPLE = "'three red circles above one blue star on a white background'"


def describe(scene: Scene) -> str:
    """The one canonical description of a scene: lower case, no punctuation, at most 13 words."""
    groups = [_phrase(group) for group in scene.groups]
    body = groups[0] if scene.relation is None else f"{groups[0]} {scene.relation} {groups[1]}"
    return f"{body} on a {scene.background} background"


def _phrase(group: Group) -> str:
    noun = group.shape if group.count == 1 else PLURALS[group.shape]
    return f"{COUNT_WORDS[group.count]} {group.colour} {noun}"


def parse(text: str) -> Scene:
    """The scene of a canonical description; `describe(parse(text)) == text`.

    Raises ValueError for any other text; `claims` reads those.
    """
    found = claims(text)
    try:
        groups = tuple(Group(g.count, g.colour, g.shape) for g in found.groups)
        scene = Scene(groups, found.relations[0][1] if found.relations else None, found.background)
    except ValueError as error:
        raise ValueError(_not_canonical(text, str(error))) from None
    if describe(scene) != text:
        raise ValueError(_not_canonical(text, f"the canonical phrasing is {describe(scene)!r}"))
    return scene


def _not_canonical(text: str, why: str) -> str:
    return f"{text!r} is not a canonical description ({why}): write it like {_EXAMPLE}, or read it with claims()"


@dataclass
class GroupClaim:
    """What a text says about one group; None for what it does not say. An unknown count is a number out of COUNTS."""

    count: int | None = None
    colour: str | None = None
    shape: str | None = None

    def __len__(self) -> int:
        """The number of attributes claimed."""
        return sum(value is not None for value in (self.count, self.colour, self.shape))


@dataclass
class Claims:
    """What a text asserts: groups in order of mention, relations as (i, relation, j) over them, a background."""

    groups: list[GroupClaim] = field(default_factory=list)
    relations: list[tuple[int, str, int]] = field(default_factory=list)
    background: str | None = None

    def __len__(self) -> int:
        """The number of facts claimed."""
        return sum(map(len, self.groups)) + len(self.relations) + (self.background is not None)


_NUMBERS = {word: n for n, word in COUNT_WORDS.items()}
_NUMBERS |= {"a": 1, "an": 1, "single": 1, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_NUMBERS |= {"pair": 2, "couple": 2, "trio": 3, "quartet": 4}
_SHAPES = {shape: shape for shape in SHAPES} | {plural: shape for shape, plural in PLURALS.items()}
_SHAPES |= {"disc": "circle", "discs": "circle", "plus": "cross", "pluses": "cross", "hoop": "ring", "hoops": "ring"}
_COLOURS = {colour: colour for colour in COLOURS} | {"violet": "purple", "turquoise": "cyan"}
_BACKGROUNDS = {name: name for name in BACKGROUNDS} | {"gray": "grey"}
_RELATIONS = {
    "above": "above", "over": "above", "atop": "above", "below": "below", "under": "below", "underneath": "below",
    "beneath": "below", "left of": "left of", "right of": "right of", "left": "left of", "right": "right of",
}  # fmt: skip
_TOKEN = re.compile(r"left of|right of|[a-z]+|\d+")


def claims(text: str) -> Claims:
    """Read any text leniently: every count, colour, shape, relation and background that it asserts.

    Words that name nothing of this world are ignored, so an empty or foreign text claims nothing. A colour directly
    before "background" is a claim about the background. A group ends at its noun, at a relation, or at an attribute
    that it already has. A relation without a group on both sides is not a claim.
    """
    found, open_group, pending = Claims(), GroupClaim(), []
    tokens = _TOKEN.findall(text.lower())
    for token, following in zip(tokens, [*tokens[1:], ""], strict=False):
        if token in _BACKGROUNDS or (following in ("background", "backdrop") and token in _COLOURS):
            found.background = _BACKGROUNDS.get(token, token)
            open_group = GroupClaim()  # in "on a white background" the "a" counts nothing
        elif token in _RELATIONS:
            open_group = _close(found, open_group)
            pending.append((len(found.groups) - 1, _RELATIONS[token]))
        else:
            open_group = _read_attribute(found, open_group, token)
    _close(found, open_group)
    for before, relation in pending:
        if 0 <= before < len(found.groups) - 1:
            found.relations.append((before, relation, before + 1))
    return found


def _read_attribute(found: Claims, group: GroupClaim, token: str) -> GroupClaim:
    """Add a token to the group being read; returns the group that is then open."""
    if token in _NUMBERS or token.isdigit():
        slot, value = "count", _NUMBERS.get(token) or min(int(token), 99)
    elif token in _COLOURS:
        slot, value = "colour", _COLOURS[token]
    elif token in _SHAPES:
        slot, value = "shape", _SHAPES[token]
    else:
        return group
    if getattr(group, slot) is not None:
        group = _close(found, group)
    setattr(group, slot, value)
    return _close(found, group) if slot == "shape" else group


def _close(found: Claims, group: GroupClaim) -> GroupClaim:
    """End a group and return a new one. A count alone claims nothing: the "a" of "a pair of", of "a picture of"."""
    if group.colour is not None or group.shape is not None:
        found.groups.append(group)
    return GroupClaim()


_OTHER_RELATIONS = {"above": ("over", "above"), "below": ("beneath", "under"), "left of": ("to the left of",)}
_OTHER_RELATIONS["right of"] = ("to the right of",)
_OTHER_COUNTS = {1: ("a single", "a"), 2: ("2", "a pair of"), 3: ("3", "a trio of"), 4: ("4", "a quartet of")}


def paraphrase(scene: Scene, seed: int) -> str:
    """A true description in other words, deterministic in (scene, seed): a stress set, not used by default.

    Sentence embeddings are sensitive to phrasing; this measures how much.
    """
    rng = random.Random(f"{scene.key}/{seed}")
    groups, relation = scene.groups, scene.relation
    if relation is not None and rng.random() < 0.5:
        groups, relation = groups[::-1], OPPOSITE[relation]
    phrases = [_other_phrase(group, rng) for group in groups]
    body = phrases[0] if relation is None else f"{phrases[0]} {rng.choice(_OTHER_RELATIONS[relation])} {phrases[1]}"
    frame = rng.choice(("{0}, {1}", "a picture of {0} {1}", "there {2} {0} {1}"))
    ground = rng.choice(("against a {} backdrop", "in front of a {} background")).format(scene.background)
    return frame.format(body, ground, "is" if groups[0].count == 1 else "are")


def _other_phrase(group: Group, rng: random.Random) -> str:
    noun = group.shape if group.count == 1 else PLURALS[group.shape]
    return f"{rng.choice(_OTHER_COUNTS[group.count])} {group.colour} {noun}"
