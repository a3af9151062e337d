"""Statistics as pictures for a card: histograms of scores, and the models' wins over each other.

They are drawn with Pillow, which every build has, and not with the library of a report: a card shows images alone, and
plotly writes these with a browser that it starts, which is much to ask of every machine that builds.
"""

from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from cyclepref.schemas.errors import visible

INK, FAINT, LINE, BAR = "#1b1f24", "#57606a", "#d0d7de", "#0969da"
LOW, HIGH = np.array([245, 247, 250]), np.array([9, 105, 218])
WIDTH, HEIGHT, GAP = 640, 190, 24
CELL, LABEL_CHARACTERS = 58, 30


def histograms(scores: dict[str, dict[str, Any]]) -> Image.Image:
    """A histogram for each metric, one below the other; `scores` are those of
    `cyclepref.builder.dataset.statistics.statistics`."""
    sheet = Image.new("RGB", (WIDTH, max(1, len(scores)) * HEIGHT), "white")
    draw = ImageDraw.Draw(sheet)
    for at, (metric, found) in enumerate(scores.items()):
        _histogram(draw, at * HEIGHT, metric, found)
    return sheet


def _histogram(draw: ImageDraw.ImageDraw, top: int, metric: str, found: dict[str, Any]) -> None:
    counts, edges = found["counts"], found["edges"]
    base, left, tall = top + HEIGHT - GAP - 8, GAP, HEIGHT - 3 * GAP
    wide = (WIDTH - 2 * GAP) / len(counts)
    title = f"{_short(metric)}: {sum(counts):,} candidates, mean {found['mean']:.3g}"
    draw.text((left, top + 8), title, fill=INK, font=ImageFont.load_default(14))
    for at, count in enumerate(counts):
        high = round(tall * count / max(1, *counts))
        if count:
            draw.rectangle((left + at * wide + 1, base - max(1, high), left + (at + 1) * wide - 1, base), fill=BAR)
    draw.line((left, base + 1, WIDTH - GAP, base + 1), fill=LINE)
    for at in (0, len(counts) // 4, len(counts) // 2, 3 * len(counts) // 4, len(counts)):
        x = left + at * wide
        draw.line((x, base + 1, x, base + 5), fill=FAINT)
        draw.text((x, base + 7), f"{edges[at]:.3g}", fill=FAINT, font=ImageFont.load_default(12), anchor="ma")


def win_matrix(models: list[str], wins: list[list[int]]) -> Image.Image:
    """Of the pairs between two models, the share that the row's model won; the darker the more. Models are numbered,
    and stand with the share of all their pairs with others that they won."""
    font, small = ImageFont.load_default(13), ImageFont.load_default(11)
    left = 24 + max([10, *(round(font.getlength(_label(at, name))) for at, name in enumerate(models))])
    top = 64
    size = (left + (len(models) + 1) * CELL + GAP, top + len(models) * CELL + GAP)
    sheet = Image.new("RGB", (max(size[0], 380), size[1]), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((12, 10), "share of pairs that the row won against the column", fill=INK, font=ImageFont.load_default(14))
    for at in range(len(models)):
        draw.text((left + at * CELL + CELL / 2, top - 8), f"{at + 1}", fill=FAINT, font=font, anchor="ms")
    draw.text((left + len(models) * CELL + CELL / 2, top - 8), "all", fill=FAINT, font=font, anchor="ms")
    for row, name in enumerate(models):
        y = top + row * CELL
        draw.text((12, y + CELL / 2), _label(row, name), fill=INK, font=font, anchor="lm")
        others = [at for at in range(len(models)) if at != row]
        cells = [(wins[row][at], wins[at][row]) if at != row else (0, 0) for at in range(len(models))]
        cells.append((sum(wins[row][at] for at in others), sum(wins[at][row] for at in others)))
        for column, (won, lost) in enumerate(cells):
            _cell(draw, left + column * CELL, y, won, lost, font, small)
    return sheet


def _cell(draw: ImageDraw.ImageDraw, x: int, y: int, won: int, lost: int, font: Any, small: Any) -> None:
    if not won + lost:
        draw.rectangle((x, y, x + CELL - 2, y + CELL - 2), fill="white", outline=LINE)
        return
    share = won / (won + lost)
    fill = tuple(int(v) for v in LOW + share * (HIGH - LOW))
    ink = "white" if share > 0.6 else INK
    draw.rectangle((x, y, x + CELL - 2, y + CELL - 2), fill=fill)
    draw.text((x + CELL / 2 - 1, y + CELL / 2 - 3), f"{share:.0%}", fill=ink, font=font, anchor="ms")
    draw.text((x + CELL / 2 - 1, y + CELL / 2 + 14), f"of {won + lost:,}", fill=ink, font=small, anchor="ms")


def _label(at: int, name: str) -> str:
    return f"{at + 1}  {_short(name)}"


def _short(name: str) -> str:
    shown = visible(name, keep="")
    return shown if len(shown) <= LABEL_CHARACTERS else f"{shown[: LABEL_CHARACTERS - 1]}…"
