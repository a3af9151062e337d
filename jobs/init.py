"""`cyclepref init`: a first recipe, from the answers to a few questions or from options."""

import shlex
import sys
from collections.abc import Callable
from pathlib import Path

from cyclepref.builder.common.progress import plain
from cyclepref.builder.planning.hardware import hardware
from cyclepref.builder.planning.new_recipe import name_for, new_recipe
from cyclepref.jobs.arguments import path as path_of
from cyclepref.jobs.screen import console
from cyclepref.schemas.recipe import RecipeError

# A first look that takes minutes on a GPU.
FEW = 100


def run_init(
    inputs: Path | None,
    file: Path | None,
    column: str | None = None,
    name: str | None = None,
    limit: int | None = None,
    gpus: int | None = None,
    gpu_type: str | None = None,
    ask: Callable[[str], str] | None = None,
) -> int:
    """Write a recipe for inputs and say what is next. What no option says is asked for, if there is somebody to ask
    (`ask`, by default at a terminal); only the inputs must be known.

    Raises:
        RecipeError: as `cyclepref.builder.planning.new_recipe.new_recipe`; or without inputs and nobody to ask.
    """
    ask = ask or (input if sys.stdin.isatty() else None)
    if inputs is None:
        if ask is None:
            raise RecipeError("which inputs? Give --inputs PATH: a folder of pictures, a file of prompts, parquet, ...")
        inputs = path_of(_answer(ask, "Your inputs (a folder of pictures, a file of prompts, parquet)", ""))
        name = name or _answer(ask, "A name for the run", name_for(inputs))
        limit = limit or _count(_answer(ask, "How many inputs at first (all: 0)", str(FEW)))
    file = file or Path(f"{name or name_for(inputs)}.yaml")
    found, chosen = new_recipe(inputs, file, hardware(gpus, gpu_type), column, name, limit)
    console.print(plain(f"{file}: written, and without faults on this machine"), soft_wrap=True)
    console.print(plain(f"inputs: {found.about}"), soft_wrap=True)
    models = f"{', '.join(chosen.forward)}; back: {chosen.backward}; compared by: {chosen.metric}"
    console.print(plain(f"models: {models}"), soft_wrap=True)
    if chosen.embedded:
        told = "only the embedded world's models are here, which know simple shapes alone: the file says why"
        console.print(plain(f"warning: {told}"), style="yellow", soft_wrap=True)
    quoted = shlex.quote(str(file))
    console.print(plain(f"next: cyclepref plan {quoted}, then cyclepref build {quoted} --out DIR"), soft_wrap=True)
    return 0


def _answer(ask: Callable[[str], str], question: str, default: str) -> str:
    try:
        return ask(f"{question}{f' [{default}]' if default else ''}: ").strip() or default
    except EOFError:
        return default


def _count(text: str) -> int | None:
    if not text.isdecimal():
        raise RecipeError(f"how many inputs must be a whole number, got {text!r}")
    return int(text) or None
