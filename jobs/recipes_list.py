"""`cyclepref recipes`: the recipes that come with the package, on the screen."""

import json
import re
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cyclepref.builder.common.progress import plain
from cyclepref.jobs.recipe_names import COMMANDS, RecipeKind, shipped_recipes
from cyclepref.schemas.nearest import did_you_mean
from cyclepref.schemas.recipe import RecipeError


def print_recipes(name: str | None = None, as_json: bool = False) -> None:
    """Print what recipes there are, or the text of one.

    Raises:
        RecipeError: if no recipe has the name.
    """
    if name is not None:
        sys.stdout.write(_named(name).read_text(encoding="utf-8"))
        return
    if as_json:
        found = [(kind, name, path) for kind in COMMANDS for name, path in shipped_recipes(kind).items()]
        rows = [{"name": n, "kind": kind, "path": str(path), "about": about(path)} for kind, n, path in found]
        print(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    screen = Console(highlight=False, width=None if sys.stdout.isatty() else 120)
    for kind, command in COMMANDS.items():
        table = Table(box=None, pad_edge=False, show_header=False, padding=(0, 2, 0, 2))
        for name, path in shipped_recipes(kind).items():
            table.add_row(plain(name), plain(about(path)))
        screen.print(f"[bold]{command.format('NAME')}[/bold]", table, "", sep="\n")
    screen.print("`cyclepref recipes NAME` prints one, to be read or changed.", soft_wrap=True)


def about(path: Path) -> str:
    """The first sentence of a recipe's comment."""
    words = []
    for line in path.read_text(encoding="utf-8").splitlines():
        text = line.removeprefix("#").strip()
        if not line.startswith("#") or not text:
            break
        words.append(text)
    return re.split(r"(?<!et al)\. ", " ".join(words))[0].rstrip(".:")


def _named(name: str) -> Path:
    kinds: tuple[RecipeKind, ...] = ("build", "reward")
    found = [shipped_recipes(kind).get(name.removesuffix(".yaml")) for kind in kinds]
    for path in filter(None, found):
        return path
    names = [name for kind in kinds for name in shipped_recipes(kind)]
    raise RecipeError(f"no recipe {name!r}{did_you_mean(name, names)}: there are {', '.join(names)}")
