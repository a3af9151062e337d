"""The command-line arguments of `plan`, `check` and `init`; a command's code is imported when it runs."""

import argparse
from collections.abc import Callable

from cyclepref.jobs.arguments import hours, path, place, positive, price, whole


def add_plan_commands(commands, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `plan`, `check` and `init`; `add(commands, name, run, about, examples)` makes one."""
    plan = add(
        commands, "plan", _plan, "what a build will take before anything is spent: rows, fit, hours, disk, money",
        "examples:\n  cyclepref plan my_recipe.yaml                           on this machine\n"
        "  cyclepref plan my_recipe.yaml --gpus 8 --gpu-type H100 --price-per-hour 2.50\n"
        "  cyclepref plan better_t2i --gpu-type L40S --inputs 1000  without its inputs being here\n"
        "  cyclepref plan my_recipe.yaml --out runs/mine            what is left of a run\n"
        "  cyclepref plan my_recipe.yaml --out runs/mine --calibrate 32",
    )  # fmt: skip
    _add_recipe(plan)
    plan.add_argument("--out", type=place, metavar="DIR", help="run directory: what it has is not made again")
    plan.add_argument("--inputs", type=positive, metavar="N", help="plan for N inputs, without looking at them")
    plan.add_argument(
        "--price-per-hour", type=price, metavar="P", help="price of an hour of one GPU, or of a machine without any"
    )
    plan.add_argument("--budget", type=hours, metavar="T", help="tell how many inputs 200h (GPU hours) are enough for")
    plan.add_argument(
        "--calibrate", type=positive, metavar="N",
        help="first build N inputs in DIR for real, and reckon with what their rows take; nothing is made twice",
    )  # fmt: skip
    shown = plan.add_mutually_exclusive_group()
    shown.add_argument("--json", action="store_true", help="print it as JSON")
    shown.add_argument("--header", action="store_true", help="print the lines for the head of a recipe file")

    check = add(
        commands, "check", _check, "find all that is wrong with a recipe on this machine, at once and without a GPU",
        "examples:\n  cyclepref check my_recipe.yaml              its exit status is 1 if anything is wrong\n"
        "  cyclepref check my_recipe.yaml --gpus 8 --gpu-type A100-40G",
    )  # fmt: skip
    _add_recipe(check)
    check.add_argument("--json", action="store_true", help="print it as JSON")

    init = add(
        commands, "init", _init, "write a first recipe for your inputs and this machine, with a comment for each part",
        "examples:\n  cyclepref init                                   asks three questions\n"
        "  cyclepref init --inputs photos --limit 100\n"
        "  cyclepref init --inputs prompts.parquet --column caption --recipe mine.yaml --gpu-type A100-80G",
    )  # fmt: skip
    init.add_argument(
        "--inputs", type=path, metavar="PATH", help="a folder of pictures, a file of prompts, parquet, ..."
    )
    init.add_argument("--column", help="the column of a table that holds the inputs (default: the likeliest)")
    init.add_argument("--name", help="what the run is called (default: after the inputs)")
    init.add_argument("--recipe", dest="file", type=path, metavar="FILE", help="the file to write (default: NAME.yaml)")
    init.add_argument("--limit", metavar="N", type=positive, help="only the first N inputs")
    _add_gpus(init)


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument("recipe", help="YAML file, or a name that `cyclepref recipes` lists")
    command.add_argument("--limit", metavar="N", type=positive, help="only the first N inputs")
    command.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="replace one setting of the recipe"
    )
    _add_gpus(command)


def _add_gpus(command: argparse.ArgumentParser) -> None:
    command.add_argument("--gpus", type=whole, metavar="N", help="for N GPUs (default: those of this machine)")
    command.add_argument("--gpu-type", metavar="TYPE", help="such as H100, A100-80G, L40S or T4")


def _changes(arguments: argparse.Namespace) -> dict:
    from cyclepref.jobs.changes import parse_changes

    return parse_changes(arguments.set) | ({"inputs.limit": arguments.limit} if arguments.limit else {})


def _plan(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.plan import run_plan

    shown = "json" if arguments.json else "header" if arguments.header else "table"
    run_plan(
        arguments.recipe, _changes(arguments), arguments.gpus, arguments.gpu_type, arguments.out, arguments.inputs,
        arguments.price_per_hour, arguments.budget, shown, arguments.calibrate,
    )  # fmt: skip
    return 0


def _init(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.init import run_init

    return run_init(
        arguments.inputs, arguments.file, arguments.column, arguments.name, arguments.limit, arguments.gpus,
        arguments.gpu_type,
    )  # fmt: skip


def _check(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.check import run_check

    return run_check(arguments.recipe, _changes(arguments), arguments.gpus, arguments.gpu_type, arguments.json)
