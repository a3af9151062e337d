"""`cyclepref completion`: scripts with which a shell completes commands, options, files and names."""

import argparse

import shtab

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.jobs.recipe_names import shipped_recipes

# Arguments that are not files, by argparse's `dest`.
NO_FILES = {
    *("repo", "revision", "split", "prompt", "text", "texts", "set", "against", "kind", "device", "name", "shell"),
    *("budget", "gpu_type"),
}
# The shell function that completes a recipe: a shipped recipe's name, or a file.
RECIPE = {"build": "_cyclepref_build_recipe", "reward": "_cyclepref_reward_recipe"}


def completion_script(shell: str, parser: argparse.ArgumentParser) -> str:
    """The script with which a shell completes the arguments of a parser."""
    for name, command in _commands(parser).items():
        for action in command._actions:
            _complete(action, name)
    preamble = {each: "\n".join(_recipe_function(each, kind) for kind in RECIPE) for each in ("bash", "zsh")}
    return shtab.complete(parser, shell=shell, preamble=preamble)


def _commands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    [found] = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return found.choices


def _complete(action: argparse.Action, command: str) -> None:
    """Declare how the values of an argument are completed."""
    if action.nargs == 0 or action.choices:
        return
    if action.dest == "recipe":
        function = RECIPE["reward" if command == "train-reward" else "build"]
        action.complete = {"bash": function, "zsh": function, "tcsh": "f"}
    elif (command, action.dest) == ("models", "name"):
        action.choices = list(CATALOG)
    elif (command, action.dest) == ("recipes", "name"):
        action.choices = [*shipped_recipes("build"), *shipped_recipes("reward")]
    elif action.dest not in NO_FILES and action.type not in (int, float):
        action.complete = shtab.FILE


def _recipe_function(shell: str, kind: str) -> str:
    names = " ".join(shipped_recipes(kind))
    if shell == "bash":
        body = f'compgen -W "{names}" -- "$1"; compgen -f -- "$1"'
    else:
        body = f"_alternative 'recipes:recipe:({names})' 'files:file:_files'"
    return f"{RECIPE[kind]}() {{ {body}; }}"
