"""`cyclepref plan`: a build's price on the screen, as JSON, or as the lines at the head of a recipe."""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from rich.table import Table

from cyclepref.builder.common.progress import plain
from cyclepref.builder.planning.calibrate import calibrate
from cyclepref.builder.planning.hardware import hardware
from cyclepref.builder.planning.plan import HOUR, Line, Plan, plan
from cyclepref.builder.planning.rows import STAGES
from cyclepref.builder.recipe_check import read_recipe
from cyclepref.builder.run.store import Store
from cyclepref.jobs.recipe_names import recipe_path
from cyclepref.jobs.screen import console, size_text
from cyclepref.schemas.recipe import RecipeError, load_recipe


def run_plan(
    name: str,
    changes: Mapping[str, Any] | None = None,
    gpus: int | None = None,
    gpu_type: str | None = None,
    out: str | None = None,
    inputs: int | None = None,
    price_per_hour: float | None = None,
    budget_hours: float | None = None,
    shown: str = "table",
    calibrate_on: int | None = None,
) -> None:
    """Plan a recipe's build and print it: as a "table", as "json", or as the "header" of its file. `calibrate_on` so
    many inputs, a real build in `out`, comes first.

    Raises:
        RecipeError: for a calibration without a run directory, or a recipe that is not valid.
    """
    path = recipe_path(name, "build")
    recipe = load_recipe(path, changes)
    if calibrate_on:
        if out is None:
            raise RecipeError("--calibrate makes real rows, which a run directory keeps: add --out DIR")
        found = calibrate(read_recipe(path, changes), out, calibrate_on)
        gpu_type = gpu_type or found
    store = Store(out) if out else None
    made = plan(recipe, hardware(gpus, gpu_type), store, inputs, price_per_hour, budget_hours)
    if shown == "json":
        print(json.dumps(made.to_dict(), indent=2, ensure_ascii=False))
    elif shown == "header":
        print("\n".join(header(made, name)))
    else:
        _show(made)


def _show(made: Plan) -> None:
    console.print(_rows_table(made))
    if made.pools:
        console.print(_pools_table(made))
    for line in summary(made):
        console.print(plain(line), soft_wrap=True)
    console.print("assumed:")
    for line in made.assumptions:
        console.print(plain(f"  - {line}"), soft_wrap=True)
    if made.uncertainty:
        console.print(plain(f"most uncertain: {made.uncertainty}"), soft_wrap=True)
    for line in made.faults:
        console.print(plain(f"will not run as it is: {line}"), style="red", soft_wrap=True)


def summary(made: Plan) -> list[str]:
    """The bill in a few lines."""
    about, low, high = made.busy
    where = _where(made)
    lines = [
        f"models at work: {hours_text(about)} {made.unit}, between {hours_text(low)} and {hours_text(high)}",
        f"on {where}: {hours_text(made.hours)} hours from the first row to the last"
        + (f", {hours_text(made.billed)} GPU hours" if made.cluster.gpus else ""),
        f"disk: about {size_text(made.disk_bytes)} for the run directory",
    ]
    if made.money is not None:
        lines.append(f"money: about {made.money:,.2f}, at {made.price_per_hour:g} an hour")
    if made.budget_hours is not None:
        lines.append(
            f"a budget of {made.budget_hours:g} {made.unit} is enough for about {made.inputs_in_budget:,} of "
            f"{made.inputs:,} inputs"
        )
    return lines


def _where(made: Plan) -> str:
    if not made.cluster.gpus:
        return f"{made.cluster.cpus} CPU cores"
    return f"{made.cluster.gpus:g} {made.gpu.name}"


def _rows_table(made: Plan) -> Table:
    table = Table(title=plain(f"{made.recipe}: {made.inputs:,} inputs"), title_justify="left")
    for name in ("stage", "model", "rows", "there", "s/row", "from", "GPU memory", made.unit):
        table.add_column(name, overflow="fold", justify="left" if name in ("stage", "model", "from") else "right")
    for stage in STAGES:
        mine, shown = made.of_stage(stage), stage
        for line in mine:
            part, rate = line.part, line.rate
            cells = (shown, part.model, f"{part.wanted:,}", f"{part.there:,}" if part.there else "")
            cells += (f"{rate.row_s:.2g}", rate.why, _memory(line), hours_text(line.hours))
            table.add_row(*map(plain, cells))
            shown = ""
        if len(mine) > 1:
            table.add_row("", "all", f"{sum(line.part.wanted for line in mine):,}", "", "", "", "", _sum(mine))
    return table


def _memory(line: Line) -> str:
    if line.fit is None:
        return ""
    if line.fit.needed_gb is None:
        return "not known"
    return f"{line.fit.needed_gb:.0f} of {line.fit.there_gb:.0f} GB{' !' if line.fit.wrong else ''}"


def _pools_table(made: Plan) -> Table:
    table = Table(title="pools and waves, in hours from the start", title_justify="left")
    for name in (
        "models on a host",
        "GPUs each" if made.cluster.gpus else "cores each",
        "hosts",
        "loads",
        "from",
        "to",
    ):
        table.add_column(name, overflow="fold", justify="left" if name == "models on a host" else "right")
    for pool in made.pools:
        each = f"{pool.num_gpus:g}" if made.cluster.gpus else str(pool.num_cpus)
        cells = (", ".join(pool.models), each, f"up to {pool.hosts}", str(pool.loads))
        table.add_row(*map(plain, (*cells, hours_text(pool.begins / HOUR), hours_text(pool.ends / HOUR))))
    return table


def _sum(lines: list[Line]) -> str:
    return hours_text(sum(line.hours for line in lines))


def hours_text(hours: float) -> str:
    """Hours as a person reads them."""
    if hours >= 10 or not hours:
        return f"{hours:,.0f}"
    if hours < 0.01:
        return "under 0.01"
    return f"{hours:.1f}" if hours >= 1 else f"{hours:.2g}"


# ---- the head of a recipe file -----------------------------------------------------------------------------------


def header(made: Plan, name: str) -> list[str]:
    """The lines at the head of a recipe file that tell what it takes."""
    command = f"cyclepref plan {shlex.quote(name)} --gpus {made.cluster.gpus:g} --gpu-type {made.gpu and made.gpu.name}"
    lines = [f"# Cost, an estimate by `{command} --inputs {made.inputs}`, not a measurement:"]
    for stage in STAGES:
        if mine := made.of_stage(stage):
            rows = sum(line.part.wanted for line in mine)
            hours = sum(line.hours for line in mine)
            told = hours_text(hours) if hours >= 0.1 else "under 0.1"
            lines.append(f"#   {stage:<16}{rows:>9,} rows{told:>11} {made.unit}")
    about, low, high = made.busy
    lines.append(
        f"#   in all {hours_text(about)} ({hours_text(low)} to {hours_text(high)}) {made.unit}: "
        f"{hours_text(made.hours)} hours on {_where(made)}, and {size_text(made.disk_bytes)} of disk"
    )
    return lines
