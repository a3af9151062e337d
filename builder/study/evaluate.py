"""Measure the embedded world: python -m cyclepref.builder.study.evaluate --demo runs/demo

First the quality of the shipped models, on scenes that no training has seen; then, if a finished demo is given, how
well the method works on it, where its reward's quality comes from, and what best of n gains.
"""

from __future__ import annotations

import argparse
import json
import warnings
from pathlib import Path
from typing import Any

import datasets
import torch

from cyclepref.builder.shapeworld import models
from cyclepref.builder.study import best_of_n, method, quality, rewards, supervision


def models_table(results: dict[str, Any]) -> list[str]:
    """The models' quality as Markdown: metrics and the image oracle, then one row for each model."""
    oracle = results["image oracle"]
    lines = [
        f"On {results['count']} held-out scenes.",
        "",
        "| of what the others are judged by | |",
        "| --- | --- |",
        "| image oracle, each attribute right on fresh renders (worst) | "
        f"{_percent(min(share for name, share in oracle.items() if name != 'scene'))} |",
    ]
    for name in ("lpips", "sbert"):
        means = ", ".join(f"{v:.2f}" for key, v in results[name].items() if key != "ordered")
        lines.append(
            f"| {name.upper()} orders 0 to 3 wrong attributes truly (its mean with each) | "
            f"{_percent(results[name]['ordered'])} ({means}) |"
        )
    lines += [
        "",
        "| text-to-image pipeline | attributes right | pictures wholly right | ms |",
        "| --- | --- | --- | --- |",
    ]
    for name, row in results["pipelines"].items():
        lines.append(f"| {name} | {_percent(row['right'])} | {_percent(row['whole'])} | {row['ms']:.0f} |")
    lines += [
        "",
        "| captioner | attributes right on renders | on each pipeline's pictures | words | ms |",
        "| --- | --- | --- | --- | --- |",
    ]
    for name, sources in results["captioners"].items():
        own = sources["renders"]
        others = ", ".join(f"{source} {_percent(row['right'])}" for source, row in sources.items() if row is not own)
        lines.append(f"| {name} | {_percent(own['right'])} | {others} | {own['words']:.1f} | {own['ms']:.1f} |")
    megabytes = ", ".join(f"{name} {size / 1e6:.1f}" for name, size in results["bytes"].items())
    return [*lines, "", f"MB: {megabytes}"]


def method_table(results: dict[str, dict[str, Any]]) -> list[str]:
    """The method's results on a demo as Markdown, one column for each cycle."""
    rows: dict[str, list[str]] = {}
    for found in results.values():
        for label, cell in _method_cells(found).items():
            rows.setdefault(label, []).append(cell)
    lines = [f"| agreement with the truth | {' | '.join(results)} |", "| --- |" + " --- |" * len(results)]
    return lines + [f"| {label} | {' | '.join(cells)} |" for label, cells in rows.items()]


def _method_cells(found: dict[str, Any]) -> dict[str, str]:
    own, top, seeds, reward = (found[name] for name in ("agreement", "ceiling", "seeds", "reward"))
    cells = {
        "pairs of equal truth, left out of all shares": _share(own["tied"]),
        "cycle score, on the pairs": _share(own["pairs"]),
        "by margin, smallest quarter to largest": " ".join(_percent(share["share"]) for share in own["quartiles"]),
        "upper half of margins": _percent(own["upper half"]["share"]),
        "longer is better": _percent(own["length"]["share"]),
        "the model with the better mean score is better": _judged(own["model_mean_baseline"] | own["model_mean_gain"]),
        "pairs of one model with itself: cycle score": _spanned(own["same_model"]),
        "upsets (the model with the worse mean made the better one): cycle score": _spanned(own["upsets"]),
        "cycle score, on every two candidates": _share(own["every two"]),
        "cycle score, on every two candidates of one model": _spanned(own["same_model_every_two"]),
    }
    for kind in ("pairs", "every two"):
        both = " against ".join(_percent(top[kind][judge]["share"]) for judge in ("ceiling", "cycle"))
        cells[f"the metric's ceiling against the cycle score, {kind}"] = both
    for kind in ("pairs", "every two"):
        counts = ", ".join(map(str, method.SEED_COUNTS))
        values = " ".join(_percent(seeds[str(count)][kind]["share"]) for count in method.SEED_COUNTS)
        cells[f"{counts} backward seeds, {kind}"] = values
    for kind in ("pairs", "every two"):
        judged = reward[kind]
        cells[f"unseen inputs, {kind}: cycle score"] = _share(judged["cycle"])
        for judge in ("reward", "before training"):
            row = judged[judge]
            interval = f"{100 * row['gain']:+.1f} points, {100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
            cells[f"unseen inputs, {kind}: {judge}"] = f"{_percent(row['share'])} ({interval})"
    return cells


