"""The charts of a run: what its scores, models and pairs are like."""

from collections.abc import Sequence

import numpy as np
import plotly.graph_objects as go

from cyclepref.builder.common.images import UnreadableImage, decode
from cyclepref.builder.report import scorers
from cyclepref.builder.report.chart import COLOURS, Chart, figure, label, percent, span, with_legend
from cyclepref.builder.report.gallery import Candidate, Gallery
from cyclepref.builder.report.ranking import PRIOR, Ranking, rank_models
from cyclepref.builder.report.scorers import TRUTH, Part, Verdicts
from cyclepref.builder.run.store import Store

BINS = 40
MOST_DOTS = 3_000
TENTHS = 10


def charts(store: Store, gallery: Gallery, counts: list[tuple[str, int]]) -> list[Chart]:
    """Every chart that a run has numbers for. `counts` says what became of every two candidates."""
    found: list[Chart | None] = [_histogram(gallery, metric) for metric in gallery.metrics]
    found += [_lengths(gallery), _left_out(counts), _truncated(gallery), _near(store, gallery)]
    if any(each.pairs for each in gallery.inputs):
        ranking, said = rank_models(gallery), scorers.verdicts(gallery)
        found += [_wins(ranking), _strength(ranking), _agreement(said)]
        if TRUTH in said.gaps:
            title = "How often the chosen candidate is truly better"
            found.append(by_margin("truth", title, {TRUTH: scorers.by_margin(said, said.gaps[TRUTH])}))
        if stable := scorers.stability(gallery):
            title = "How often the other half of the seeds gives the same label"
            found.append(by_margin("stability", title, {"other seeds": stable}))
    return [chart for chart in found if chart is not None]


def _histogram(gallery: Gallery, metric: str) -> Chart | None:
    """Scores by model, as shares of the model's candidates."""
    values = {
        model: [c.scores[metric] for each in gallery.inputs for c in each.candidates
                if model in c.models and metric in c.scores]
        for model in gallery.models
    }  # fmt: skip
    values = {model: found for model, found in values.items() if found}
    if not values:
        return None
    low, high = (edge([edge(found) for found in values.values()]) for edge in (min, max))
    edges = np.linspace(low, high if high > low else low + 1, BINS + 1)
    traces, rows = [], []
    for model, found in values.items():
        share = np.histogram(found, edges)[0] / len(found)
        traces.append(go.Scatter(x=edges[:-1].tolist(), y=share.tolist(), name=label(model), mode="lines",
                                 line={"shape": "hv"}, hovertemplate="%{x:.3g}: %{y:.1%}"))  # fmt: skip
        rows.append([model, len(found), f"{np.mean(found):.4g}", f"{np.median(found):.4g}", f"{np.std(found):.3g}"])
    better = "higher" if gallery.higher[metric] else "lower"
    best = (max if gallery.higher[metric] else min)(values, key=lambda model: np.mean(values[model]))
    alt = f"Histogram of {metric} by model; {better} is better, and {best} has the best mean."
    drawn = figure(*traces, height=with_legend(traces), xaxis={"title": {"text": label(metric)}},
                   yaxis={"tickformat": ".0%", "rangemode": "tozero"})  # fmt: skip
    head = ["model", "candidates", "mean", "median", "deviation"]
    return Chart(f"scores-{gallery.metrics.index(metric)}", f"Scores by model: {metric}", alt, drawn, head, rows,
                 f"{better} is better")  # fmt: skip


def _wins(ranking: Ranking) -> Chart:
    wins, names = ranking.wins, ranking.models
    met = wins + wins.T
    share = np.where(met > 0, wins / np.maximum(met, 1e-9), np.nan)
    text = [["" if np.isnan(cell) else f"{cell:.0%}" for cell in row] for row in share]
    labels = [f"{at + 1} {label(name)}" for at, name in enumerate(names)]
    numbers = [str(at + 1) for at in range(len(names))]
    trace = go.Heatmap(
        z=[[None if np.isnan(cell) else float(cell) for cell in row] for row in share], x=numbers, y=labels, text=text,
        texttemplate="%{text}", zmin=0, zmax=1, colorscale=[[0, "#b35806"], [0.5, "#d7dbe0"], [1, "#2166ac"]],
        showscale=False, hovertemplate="%{y} against %{x}: %{text}<extra></extra>", xgap=2, ygap=2,
    )  # fmt: skip
    drawn = figure(trace, height=120 + 42 * len(names), yaxis={"autorange": "reversed"},
                   xaxis={"type": "category", "title": {"text": "against"}})  # fmt: skip
    rows = [[name, *(f"{wins[at][other]:.6g}" for other in range(len(names)))] for at, name in enumerate(names)]
    alt = "Matrix of the share of pairs that the model of the row won against the model of the column."
    return Chart("wins", "Who wins against whom", alt, drawn, ["pairs won", *numbers], rows,
                 "share of their pairs that the row won")  # fmt: skip


