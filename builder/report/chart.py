"""A chart for a page: a plotly figure with a title, a sentence that says what it shows, and the numbers behind it."""

import html
from collections.abc import Sized
from dataclasses import dataclass, field
from typing import Any

import plotly.graph_objects as go

from cyclepref.builder.report.core import shown

# Told apart by the colour-blind, on white and on near-black (Okabe and Ito 2008, a little darker).
COLOURS = ("#2f81f7", "#d9730d", "#1a9f6c", "#b452b4", "#c9a100", "#d1495b", "#5f8fa8", "#8a7f5c")
NAME_LIMIT = 28


@dataclass(frozen=True)
class Chart:
    """`alt` is what the chart says in a sentence, for those who do not see it; `rows` are its numbers, `head` first."""

    id: str
    title: str
    alt: str
    figure: go.Figure
    head: list[str] = field(default_factory=list)
    rows: list[list[Any]] = field(default_factory=list)
    note: str = ""


def label(name: str) -> str:
    """A name from outside as plotly shows it: it reads some HTML in labels, and must find none."""
    short = name if len(name) <= NAME_LIMIT else f"{name[: NAME_LIMIT - 1]}…"
    return html.escape(shown(short, NAME_LIMIT * 8), quote=True)


def figure(*traces: Any, height: int = 320, **layout: Any) -> go.Figure:
    """A figure in the page's style; colours of text and grid are the page's, which knows if it is dark."""
    base = {
        "height": height, "margin": {"l": 56, "r": 16, "t": 12, "b": 48}, "colorway": COLOURS, "template": None,
        "paper_bgcolor": "rgba(0,0,0,0)", "plot_bgcolor": "rgba(0,0,0,0)", "autosize": True,
        "legend": {"orientation": "h", "y": -0.28}, "font": {"size": 12}, "hovermode": "closest",
        "xaxis": {"automargin": True}, "yaxis": {"automargin": True},
    }  # fmt: skip
    for name, value in layout.items():
        base[name] = base[name] | value if isinstance(base.get(name), dict) else value
    return go.Figure(data=list(traces), layout=base)


def with_legend(traces: Sized) -> int:
    """A height at which the plot stays one where the legend has a line for each trace, as on a phone."""
    return 270 + 19 * len(traces) if len(traces) > 1 else 320


def percent(share: float | None) -> str:
    """A share as people read it."""
    return "–" if share is None else f"{share:.1%}"


def span(interval: tuple[float | None, float | None]) -> str:
    """A 95% interval as people read it."""
    low, high = interval
    return "one input" if low is None or high is None else f"{low:.1%} to {high:.1%}"
