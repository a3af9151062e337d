"""The command-line arguments of `models`, `recipes` and `completion`."""

import argparse
from collections.abc import Callable

KINDS = ("captioner", "text-to-image", "metric")
SHELLS = ("bash", "zsh", "tcsh")


def add_lookup_commands(
    commands, add: Callable[..., argparse.ArgumentParser], make_parser: Callable[[], argparse.ArgumentParser]
) -> None:
    """Add `models`, `recipes` and `completion`; `add(commands, name, run, about, examples)` makes one, `make_parser`
    the parser that completions are for."""
    models = add(
        commands, "models", _models, "list the catalog of captioners, text-to-image pipelines and metrics",
        "examples:\n  cyclepref models\n  cyclepref models --kind metric\n  cyclepref models shapeworld-sd3\n"
        "  cyclepref models --json",
    )  # fmt: skip
    models.add_argument("name", nargs="?", help="show all settings of this model")
    models.add_argument("--kind", choices=KINDS, help="only these")
    models.add_argument("--json", action="store_true", help="print JSON, with all settings of each")

    recipes = add(
        commands, "recipes", _recipes, "list the recipes that come with CyclePref, or print one",
        "examples:\n  cyclepref recipes\n  cyclepref recipes shapeworld_i2t2i > mine.yaml      one to change\n"
        "  cyclepref build shapeworld_i2t2i --out runs/i2t2i          or to build as it is",
    )  # fmt: skip
    recipes.add_argument("name", nargs="?", help="print this one")
    recipes.add_argument("--json", action="store_true", help="print names, kinds, paths and descriptions as JSON")

    completion = add(
        commands, "completion", _completion, "print a script for a shell, to complete commands, options and names",
        "examples:\n  cyclepref completion bash > ~/.local/share/bash-completion/completions/cyclepref\n"
        "  eval \"$(cyclepref completion bash)\"                        in this shell alone\n"
        "  cyclepref completion zsh > ~/.zfunc/_cyclepref             a folder of $fpath",
    )  # fmt: skip
    completion.add_argument("shell", choices=SHELLS, help="%(choices)s")
    completion.set_defaults(make_parser=make_parser)


def _models(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.models import print_models

    print_models(arguments.name, arguments.kind, arguments.json)
    return 0


def _recipes(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.recipes_list import print_recipes

    print_recipes(arguments.name, arguments.json)
    return 0


def _completion(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.completion import completion_script

    print(completion_script(arguments.shell, arguments.make_parser()))
    return 0
