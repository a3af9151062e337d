"""Draws an evaluation: for each dataset the judges' accuracies, the reward's calibration, best-of-n curves."""

import math
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from cyclepref.builder.reward.evaluation.best_of import ORACLE
from cyclepref.builder.reward.evaluation.plot import FAINT, INK, Colour, Plot
from cyclepref.schemas.errors import visible

PANEL, HEIGHT, GAP, TITLE = 400, 300, 24, 34


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the result of `evaluate` into a picture file, one row for each dataset."""
    rows = result["datasets"]
    sheet = Image.new("RGB", (3 * (PANEL + GAP) + GAP, len(rows) * (HEIGHT + TITLE + GAP) + GAP), "white")
    pen = ImageDraw.Draw(sheet)
    for at, entry in enumerate(rows):
        top = GAP + at * (HEIGHT + TITLE + GAP)
        title = f"{entry['dataset']}: {entry['pairs']:,} pairs of {entry['inputs']:,} inputs"
        pen.text((GAP, top), short(title, 150), fill=INK, font=ImageFont.load_default(16))
        boxes = [(GAP + column * (PANEL + GAP), top + TITLE, PANEL, HEIGHT) for column in range(3)]
        accuracy_bars(pen, boxes[0], entry["judges"])
        reliability(pen, boxes[1], entry["calibration"])
        if entry["best_of_n"]:
            best_of_n(pen, boxes[2], entry["best_of_n"], f"mean {entry['scores']}")
    sheet.save(path)


def accuracy_bars(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], judges: dict[str, Any]) -> None:
    """A bar for each judge with its interval; the axis begins at chance."""
    lowest = [row["accuracy"] if row["low"] is None else row["low"] for row in judges.values()]
    low = min(0.5, *(math.floor(10 * value) / 10 for value in lowest))
    plot = Plot(pen, box, (0, len(judges)), (low, 1), "pairwise accuracy, 95% interval")
    plot.y_ticks("{:.0%}")
    for at, (name, row) in enumerate(judges.items()):
        ends = None if row["low"] is None else (row["low"], row["high"])
        plot.bar(at, row["accuracy"], ends, short(name, 14), f"{row['accuracy']:.1%}", at)


def reliability(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], found: dict[str, Any]) -> None:
    """Accuracy against confidence; a calibrated reward lies on the diagonal."""
    title = f"calibration of sigmoid(difference): error {found['error']:.3f}"
    lowest = min(0.5, *(math.floor(10 * each["accuracy"]) / 10 for each in found["bins"]))
    plot = Plot(pen, box, (0.5, 1), (lowest, 1), title)
    plot.y_ticks("{:.0%}")
    plot.x_ticks([0.5, 0.6, 0.7, 0.8, 0.9, 1], "{:.0%}", "confidence; a dot's size says how many pairs")
    plot.line([(0.5, 0.5), (1, 1)], FAINT)
    most = max(each["pairs"] for each in found["bins"])
    points = [(each["confidence"], each["accuracy"]) for each in found["bins"]]
    plot.line(points, 0, [3 + 7 * (each["pairs"] / most) ** 0.5 for each in found["bins"]])


def best_of_n(pen: ImageDraw.ImageDraw, box: tuple[int, int, int, int], found: dict[str, Any], what: str) -> None:
    """Curves over n, on a scale of doublings."""
    lines = found["curves"]
    known = [point for points in lines.values() for point in points]
    values = [point[key] for point in known for key in ("low", "score", "high") if point[key] is not None]
    margin = 0.05 * (max(values) - min(values) or 1)
    sizes = [point["n"] for point in next(iter(lines.values()))]
    low, high = min(values) - margin, max(values) + margin
    plot = Plot(pen, box, (-0.2, len(sizes) - 0.8), (low, high), f"best of n: {what}, {found['inputs']:,} inputs")
    plot.y_ticks("{:.3g}")
    plot.x_ticks(range(len(sizes)), "{}", "n", [str(size) for size in sizes])
    colours: dict[str, Colour] = {name: FAINT if name == ORACLE else at for at, name in enumerate(lines)}
    for at, (name, points) in enumerate(lines.items()):
        aside = 0.02 * (at - len(lines) / 2)  # so that equal curves do not hide each other
        spans = [(x + aside, p["low"], p["high"]) for x, p in enumerate(points) if p["low"] is not None]
        plot.whiskers(spans, colours[name])
        plot.line([(x + aside, point["score"]) for x, point in enumerate(points)], colours[name], [3] * len(points))
    plot.legend([(short(name, 30), colour) for name, colour in colours.items()])


def short(name: str, most: int) -> str:
    """A name shortened for a picture, without control characters."""
    shown = visible(" ".join(name.split()), keep="")
    return shown if len(shown) <= most else f"…{shown[-most + 1 :]}"
