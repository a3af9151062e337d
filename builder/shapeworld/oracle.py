"""The oracles: how true a caption is to a scene, and which scene a picture shows.

Both count facts. A scene with one group has four (count, colour, shape, background); one with two groups has eight
(two times three, the background, the relation).
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from cyclepref.builder.shapeworld.grammar import Claims, claims, describe
from cyclepref.builder.shapeworld.scenes import OPPOSITE, Scene

WEIGHTS = Path(__file__).parent / "weights" / "oracle"
_BATCH = 64


def truth(scene: Scene, caption: str) -> float:
    """How true a caption is to a scene, in [0, 1]: right / (claimed + true - right), the Jaccard index of the facts.

    `claimed` and `true` are the numbers of facts in the caption and in the scene, `right` those that they share under
    the best matching of groups. So a wrong fact costs twice, as a missing and an invented one; a fact that is only
    missing or only invented costs once. Any phrasing that `grammar.claims` can read counts the same.
    """
    said = claims(caption)
    right = facts_right(scene, said)
    return right / (len(said) + fact_count(scene) - right)


def attributes_right(scene: Scene, caption: str) -> float:
    """The share of a scene's facts that a caption states correctly, in [0, 1]; invented facts do not lower it."""
    return facts_right(scene, claims(caption)) / fact_count(scene)


def fact_count(scene: Scene) -> int:
    """The number of facts in a scene: 4 for one group, 8 for two."""
    return 3 * len(scene.groups) + 1 + (scene.relation is not None)


def facts_right(scene: Scene, said: Claims) -> int:
    """The number of a scene's facts among the claims, under the matching of groups that makes it largest."""
    slots: list[int | None] = [*range(len(said.groups)), *[None] * len(scene.groups)]
    matchings = itertools.permutations(slots, len(scene.groups))
    return (said.background == scene.background) + max(_matched(scene, said, matching) for matching in matchings)


def _matched(scene: Scene, said: Claims, matching: tuple[int | None, ...]) -> int:
    """Facts right about groups and relation when claim `matching[i]` is about group i (None: about nothing)."""
    right = 0
    for group, slot in zip(scene.groups, matching, strict=True):
        if slot is not None:
            claim = said.groups[slot]
            right += (claim.count == group.count) + (claim.colour == group.colour) + (claim.shape == group.shape)
    if scene.relation is not None:
        first, second = matching
        holds = {(first, scene.relation, second), (second, OPPOSITE[scene.relation], first)}
        right += any(relation in holds for relation in said.relations)
    return right


def truth_of_images(scenes: Sequence[Scene], images: Sequence[Image.Image]) -> list[float]:
    """How true each picture is to its scene, in [0, 1]: `truth` of the description of the scene that `recover` finds in
    it.

    Raises ValueError when there are not as many images as scenes.
    """
    if len(scenes) != len(images):
        raise ValueError(f"every image needs its scene, got {len(scenes)} scenes and {len(images)} images")
    return [truth(scene, describe(seen)) for scene, seen in zip(scenes, recover(images), strict=True)]


def recover(images: Sequence[Image.Image]) -> list[Scene]:
    """The scene that each picture most likely shows, by a trained classifier; it always answers.

    Pictures of any size are resized to 64x64. The most likely scene is chosen among all consistent ones, so the answer
    is a scene even if the classifier's heads contradict each other.
    """
    from cyclepref.builder.shapeworld import recogniser  # imports torch, so only when pictures are judged

    network = _network()
    scenes = []
    for start in range(0, len(images), _BATCH):
        scenes += recogniser.read(network, images[start : start + _BATCH])
    return scenes


@functools.cache
def _network():
    from cyclepref.builder.shapeworld import recogniser

    return recogniser.load(WEIGHTS)