def rewards_table(results: dict[str, dict[str, Any]]) -> list[str]:
    """Agreement of all judges with the truth on unseen inputs, as Markdown, one column for each cycle."""
    lines = [f"| unseen inputs | {' | '.join(results)} |", "| --- |" + " --- |" * len(results)]
    for kind, judges in next(iter(results.values())).items():
        for judge in judges:
            cells = [_judged(found[kind][judge]) for found in results.values()]
            lines.append(f"| {kind}: {judge} | {' | '.join(cells)} |")
    return lines


def _judged(row: dict[str, Any]) -> str:
    if row.get("gain") is None:
        return _share(row)
    interval = f"{100 * row['gain']:+.1f} points, {100 * row['low']:+.1f} to {100 * row['high']:+.1f}"
    return f"{_percent(row['share'])} ({interval})"


def _spanned(of: dict[str, Any]) -> str:
    return _share(of) + (f" ({_percent(of['low'])} to {_percent(of['high'])})" if of["pairs"] else "")


def _share(share: dict[str, Any]) -> str:
    return f"{_percent(share['share'])} of {share['pairs']:,}"


def _percent(share: float | None) -> str:
    return "none" if share is None else f"{100 * share:.1f}%"


PARTS = ("models", "method", "supervision", "rewards", "best-of-n")


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measure and print the wanted parts; those that need a demo only if one is given."""
    results: dict[str, Any] = {}

    def say(part: str, found: Any, lines: list[str]) -> None:
        results[part] = found
        print("\n".join([*lines, ""]), flush=True)

    if "models" in options.parts:
        found = quality.measure(options.count, options.weights, options.only)
        say("models", found, models_table(found))
    if not options.demo:
        print("The method was not measured: run `cyclepref demo` and give its folder as --demo.")
        return results
    if "method" in options.parts:
        found = method.measure(options.demo)
        say("method", found, method_table(found))
    finished = method.read_demo(options.demo)
    if "supervision" in options.parts:
        found = supervision.measure(finished["i2t2i"])
        say("supervision", found, supervision.table(found))
    if "rewards" in options.parts:
        found = rewards.measure(options.demo, finished)
        say("rewards", found, rewards_table(found))
    if "best-of-n" in options.parts:
        judges = best_of_n.picked_by(options.demo, rewards.train(options.demo, finished))
        found = best_of_n.measure(options.demo, finished, judges, options.best_of_n_inputs)
        say("best of n", found, best_of_n.table(found))
        if options.picture:
            best_of_n.draw(found, options.picture)
    return results


def main(argv: list[str] | None = None) -> None:
    """Print the tables, and write the numbers as JSON if wanted."""
    parser = argparse.ArgumentParser(
        prog="python -m cyclepref.builder.study.evaluate",
        description="Measure the embedded world's models on held-out scenes.",
        epilog="example: cyclepref demo --inputs 1200 --out runs/world && "
        "python -m cyclepref.builder.study.evaluate --demo runs/world",
    )
    parser.add_argument("--count", type=int, default=256, help="held-out scenes to measure on (%(default)s)")
    parser.add_argument("--only", nargs="+", default=(), choices=(*models.CAPTIONERS, *models.PIPELINES))
    parser.add_argument("--demo", type=Path, help="folder of a finished `cyclepref demo`, to measure the method on")
    parser.add_argument("--weights", type=Path, default=models.WEIGHTS)
    parser.add_argument("--threads", type=int, help="CPU threads")
    parser.add_argument("--json", type=Path, help="write the numbers to this file too")
    parser.add_argument("--parts", nargs="+", default=PARTS, choices=PARTS, help="what to measure (all)")
    parser.add_argument(
        "--best-of-n-inputs", type=int, default=best_of_n.INPUTS, help="scenes, with 16 candidates each (%(default)s)"
    )
    parser.add_argument("--picture", type=Path, help="draw the best-of-n curves into this file")
    options = parser.parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    models.quiet()
    datasets.disable_progress_bars()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = measure(options)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
