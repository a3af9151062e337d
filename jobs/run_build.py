"""`cyclepref build`: run the build, print its counts as a table, its warnings and the next commands."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from cyclepref.builder.build import build
from cyclepref.builder.common.progress import console, plain
from cyclepref.builder.recipe_check import read_recipe
from cyclepref.builder.run.notices import notices
from cyclepref.builder.run.store import Store
from cyclepref.jobs.recipe_names import recipe_path
from cyclepref.schemas.recipe import Recipe


def run_build(
    name: str,
    out: str | Path,
    retry_failed: bool = False,
    changes: Mapping[str, Any] | None = None,
    budget_hours: float | None = None,
) -> None:
    """Build the recipe of a name or path after `changes` ("inputs.limit": value), and print the counts of its rows and
    where the results are. With a budget it ends with as many inputs as that is enough for."""
    recipe = read_recipe(recipe_path(name, "build"), changes)
    run = build(recipe, out, retry_failed) if budget_hours is None else _within(recipe, out, budget_hours, retry_failed)
    if run is None:
        return
    console.print(counts_table(f"{recipe.name}: {out}", run["counts"]))
    address = Store(out).address("dataset")
    load = "" if "://" in address else f"   (datasets.load_dataset({address!r}))"
    console.print(plain(f"dataset: {address}{load}"), soft_wrap=True)
    for notice in notices(run["counts"]):
        console.print(plain(f"warning: {notice}"), style="yellow", soft_wrap=True)
    for line in _next(out, recipe, run["counts"]):
        console.print(plain(line), soft_wrap=True)


def _within(recipe: Recipe, out: str | Path, budget_hours: float, retry_failed: bool) -> dict[str, Any] | None:
    """Build within a budget, and say how far it reached; the last slice's run.json, None if there is none."""
    from cyclepref.builder.planning.budget import Outcome, build_within

    def tell(done: Outcome) -> None:
        console.print(
            f"{done.inputs:,} of {done.total:,} inputs done; {done.spent:.3g} of {budget_hours:g} {done.unit} taken",
            soft_wrap=True,
        )

    outcome = build_within(recipe, out, budget_hours, retry_failed, tell=tell)
    if not outcome.finished:
        there = f"what is there is a whole dataset of {outcome.inputs:,} inputs"
        console.print(
            f"the budget ends here: {there if outcome.run else 'too soon for a first dataset'}; the same command with "
            "a larger --budget goes on",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
    return outcome.run


def _next(out: str | Path, recipe: Recipe, counts: dict[str, Any]) -> list[str]:
    """Lines with the commands that a user runs after a build."""
    place = shlex.quote(str(out))
    layout = "trl-dpo-vision" if recipe.cycle == "i2t2i" else "diffusion-dpo"
    steps = [
        (f"cyclepref stats {place}", "what the pairs are like"),
        (f"cyclepref export {place} --format {layout} --out {place}-{layout}", "the pairs as a trainer reads them"),
        (f"cyclepref train-reward {place} --out {place}-reward --start MODEL", "a reward model"),
        (f"cyclepref publish {place} --repo ORG/NAME --dry-run", "what would go to the Hub"),
    ]
    stages = ("candidates", "reconstructions", "scores")
    if counts["inputs"]["failed"] or any(count["failed"] for stage in stages for count in counts[stage].values()):
        steps.insert(0, (f"cyclepref failures {place}", "what failed, and why"))
    width = max(len(command) for command, _ in steps)
    return ["next:", *(f"  {command:<{width}}  {what}" for command, what in steps)]


def counts_table(title: str, counts: dict[str, Any]) -> Table:
    """Every stage's accounting as a table."""
    table = Table(title=plain(title), title_justify="left")
    for name in ("stage", "model", "wanted", "ok", "failed", "reused"):
        table.add_column(name, justify="left" if name in ("stage", "model") else "right")
    inputs = counts["inputs"]
    ok = inputs["unique"] + inputs["duplicate"]
    note = f"{inputs['unique']} unique"
    table.add_row("inputs", note, str(inputs["read"]), str(ok), str(inputs["failed"]), "")
    for stage in ("candidates", "reconstructions", "scores", "safety"):
        for model, count in counts.get(stage, {}).items():
            table.add_row(stage, plain(model), *(str(count[name]) for name in ("wanted", "ok", "failed", "reused")))
    pairs = counts["pairs"]
    reasons = [name for name in pairs if name not in ("possible", "kept")]
    left_out = ", ".join(f"{pairs[name]} {name.replace('_', ' ')}" for name in reasons)
    table.add_row("pairs", left_out, str(pairs["possible"]), str(pairs["kept"]), "", "")
    return table
