"""The renderer: a scene as a 64x64 picture, drawn with Pillow at eight times the size and averaged down.

The counts and the relation determine the positions, up to a small jitter, so a description determines its picture: one
group takes the whole canvas, two groups take a half each, in a row (above, below) or a column (left of, right of).
Shapes get smaller as their group gets larger.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from PIL import Image, ImageDraw

from cyclepref.builder.shapeworld.scenes import Group, Scene

SIZE = 64
_FINE = 8  # supersampling factor
_JITTER = 1.0  # pixels, either way, of each shape

COLOUR_RGB = {
    "red": (214, 28, 36), "orange": (250, 138, 20), "yellow": (252, 226, 36), "green": (34, 150, 54),
    "cyan": (36, 202, 226), "blue": (36, 72, 220), "purple": (132, 38, 170), "pink": (252, 122, 190),
}  # fmt: skip
BACKGROUND_RGB = {
    "white": (250, 250, 250), "black": (12, 12, 12), "grey": (128, 128, 128),
    "brown": (92, 58, 30), "beige": (220, 196, 158), "mint": (176, 230, 198),
}  # fmt: skip

# Centres of a single group's shapes in pixels, by count, arranged as on a die.
_ALONE = {
    1: ((32, 32),),
    2: ((18, 32), (46, 32)),
    3: ((32, 18), (18, 46), (46, 46)),
    4: ((18, 18), (46, 18), (18, 46), (46, 46)),
}
_WIDTH_ALONE = {1: 32, 2: 22, 3: 22, 4: 22}
_WIDTH_IN_HALF = {1: 24, 2: 22, 3: 17, 4: 13}


@dataclass(frozen=True)
class Placed:
    """One shape on the canvas: its group's index in the scene, its centre and its width, in pixels."""

    group: int
    x: float
    y: float
    width: float

    @property
    def box(self) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of the square that holds the shape."""
        half = self.width / 2
        return self.x - half, self.y - half, self.x + half, self.y + half


def layout(scene: Scene, seed: int) -> list[Placed]:
    """The place of every shape of a scene; deterministic in (scene, seed), boxes disjoint and inside the canvas."""
    rng = random.Random(f"{scene.key}/{seed}")
    placed = []
    for index, group in enumerate(scene.groups):
        for x, y, width in _places(scene, index, group):
            dx, dy = rng.uniform(-_JITTER, _JITTER), rng.uniform(-_JITTER, _JITTER)
            placed.append(Placed(index, x + dx, y + dy, width))
    return placed


def _places(scene: Scene, index: int, group: Group):
    """(x, y, width) of each shape of a group before jitter."""
    if scene.relation is None:
        return [(x, y, _WIDTH_ALONE[group.count]) for x, y in _ALONE[group.count]]
    leads = scene.relation in ("above", "left of")
    across = SIZE / 4 if leads == (index == 0) else SIZE * 3 / 4
    along = [SIZE * (i + 0.5) / group.count for i in range(group.count)]
    if group.count == 2:
        along = [18.0, 46.0]  # nearer to each other than quarters, to keep the widest shapes off the edge
    width = _WIDTH_IN_HALF[group.count]
    if scene.relation in ("above", "below"):
        return [(a, across, width) for a in along]
    return [(across, a, width) for a in along]


def render(scene: Scene, seed: int) -> Image.Image:
    """The picture of a scene: 64x64 RGB, antialiased, the same for the same (scene, seed)."""
    fine = Image.new("RGB", (SIZE * _FINE, SIZE * _FINE), BACKGROUND_RGB[scene.background])
    draw = ImageDraw.Draw(fine)
    for shape in layout(scene, seed):
        group = scene.groups[shape.group]
        _draw(draw, group.shape, shape, COLOUR_RGB[group.colour], BACKGROUND_RGB[scene.background])
    return fine.reduce(_FINE)


def _draw(draw: ImageDraw.ImageDraw, shape: str, placed: Placed, colour, background) -> None:
    left, top, right, bottom = (round(edge * _FINE) for edge in placed.box)
    x, y, half = placed.x * _FINE, placed.y * _FINE, placed.width * _FINE / 2
    if shape == "circle":
        draw.ellipse((left, top, right, bottom), fill=colour)
    elif shape == "ring":
        draw.ellipse((left, top, right, bottom), fill=colour)
        hole = half * 0.55
        draw.ellipse((x - hole, y - hole, x + hole, y + hole), fill=background)
    elif shape == "square":
        inset = half * 0.12  # a full square would look larger than the circle of its width
        draw.rectangle((left + inset, top + inset, right - inset, bottom - inset), fill=colour)
    elif shape == "triangle":
        draw.polygon([(x, top), (left, bottom), (right, bottom)], fill=colour)
    elif shape == "cross":
        arm = half * 0.34
        draw.rectangle((x - arm, top, x + arm, bottom), fill=colour)
        draw.rectangle((left, y - arm, right, y + arm), fill=colour)
    else:
        draw.polygon(_star(x, y, half), fill=colour)


def _star(x: float, y: float, radius: float) -> list[tuple[float, float]]:
    """The ten corners of a five-pointed star with a point at the top."""
    corners = []
    for i in range(10):
        reach = radius if i % 2 == 0 else radius * 0.42
        angle = math.pi * i / 5
        corners.append((x + reach * math.sin(angle), y - reach * math.cos(angle)))
    return corners
