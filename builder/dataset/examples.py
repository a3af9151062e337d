"""A run as a picture: for a few inputs the candidates, their reconstructions and scores, chosen and rejected marked."""

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image, ImageDraw, ImageFont, ImageOps

from cyclepref.builder.pairing.scores import of_metric, runs
from cyclepref.builder.run.blocks import Blocks
from cyclepref.builder.run.content import content_by_id
from cyclepref.builder.run.store import Store, first_of_each
from cyclepref.schemas.errors import visible

CELL, GAP, LINE, WRAP = 132, 14, 13, 22
LINES = 6
INK, FAINT, CHOSEN, REJECTED = "#1b1f24", "#6e7781", "#1a7f37", "#cf222e"


def draw_run(store: Store, reconstructions: Blocks, path: Path, inputs: int = 4, columns: int = 6) -> None:
    """Draw a run's examples into a file; no file if it has no pair. See `examples`."""
    views = (store.view_blocks(name) for name in ("pairs", "candidates", "scores"))
    sheet = examples(store, *views, reconstructions, inputs, columns)
    if sheet is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)


def examples(
    store: Store,
    pairs: Blocks,
    candidates: Blocks,
    scores: Blocks,
    reconstructions: Blocks,
    inputs: int = 4,
    columns: int = 6,
) -> Image.Image | None:
    """Draw inputs over the whole range of margins, one a row, their candidates from best to worst; None without pairs.

    `reconstructions` has source_id (a candidate's content), input_id and content_id; those that are not there are not
    drawn. Chosen and rejected are those of the pair with the input's widest margin.
    """
    widest = _widest(pairs)
    if not widest.num_rows:
        return None
    chosen = _spread(widest, inputs)
    mine = [pa.concat_tables([rows.of_inputs([input_]) for input_ in chosen])
            for rows in (pairs, candidates, scores, reconstructions)]  # fmt: skip
    mine[0] = widest
    # Of several reconstructions always the same one is drawn.
    mine[-1] = mine[-1].sort_by([("source_id", "ascending"), ("content_id", "ascending")])
    rows = [_row(store, input_, *mine, columns) for input_ in chosen]
    # A cell is a title, a text and a picture: candidate and reconstruction are of different modalities.
    height = LINE * (LINES + 2) + CELL + GAP * 2
    sheet = Image.new("RGB", ((columns + 1) * (CELL + GAP) + GAP, height * len(rows) + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for at, row in enumerate(rows):
        _draw_row(sheet, draw, row, GAP + at * height)
        if at:
            draw.line((GAP, at * height + 2, sheet.width - GAP, at * height + 2), fill="#d0d7de")
    return sheet


def _widest(pairs: Blocks) -> pa.Table:
    """The pair with the widest margin of each input, widest first; of equal ones that with the smallest id."""
    found = [pairs.schema.empty_table()]
    for rows in pairs:
        starts, counts = runs(rows, ["input_id"])
        if len(starts):
            margins = np.asarray(rows["margin"])
            most = np.repeat(np.maximum.reduceat(margins, starts), counts)
            found.append(rows.filter(pa.array(margins == most)))
    together = pa.concat_tables(found).sort_by([("margin", "descending"), ("pair_id", "ascending")])
    return first_of_each(together, "input_id")


def _spread(widest: pa.Table, count: int) -> list[str]:
    """Inputs over the whole range of margins, not only the easiest."""
    ids = list(dict.fromkeys(widest["input_id"].to_pylist()))
    return [ids[round(at * (len(ids) - 1) / max(count, 2))] for at in range(min(count, len(ids)))]


def _row(
    store: Store,
    input_: str,
    widest: pa.Table,
    candidates: pa.Table,
    scores: pa.Table,
    reconstructions: pa.Table,
    columns: int,
) -> list[Any]:
    pair = widest.filter(pc.equal(widest["input_id"], input_)).slice(0, 1).to_pylist()[0]
    scores = of_metric(scores, pair["metric"]).select(["generation_id", "value"])
    scored = candidates.filter(pc.field("input_id") == input_).join(scores, "generation_id", join_type="inner")
    better_first = 1 if pair["chosen_score"] > pair["rejected_score"] else -1
    ordered = sorted(scored.to_pylist(), key=lambda row: (-better_first * row["value"], row["generation_id"]))
    distinct = list({row["content_id"]: row for row in reversed(ordered)}.values())[::-1]
    kept = _thin(distinct, columns, {pair["chosen_id"], pair["rejected_id"]})
    mine = reconstructions.filter(pc.equal(reconstructions["input_id"], input_))
    back = dict(zip(mine["source_id"].to_pylist(), mine["content_id"].to_pylist(), strict=True))
    content = content_by_id(store, "generations", "content_id", [*(row["content_id"] for row in kept), *back.values()])
    source = content_by_id(store, "inputs", "input_id", [input_])[input_]
    cells = [(source, None, ["input"], INK)]
    for row in kept:
        mark = {pair["chosen_id"]: ("chosen", CHOSEN), pair["rejected_id"]: ("rejected", REJECTED)}
        label, ink = mark.get(row["generation_id"], ("", FAINT))
        title = f"{row['value']:.3f} {label}".strip()
        model = row["model"].removeprefix("shapeworld-")
        cells.append((content[row["content_id"]], content.get(back.get(row["content_id"])), [model, title], ink))
    return cells


def _thin(rows: list[Any], count: int, keep: set[str]) -> list[Any]:
    """At most `count` rows in order, always those to keep."""
    spare = [row for row in rows if row["generation_id"] not in keep][: count - len(keep)]
    return [row for row in rows if row in spare or row["generation_id"] in keep]


def _draw_row(sheet: Image.Image, draw: ImageDraw.ImageDraw, cells: list[Any], top: int) -> None:
    for at, (content, back, title, ink) in enumerate(cells):
        left = GAP + at * (CELL + GAP)
        y = _text(draw, left, top, title, ink, lines=2)
        y = _content(sheet, draw, left, y, content, ink)
        if back is not None:
            _content(sheet, draw, left, y, back, FAINT)


def _content(sheet: Image.Image, draw: ImageDraw.ImageDraw, left: int, top: int, content: Any, ink: str) -> int:
    """Draw a text or a picture; returns where the next thing goes."""
    if isinstance(content, str):
        return _text(draw, left, top, textwrap.wrap(content, WRAP)[:LINES], INK, lines=LINES)
    sheet.paste(ImageOps.fit(content, (CELL, CELL), Image.Resampling.LANCZOS), (left, top))
    draw.rectangle((left - 2, top - 2, left + CELL + 1, top + CELL + 1), outline=ink, width=2)
    return top + CELL + GAP // 2


def _text(draw: ImageDraw.ImageDraw, left: int, top: int, rows: list[str], ink: str, lines: int) -> int:
    font = ImageFont.load_default(11)
    for at, row in enumerate(rows):
        row = visible(row, keep="")
        draw.text((left, top + at * LINE), row, fill=ink, font=font)
    return top + lines * LINE + 3
