"""`cyclepref evaluate`: a reward model beside baselines, as a table, JSON and a picture."""

import json
from pathlib import Path
from typing import Any

import datasets as hf_datasets
from rich.table import Table

from cyclepref.builder.common.progress import plain
from cyclepref.builder.reward.evaluation.draw import draw
from cyclepref.builder.reward.evaluation.evaluate import evaluate
from cyclepref.builder.reward.evaluation.names import REWARD
from cyclepref.jobs.reward import console, open_model

MODEL_PAIRS = 20  # on the screen; --json has all


def run_evaluate(
    model: str, datasets: list[str], against: tuple[str, ...], json_file: Path | None, picture: Path | None,
    device: str | None, **options: Any,
) -> None:  # fmt: skip
    """Evaluate, print, and write the JSON and picture if wanted; `options` go to
    `cyclepref.builder.reward.evaluation`."""
    hf_datasets.disable_progress_bars()
    result = evaluate(open_model(model, device), model, datasets, against=against, **options)
    for entry in result["datasets"]:
        _print(entry)
    for path, write in ((json_file, _write_json), (picture, draw)):
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(result, path)
            console.print(plain(f"written to {path}"), soft_wrap=True)


def _write_json(result: dict[str, Any], path: Path) -> None:
    path.write_text(json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf-8")


def _print(entry: dict[str, Any]) -> None:
    title = f"{entry['dataset']}  {entry['layout']}, split {entry['split'] or 'all'}: {entry['pairs']:,} pairs of "
    title += f"{entry['candidates']}s, {entry['inputs']:,} inputs"
    console.print()
    console.print(plain(title), style="bold", soft_wrap=True)
    for line in _remarks(entry):
        console.print(plain(f"  {line}"), soft_wrap=True)
    console.print(_accuracy(entry["judges"]))
    console.print(_breakdown(entry["judges"][REWARD], entry["candidates"]))
    found = entry["calibration"]
    console.print(
        f"calibration of the reward: expected error {found['error']:.3f}, overconfidence {found['overconfidence']:+.3f}"
    )
    if entry["best_of_n"]:
        console.print(_curves(entry["best_of_n"], entry["scores"]))


def _remarks(entry: dict[str, Any]) -> list[str]:
    lost = entry["unreadable"]
    lines = list(entry["notes"])
    for name, leak in (("", entry["leak"]), *entry["leaks_of_judges"].items()):
        lines += [f"{name}: {line}" if name else line for line in _leak(leak)]
    if entry["ties_left_out"]:
        lines.append(f"{entry['ties_left_out']:,} ties left out")
    if lost["images"]:
        lines.append(f"{lost['images']} images do not decode, and {lost['pairs']} pairs went with them: ")
        lines += [f"  {each}" for each in lost["some"]]
    if entry["texts_cut"]:
        lines.append(f"{entry['texts_cut']:,} pairs' texts were cut to what the reward model reads")
    return lines


def _leak(leak: dict[str, Any]) -> list[str]:
    lines = []
    if "missing" in leak:
        lines.append(f"not {'wholly ' if leak['checked'] else ''}checked for leaks: {leak['missing']}")
    if leak["checked"] and leak["leaked"]:
        lines.append(f"LEAK: {leak['leaked']} of {leak['inputs']} inputs were trained on (allowed by --allow-leak)")
    return lines


def _accuracy(judges: dict[str, Any]) -> Table:
    table = Table()
    table.add_column("")
    for name in ("pairwise accuracy", "95% interval", "the reward is ahead by"):
        table.add_column(name, justify="right")
    for name, row in judges.items():
        gain = row.get("gain")
        one_input = row["low"] is None
        interval = "- (one input)" if one_input else f"{_percent(row['low'])} to {_percent(row['high'])}"
        ahead = f"{100 * gain['mean']:+.1f}" if gain else ""
        if gain and not one_input:
            ahead += f" ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f})"
        table.add_row(plain(name), _percent(row["accuracy"]), interval, ahead)
    return table


def _breakdown(row: dict[str, Any], kind: str) -> Table:
    table = Table()
    for name, justify in (("the reward, by", "left"), ("", "left"), ("accuracy", "right"), ("pairs", "right")):
        table.add_column(name, justify=justify)
    words = "words of the captions" if kind == "text" else "words of the prompt"
    for label, key in (("margin", "by_margin"), (words, "by_words")):
        for at, part in enumerate(row[key]):
            span = f"{part['from']:.3g} to {part['to']:.3g}"
            table.add_row("" if at else label, span, _percent(part["accuracy"]), f"{part['pairs']:,}")
    frequent = sorted(row["by_models"], key=lambda part: -part["pairs"])[:MODEL_PAIRS]
    for at, part in enumerate(frequent):
        both = plain(" / ".join(part["models"]))
        table.add_row("" if at else "models", both, _percent(part["accuracy"]), f"{part['pairs']:,}")
    more = len(row["by_models"]) - len(frequent)
    if more:
        table.add_row("", f"{more} more with fewer pairs: see --json", "", "")
    return table


def _curves(found: dict[str, Any], scores: str) -> Table:
    some = "all" if found["inputs"] == found["of"] else f"{found['inputs']:,} of {found['of']:,}"
    console.print(f"best of n: mean {scores} of the candidate that is picked, {some} inputs")
    table = Table()
    table.add_column("picked by")
    lines = found["curves"]
    for point in next(iter(lines.values())):
        table.add_column(f"n = {point['n']}", justify="right")
    for name, points in lines.items():
        table.add_row(plain(name), *(f"{point['score']:.4g}" for point in points))
    return table


def _percent(share: float) -> str:
    return f"{100 * share:.1f}%"
