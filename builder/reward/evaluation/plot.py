"""Axes, bars and lines, drawn with Pillow."""

import math
from collections.abc import Iterable, Sequence

from PIL import ImageDraw, ImageFont

INK, FAINT, GRID = "#1b1f24", "#57606a", "#d8dee4"
# Colours that colour-blind people can tell apart (Okabe & Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
LEFT, TOP, BOTTOM = 52, 38, 42

Colour = int | str


class Plot:
    """One panel in `box` (left, top, width, height) of a picture, for data in the ranges `x` and `y`."""

    def __init__(
        self,
        pen: ImageDraw.ImageDraw,
        box: tuple[int, int, int, int],
        x: tuple[float, float],
        y: tuple[float, float],
        title: str,
    ):
        self._pen, self._x, self._y = pen, x, y
        left, top, width, height = box
        self._area = (left + LEFT, top + TOP, left + width, top + height - BOTTOM)
        pen.text((left + LEFT, top), title, fill=INK, font=ImageFont.load_default(13))
        pen.line([(self._area[0], self._area[3]), (self._area[2], self._area[3])], fill=FAINT)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The position of a data point in the picture."""
        left, top, right, bottom = self._area
        across = (x - self._x[0]) / (self._x[1] - self._x[0])
        up = (y - self._y[0]) / (self._y[1] - self._y[0])
        return left + across * (right - left), bottom - up * (bottom - top)

    def y_ticks(self, form: str) -> None:
        """Grid lines at round values."""
        for value in round_values(*self._y):
            left, y = self.at(self._x[0], value)
            self._pen.line([(left, y), (self._area[2], y)], fill=GRID)
            self._pen.text((left - 6, y), form.format(value), fill=FAINT, font=ImageFont.load_default(11), anchor="rm")

    def x_ticks(self, values: Iterable[float], form: str, label: str, names: Sequence[str] | None = None) -> None:
        """Values, or their names, below the axis, and the axis label."""
        for number, value in enumerate(values):
            x, y = self.at(value, self._y[0])
            said = names[number] if names else form.format(value)
            self._pen.text((x, y + 5), said, fill=FAINT, font=ImageFont.load_default(11), anchor="ma")
        middle = (self._area[0] + self._area[2]) / 2
        font = ImageFont.load_default(11)
        self._pen.text((middle, self._area[3] + 22), label, fill=FAINT, font=font, anchor="ma")

    def line(self, points: Sequence[tuple[float, float]], colour: Colour, dots: Sequence[float] = ()) -> None:
        """A line through points, with dots of these radii on them."""
        places = [self.at(*point) for point in points]
        self._pen.line(places, fill=_colour(colour), width=2)
        for (x, y), radius in zip(places, dots, strict=False):
            self._pen.ellipse((x - radius, y - radius, x + radius, y + radius), fill=_colour(colour))

    def whiskers(self, spans: Sequence[tuple[float, float, float]], colour: Colour) -> None:
        """Upright lines between the ends (x, low, high) of intervals."""
        for x, low, high in spans:
            self._pen.line([self.at(x, low), self.at(x, high)], fill=_colour(colour))

    def bar(
        self, at: int, value: float, ends: tuple[float, float] | None, name: str, said: str, colour: Colour
    ) -> None:
        """The bar at position `at`, with its interval if it has one, its name below it and its value above."""
        left, top = self.at(at + 0.2, max(value, self._y[0]))
        right, bottom = self.at(at + 0.8, self._y[0])
        self._pen.rectangle((left, top, right, bottom), fill=_colour(colour))
        middle, high = self.at(at + 0.5, ends[1] if ends else value)
        if ends:
            self._pen.line([self.at(at + 0.5, ends[0]), (middle, high)], fill=INK, width=2)
        small = ImageFont.load_default(11)
        self._pen.text((middle, min(high, top) - 4), said, fill=INK, font=small, anchor="ms")
        self._pen.text((middle, bottom + 6), name, fill=INK, font=small, anchor="ma")

    def legend(self, names: Sequence[tuple[str, Colour]]) -> None:
        """The names of the lines, in the upper left corner, which rising curves leave free."""
        left, top = self._area[0] + 8, self._area[1] + 6
        for number, (name, colour) in enumerate(names):
            y = top + 15 * number
            self._pen.line([(left, y), (left + 18, y)], _colour(colour), 3)
            self._pen.text((left + 24, y), name, fill=INK, font=ImageFont.load_default(11), anchor="lm")


def round_values(low: float, high: float, most: int = 6) -> list[float]:
    """At most `most` multiples of 1, 2 or 5 times a power of ten within a range."""
    step = 10 ** math.floor(math.log10((high - low) / most))
    step *= next(times for times in (1, 2, 5, 10, 20) if (high - low) / (times * step) < most)
    return [number * step for number in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _colour(colour: Colour) -> str:
    return colour if isinstance(colour, str) else COLOURS[colour % len(COLOURS)]
