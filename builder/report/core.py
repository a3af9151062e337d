"""A gallery as the page's script reads it: one compact JSON value, with texts made safe to show."""

import base64
import gzip
import json
from typing import Any

from cyclepref.builder.report.gallery import Candidate, Gallery, Shown
from cyclepref.schemas.errors import visible

# The longest texts that are shown whole; where all of them together are too many, shorter ones.
LIMITS = (2_000, 1_000, 500, 200, 80)
MOST_CHARACTERS = 30_000_000
REASON_LIMIT = 300


def core(gallery: Gallery, label: str) -> dict[str, Any]:
    """What the script reads of one run: names, rules, and a row for each input (see page.js)."""
    limit = text_limit(gallery)
    models = {name: at for at, name in enumerate(gallery.models)}
    return {
        "label": shown(label, 200),
        "input": gallery.cycle.input,
        "candidate": gallery.cycle.candidate,
        "models": [shown(name, 200) for name in gallery.models],
        "metrics": [shown(name, 200) for name in gallery.metrics],
        "decides": gallery.metrics.index(gallery.decides) if gallery.decides in gallery.metrics else -1,
        "higher": [gallery.higher[name] for name in gallery.metrics],
        "rule": gallery.rule.model_dump(mode="json", include={"min_margin", "min_margin_sd", "poor_chosen"}),
        "total": gallery.total,
        "finished": gallery.finished,
        "rows": [_row(gallery, each, models, limit) for each in gallery.inputs],
    }


def packed(value: Any) -> str:
    """A JSON value, compressed, in characters that mean nothing to HTML."""
    data = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    return base64.b64encode(gzip.compress(data, 6, mtime=0)).decode()


def shown(text: str, limit: int) -> str:
    """A text that only shows: control and formatting characters as escapes, and no longer than the limit."""
    cut = text[:limit]
    if not cut.isprintable():
        cut = visible(cut)
    return cut if len(text) <= limit else f"{cut} … ({len(text):,} characters)"


def text_limit(gallery: Gallery) -> int:
    """How much of each text is shown, so that a page of many inputs stays one that a phone can open."""
    for limit in LIMITS:
        if sum(min(limit, len(text)) for each in gallery.inputs for text in _texts(each)) <= MOST_CHARACTERS:
            return limit
    return LIMITS[-1]


def _texts(each: Shown) -> list[str]:
    texts = [each.text, *(c.text for c in each.candidates), *(c.back and c.back[1] for c in each.candidates)]
    return [text for text in texts if text]


def _row(gallery: Gallery, each: Shown, models: dict[str, int], limit: int) -> dict[str, Any]:
    row: dict[str, Any] = {"id": each.id, "c": [_candidate(gallery, c, models, limit) for c in each.candidates]}
    row["p"] = [
        [p.chosen, p.rejected, round(p.margin, 6), p.seeds, p.noise if p.noise is None else round(p.noise, 6)]
        for p in each.pairs
    ]
    optional = {
        "n": shown(each.name, 300), "g": shown(each.category, 100), "s": each.split,
        "t": None if each.text is None else shown(each.text, limit),
        "f": [[shown(part, REASON_LIMIT) for part in failure] for failure in each.failures],
    }  # fmt: skip
    return row | {name: value for name, value in optional.items() if value}


def _candidate(gallery: Gallery, one: Candidate, models: dict[str, int], limit: int) -> dict[str, Any]:
    scores = [one.scores.get(metric) for metric in gallery.metrics]
    row: dict[str, Any] = {
        "m": [models[model] for model in one.models],
        "v": [None if value is None else round(value, 6) for value in scores],
        "n": len(one.samples),
    }
    back = one.back[1] if one.back else None
    optional = {
        "t": None if one.text is None else shown(one.text, limit), "b": back and shown(back, limit),
        "i": one.index, "x": int(one.truncated), "w": None if one.truth is None else round(one.truth, 4),
    }  # fmt: skip
    return row | {name: value for name, value in optional.items() if value or (value == 0.0 and name == "w")}