def _strength(ranking: Ranking) -> Chart | None:
    known = [(name, of) for name, of in zip(ranking.models, ranking.strength, strict=True) if of]
    if not known:
        return None
    known.sort(key=lambda each: each[1][0])
    middle = [of[0] for _, of in known]
    trace = go.Scatter(
        x=middle, y=[label(name) for name, _ in known], mode="markers", marker={"size": 10},
        error_x={"type": "data", "symmetric": False, "array": [max(0.0, of[2] - of[0]) for _, of in known],
                 "arrayminus": [max(0.0, of[0] - of[1]) for _, of in known]},
        hovertemplate="%{y}: %{x:.1%}<extra></extra>",
    )  # fmt: skip
    drawn = figure(trace, height=110 + 34 * len(known), xaxis={"tickformat": ".0%", "range": [0, 1]})
    rows = [[name, percent(of[0]), span((of[1], of[2]))] for name, of in reversed(known)]
    alt = f"Bradley-Terry ranking of the models: {known[-1][0]} is strongest at {percent(middle[-1])}."
    note = f"share of wins that Bradley-Terry expects against the others, 95% interval by input; {PRIOR:g} wins each "
    return Chart("ranking", "Ranking of the models", alt, drawn, ["model", "share", "95% interval"], rows,
                 note + "way are added to models that met")  # fmt: skip


