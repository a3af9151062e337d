"""`cyclepref check`: what is wrong with a recipe, on the screen."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from cyclepref.builder.common.progress import plain
from cyclepref.builder.planning.check import check_recipe
from cyclepref.builder.planning.hardware import hardware
from cyclepref.jobs.recipe_names import recipe_path
from cyclepref.jobs.screen import console


def run_check(
    name: str,
    changes: Mapping[str, Any] | None = None,
    gpus: int | None = None,
    gpu_type: str | None = None,
    as_json: bool = False,
) -> int:
    """Check a recipe and print what is wrong, for people or as JSON; returns the exit status, 1 if anything is."""
    path, on = recipe_path(name, "build"), hardware(gpus, gpu_type)
    found = check_recipe(path, changes, on)
    if as_json:
        print(json.dumps({"recipe": str(path), "ok": not found.faults, **asdict(found)}, indent=2, ensure_ascii=False))
        return int(bool(found.faults))
    count = len(found.faults)
    if count:
        console.print(plain(f"{name}: {count} thing{'s' if count > 1 else ''} to mend"), soft_wrap=True)
        for line in found.faults:
            console.print(plain(f"  - {line}"), style="red", soft_wrap=True)
    else:
        inputs = "" if found.inputs is None else f"{found.inputs:,} inputs, "
        console.print(plain(f"{name}: fine: {inputs}{len(found.models)} models and metrics"), soft_wrap=True)
    if on.gpu is None:
        told = "whether models fit a GPU was not looked at, since this machine has none: --gpu-type H100 looks at it"
        console.print(plain(told), soft_wrap=True)
    return int(bool(count))
