"""The scenes of the embedded world: what can be in a picture, each in exactly one form.

A scene is one group of equal shapes, or two groups in a relation, on a background. `Scene` puts its groups in a fixed
order (by colour, then shape) and reverses the relation if it swaps them, so two scenes are equal exactly when they
describe the same picture. A hash of the scene decides whether it is held out from training.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass, replace

COUNTS = (1, 2, 3, 4)
COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring")
BACKGROUNDS = ("white", "black", "grey", "brown", "beige", "mint")
OPPOSITE = {"above": "below", "below": "above", "left of": "right of", "right of": "left of"}
RELATIONS = tuple(OPPOSITE)

HELD_OUT_PERCENT = 12
_TWO_GROUPS = 0.8  # the share of sampled scenes with two groups; there are far more of them, and they are harder


def _require(value, choices, what: str) -> None:
    if value not in choices:
        raise ValueError(f"{what} {value!r} is not in this world. Choose from: {', '.join(map(str, choices))}")


@dataclass(frozen=True, order=True)
class Group:
    """`count` equal shapes of one colour.

    Raises ValueError for a count, colour or shape that the world does not have.
    """

    count: int
    colour: str
    shape: str

    def __post_init__(self):
        _require(self.count, COUNTS, "count")
        _require(self.colour, COLOURS, "colour")
        _require(self.shape, SHAPES, "shape")

    @property
    def rank(self) -> tuple[int, int]:
        """The place of a group in a scene: by colour, then by shape, in the order of the constants above."""
        return COLOURS.index(self.colour), SHAPES.index(self.shape)


@dataclass(frozen=True)
class Scene:
    """One group, or two groups of which the first stands in `relation` to the second, on a background.

    Always canonical: groups given in the other order are swapped and the relation is reversed. `relation` is None for
    one group. Two groups differ in colour or in shape: otherwise they would be one group. Raises ValueError when the
    parts do not make a scene.
    """

    groups: tuple[Group, ...]
    relation: str | None
    background: str

    def __post_init__(self):
        _require(self.background, BACKGROUNDS, "background")
        groups = tuple(self.groups)
        if len(groups) not in (1, 2):
            raise ValueError(f"a scene has one group or two, got {len(groups)}: give one or two groups")
        if len(groups) == 1 and self.relation is not None:
            raise ValueError(f"relation {self.relation!r} needs two groups, got one: use relation=None")
        if len(groups) == 2:
            _require(self.relation, RELATIONS, "relation")
            if groups[0].rank == groups[1].rank:
                raise ValueError(
                    f"two groups must differ in colour or shape, got two of {groups[0].colour} {groups[0].shape}: "
                    "change one of them, or merge them into one group"
                )
            if groups[0].rank > groups[1].rank:
                groups = groups[::-1]
                object.__setattr__(self, "relation", OPPOSITE[self.relation])
        object.__setattr__(self, "groups", groups)

    @property
    def key(self) -> str:
        """A stable text for the scene, the same in every process and version; its hash splits the world."""
        groups = "+".join(f"{g.count}-{g.colour}-{g.shape}" for g in self.groups)
        return f"{groups}|{self.relation}|{self.background}"


def is_held_out(scene: Scene) -> bool:
    """Whether a scene is kept from all training (12% of the scenes), by a hash of the scene alone."""
    digest = hashlib.blake2b(scene.key.encode(), digest_size=8, person=b"shapeworld").digest()
    return int.from_bytes(digest, "big") % 100 < HELD_OUT_PERCENT


def random_scene(rng: random.Random) -> Scene:
    """A scene with one group (20%) or two (80%), every attribute uniform."""
    first = _random_group(rng)
    background = rng.choice(BACKGROUNDS)
    if rng.random() >= _TWO_GROUPS:
        return Scene((first,), None, background)
    second = _random_group(rng)
    while second.rank == first.rank:
        second = _random_group(rng)
    return Scene((first, second), rng.choice(RELATIONS), background)


def _random_group(rng: random.Random) -> Group:
    return Group(rng.choice(COUNTS), rng.choice(COLOURS), rng.choice(SHAPES))


def sample_scenes(count: int, seed: int, held_out: bool) -> list[Scene]:
    """`count` distinct scenes from one side of the split (held out or not); the same arguments give the same list.

    A longer sample begins with the shorter one. There are about 430,000 scenes, 12% of them held out.
    Raises ValueError for a negative count or one beyond a tenth of the side asked for.
    """
    most = 5_000 if held_out else 100_000
    if not 0 <= count <= most:
        side = "held-out" if held_out else "training"
        raise ValueError(f"{count} {side} scenes were asked for, but only 0 to {most} can be sampled: lower the count")
    rng = random.Random(f"{seed}/{held_out}")
    scenes: dict[Scene, None] = {}
    while len(scenes) < count:
        scene = random_scene(rng)
        if is_held_out(scene) == held_out:
            scenes[scene] = None
    return list(scenes)


def altered(scene: Scene, wrong: int, seed: int) -> Scene:
    """A scene that differs from `scene` in exactly `wrong` of its attributes, deterministic in the arguments.

    Attributes are each group's count, colour and shape, the relation of two groups, and the background.
    Raises ValueError when the scene has fewer attributes than that (4 for one group, 8 for two).
    """
    slots = [(i, name) for i in range(len(scene.groups)) for name in ("count", "colour", "shape")]
    slots += [(None, "background"), *([(None, "relation")] if scene.relation else [])]
    if not 0 <= wrong <= len(slots):
        raise ValueError(f"{wrong} attributes cannot be wrong in a scene of {len(slots)}: ask for 0 to {len(slots)}")
    rng = random.Random(f"{scene.key}/{wrong}/{seed}")
    while True:
        groups, rest = list(scene.groups), {"relation": scene.relation, "background": scene.background}
        for index, name in rng.sample(slots, wrong):
            old = rest[name] if index is None else getattr(groups[index], name)
            new = rng.choice([value for value in _VALUES[name] if value != old])
            if index is None:
                rest[name] = new
            else:
                groups[index] = replace(groups[index], **{name: new})
        if len({group.rank for group in groups}) == len(groups):
            return Scene(tuple(groups), **rest)


_VALUES = {"count": COUNTS, "colour": COLOURS, "shape": SHAPES, "relation": RELATIONS, "background": BACKGROUNDS}