def _lengths(gallery: Gallery) -> Chart | None:
    """Deciding score against the words of a caption (of what is a text: candidate or reconstruction's source)."""
    dots = [
        (len(c.text.split()), c.scores[gallery.decides])
        for each in gallery.inputs for c in each.candidates if c.text is not None and gallery.decides in c.scores
    ]  # fmt: skip
    if len(dots) < TENTHS:
        return None
    words, values = np.array(dots, dtype=float).T
    step = max(1, len(dots) // MOST_DOTS)
    order = np.argsort(words, kind="stable")
    tenths = [part for part in np.array_split(order, TENTHS) if len(part)]
    cloud = go.Scatter(x=words[::step].tolist(), y=values[::step].tolist(), mode="markers", name="a caption",
                       marker={"size": 4, "opacity": 0.35})  # fmt: skip
    means = [[float(of[part].mean()) for part in tenths] for of in (words, values)]
    line = go.Scatter(x=means[0], y=means[1], mode="lines+markers", name="mean of a tenth")  # fmt: skip
    related = np.corrcoef(words, values)[0, 1] if words.std() and values.std() else float("nan")
    said = "has no correlation that could be told" if np.isnan(related) else f"has a correlation of {related:+.2f}"
    alt = f"Score by {gallery.decides} against the words of a caption: {said}."
    drawn = figure(cloud, line, xaxis={"title": {"text": "words"}}, yaxis={"title": {"text": label(gallery.decides)}})
    rows = [[f"{words[p].min():g} to {words[p].max():g}", len(p), f"{values[p].mean():.4g}"] for p in tenths]
    return Chart("length", "Score against caption length", alt, drawn, ["words", "captions", "mean score"], rows)


def _agreement(said: Verdicts) -> Chart | None:
    names = list(said.gaps)
    if len(names) < 2:
        return None
    cells = [[scorers.agreement(said.gaps[a], said.gaps[b]) for b in names] for a in names]
    trace = go.Heatmap(
        z=[[share for share, _ in row] for row in cells], x=[label(n) for n in names], y=[label(n) for n in names],
        text=[["" if share is None else f"{share:.0%}" for share, _ in row] for row in cells], texttemplate="%{text}",
        zmin=0, zmax=1, colorscale=[[0, "#b35806"], [0.5, "#d7dbe0"], [1, "#2166ac"]], showscale=False, xgap=2, ygap=2,
    )  # fmt: skip
    drawn = figure(trace, height=140 + 48 * len(names), yaxis={"autorange": "reversed"})
    rows = [[a, b, percent(cells[x][y][0]), cells[x][y][1]]
            for x, a in enumerate(names) for y, b in enumerate(names) if x < y]  # fmt: skip
    parts = "; ".join(f"{a} and {b} {share}" for a, b, share, _ in rows)
    return Chart("agreement", "Agreement of the scorers", f"Share of pairs on which two scorers agree: {parts}.", drawn,
                 ["scorer", "scorer", "agree on", "pairs"], rows, "of the pairs on which both prefer one")  # fmt: skip


def by_margin(id_: str, title: str, lines: dict[str, list[Part]], note: str = "quarters of the margins") -> Chart:
    """Shares by quarter of the margin, a line for each name, with 95% intervals by input."""
    traces, rows = [], []
    for name, parts in lines.items():
        # Where there is one input there is no interval.
        above = [max(0.0, (p.share if p.interval[1] is None else p.interval[1]) - p.share) for p in parts]
        below = [max(0.0, p.share - (p.share if p.interval[0] is None else p.interval[0])) for p in parts]
        traces.append(go.Scatter(
            x=[f"{part.low:.3g} to {part.high:.3g}" for part in parts], y=[part.share for part in parts],
            name=label(name), mode="lines+markers", marker={"size": 8}, hovertemplate="%{y:.1%}",
            error_y={"type": "data", "symmetric": False, "array": above, "arrayminus": below},
        ))  # fmt: skip
        rows += [[name, f"{p.low:.3g} to {p.high:.3g}", percent(p.share), span(p.interval), p.pairs] for p in parts]
    shares = [part.share for parts in lines.values() for part in parts]
    drawn = figure(*traces, height=with_legend(traces), xaxis={"title": {"text": "margin"}, "type": "category"},
                   yaxis={"tickformat": ".0%", "range": [min(0.45, *shares) - 0.03, 1.03]})  # fmt: skip
    told = "; ".join(f"{name}: {', '.join(percent(part.share) for part in parts)}" for name, parts in lines.items())
    return Chart(id_, title, f"{title}, by margin from the smallest quarter to the largest. {told}.", drawn,
                 ["scorer", "margin", "share", "95% interval", "pairs"], rows, note)  # fmt: skip


def _left_out(counts: list[tuple[str, int]]) -> Chart | None:
    if not counts:
        return None
    names, values = [name for name, _ in counts], [count for _, count in counts]
    colours = [COLOURS[2] if name.startswith("kept") else COLOURS[0] for name in names]
    text = [f"{value:,}" for value in values]
    trace = go.Bar(x=values, y=names, orientation="h", text=text, textposition="auto", marker={"color": colours})
    alt = "What became of every two candidates: " + ", ".join(f"{name} {count:,}" for name, count in counts) + "."
    drawn = figure(trace, height=90 + 34 * len(names), yaxis={"autorange": "reversed"})
    rows = [[name, f"{count:,}"] for name, count in counts]
    return Chart("left-out", "What became of every two candidates", alt, drawn, ["", "twos"], rows)


def _truncated(gallery: Gallery) -> Chart | None:
    made = dict.fromkeys(gallery.models, 0)
    cut = dict.fromkeys(gallery.models, 0)
    for each in gallery.inputs:
        for candidate in each.candidates:
            for model in candidate.models:
                made[model] += 1
                cut[model] += candidate.truncated
    shares = {model: cut[model] / made[model] for model in gallery.models if made[model]}
    if not any(shares.values()):
        return None
    trace = go.Bar(x=list(shares.values()), y=[label(name) for name in shares], orientation="h")
    drawn = figure(trace, height=100 + 30 * len(shares), xaxis={"tickformat": ".2~%", "nticks": 5})
    rows = [[name, cut[name], made[name], percent(share)] for name, share in shares.items()]
    worst = max(shares, key=shares.__getitem__)
    alt = f"Share of candidates that were cut at a token limit; {worst} has the most, {percent(shares[worst])}."
    return Chart("cut", "Candidates cut at a token limit", alt, drawn, ["model", "cut", "candidates", "share"], rows)


def _near(store: Store, gallery: Gallery) -> Chart | None:
    """Candidates that are the same or nearly so."""

    def pictures(candidates: Sequence[Candidate]) -> list:
        places = [c.place for c in candidates if c.place]
        rows = store.fetch("generations", [p for p, _ in places], [r for _, r in places], ["image"]) if places else None
        return [image for data in (rows["image"].to_pylist() if rows else ()) if (image := _decoded(data)) is not None]

    near, compared = scorers.near_duplicates(gallery, pictures)
    if not compared:
        return None
    several = sum(len(c.models) > 1 for each in gallery.inputs for c in each.candidates)
    made = sum(len(each.candidates) for each in gallery.inputs)
    shares = {"made by several models": several / made, "twos that are nearly the same": near / compared}
    trace = go.Bar(x=list(shares.values()), y=list(shares), orientation="h")
    drawn = figure(trace, height=150, xaxis={"tickformat": ".0%", "range": [0, 1]})
    rows = [["made by several models", several, made, percent(several / made)],
            ["nearly the same, of every two of an input", near, compared, percent(near / compared)]]  # fmt: skip
    alt = (
        f"{percent(several / made)} of the candidates were made by several models; {percent(near / compared)} of every "
    )
    return Chart("near", "Equal and nearly equal candidates", alt + "two of an input are nearly the same.", drawn,
                 ["", "count", "of", "share"], rows)  # fmt: skip


def _decoded(data: bytes | None):
    try:
        return decode(data or b"")
    except UnreadableImage:
        return None
