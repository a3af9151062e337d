"""The charts of a reward model: its training curve, its accuracy, and an evaluation beside baselines."""

import json
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from cyclepref.builder.report.chart import COLOURS, Chart, figure, label, percent, span
from cyclepref.schemas.errors import CyclePrefError

EVALUATE = "cyclepref evaluate MODEL DATASET --json FILE"


class RewardFileError(CyclePrefError, ValueError):
    """A file about a reward model that cannot be read: what it is, and what writes a good one."""


def training_charts(folder: Path) -> list[Chart]:
    """Curves of a reward model's training, from the metrics.json beside it.

    Raises:
        RewardFileError: if there is none, or it is none of ours.
    """
    found = _read(folder / "metrics.json", "give the folder that `cyclepref train-reward` wrote")
    epochs, accuracy = found.get("epochs"), found.get("pairwise_accuracy")
    if not isinstance(accuracy, dict):
        raise RewardFileError(f"{folder / 'metrics.json'} has no pairwise_accuracy: `cyclepref train-reward` writes it")
    charts = [_curve(epochs)] if epochs else []
    return [*charts, _accuracy(accuracy, found.get("pairwise_accuracy_before_training") or {})]


def evaluation_charts(file: Path) -> list[Chart]:
    """What `cyclepref evaluate --json` found: each judge's accuracy, and how sure the reward may be.

    Raises:
        RewardFileError: if there is no such file, or it is none of evaluate's.
    """
    entries = _read(file, f"`{EVALUATE}` writes it").get("datasets")
    if not isinstance(entries, list):
        raise RewardFileError(f"{file} has no datasets: `{EVALUATE}` writes a file that has")
    charts = []
    for at, entry in enumerate(entries):
        charts += [_judges(at, entry), _calibration(at, entry)]
    return charts


def _read(file: Path, way_out: str) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RewardFileError(f"cannot read {file} ({error}): {way_out}") from error
    if not isinstance(found, dict):
        raise RewardFileError(f"{file} holds no object: {way_out}")
    return found


def _curve(epochs: list[dict[str, Any]]) -> Chart:
    at = [each["epoch"] for each in epochs]
    lines = [("loss", "loss in training", "y"), ("validation_accuracy", "accuracy on validation", "y2")]
    traces = [
        go.Scatter(x=at, y=[each.get(key) for each in epochs], name=name, yaxis=axis, mode="lines+markers")
        for key, name, axis in lines
        if any(each.get(key) is not None for each in epochs)
    ]
    drawn = figure(*traces, xaxis={"title": {"text": "epoch"}}, yaxis={"title": {"text": "loss"}},
                   yaxis2={"overlaying": "y", "side": "right", "tickformat": ".0%", "automargin": True})  # fmt: skip
    rows = [[f"{each['epoch']:g}", *(_number(each.get(key)) for key, _, _ in lines)] for each in epochs]
    alt = f"Training of the reward model over {len(epochs)} epochs: the last loss is {_number(epochs[-1].get('loss'))}."
    return Chart("training", "Training of the reward model", alt, drawn, ["epoch", "loss", "validation accuracy"], rows)


def _accuracy(found: dict[str, Any], before: dict[str, Any]) -> Chart:
    places = [(cycle, split) for cycle, splits in found.items() for split in splits]
    after = [found[cycle][split]["accuracy"] for cycle, split in places]
    earlier = [(before.get(cycle, {}).get(split) or {}).get("accuracy") for cycle, split in places]
    rows = [
        [*place, found[place[0]][place[1]]["pairs"], percent(now), percent(then)]
        for place, now, then in zip(places, after, earlier, strict=True)
    ]
    named = [" ".join(place) for place in places]
    traces = [go.Bar(x=named, y=earlier, name="before training"), go.Bar(x=named, y=after, name="after")]
    drawn = figure(*traces, barmode="group", yaxis={"tickformat": ".0%", "range": [0, 1]})
    alt = "Pairwise accuracy of the reward model: " + ", ".join(f"{c} {s} {a}" for c, s, _, a, _ in rows) + "."
    head = ["cycle", "split", "pairs", "accuracy", "before training"]
    return Chart("accuracy", "Accuracy of the reward model", alt, drawn, head, rows)


def _judges(at: int, entry: dict[str, Any]) -> Chart:
    judges = list(entry["judges"].items())[::-1]
    low = [0 if of["low"] is None else of["accuracy"] - of["low"] for _, of in judges]
    high = [0 if of["high"] is None else of["high"] - of["accuracy"] for _, of in judges]
    trace = go.Bar(
        x=[of["accuracy"] for _, of in judges], y=[label(name) for name, _ in judges], orientation="h",
        error_x={"type": "data", "symmetric": False, "array": high, "arrayminus": low},
        marker={"color": [COLOURS[2] if name == "reward" else COLOURS[0] for name, _ in judges]},
    )  # fmt: skip
    drawn = figure(trace, height=110 + 34 * len(judges), xaxis={"tickformat": ".0%", "range": [0, 1]})
    rows = [[name, percent(of["accuracy"]), span((of["low"], of["high"]))] for name, of in reversed(judges)]
    where = Path(str(entry["dataset"])).name
    alt = f"Pairwise accuracy on {where}: " + ", ".join(f"{name} {share}" for name, share, _ in rows) + "."
    return Chart(f"judges-{at}", f"Evaluation on {where}", alt, drawn, ["judge", "accuracy", "95% interval"], rows,
                 f"{entry['pairs']:,} pairs of {entry['inputs']:,} inputs")  # fmt: skip


def _calibration(at: int, entry: dict[str, Any]) -> Chart:
    found = entry["calibration"]
    ideal = go.Scatter(x=[0.5, 1], y=[0.5, 1], mode="lines", name="as sure as it may be", line={"dash": "dot"})
    line = go.Scatter(x=[each["confidence"] for each in found["bins"]], y=[each["accuracy"] for each in found["bins"]],
                      mode="lines+markers", name="reward")  # fmt: skip
    drawn = figure(ideal, line, xaxis={"tickformat": ".0%", "title": {"text": "how sure the reward is"}},
                   yaxis={"tickformat": ".0%", "title": {"text": "how often it is right"}})  # fmt: skip
    rows = [[percent(each["confidence"]), percent(each["accuracy"]), each["pairs"]] for each in found["bins"]]
    off = f"expected error {found['error']:.3f}, overconfidence {found['overconfidence']:+.3f}"
    alt = f"Calibration of the reward: {off}."
    where = Path(str(entry["dataset"])).name
    return Chart(f"calibration-{at}", f"Calibration on {where}", alt, drawn, ["confidence", "accuracy", "pairs"], rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
