"""Files of settings: read, and what is wrong with them in one line each."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from schemas.errors import CyclePrefError


def read_settings(path: Path, error: type[CyclePrefError], examples: str) -> dict[str, Any]:
    """The mapping in a YAML file; `examples` is the folder that an error points to.

    Raises:
        CyclePrefError: of the kind `error`, if there is no file, or it is no YAML or no mapping.
    """
    if not path.is_file():
        raise error(f"no recipe at {path}: give the path of a YAML file, or see {examples} for examples")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as problem:
        raise error(f"{path} is not YAML: {problem}") from problem
    if not isinstance(content, dict):
        raise error(f"{path} must hold a mapping of settings, got {type(content).__name__}")
    return content


def explain(problem: dict[str, Any], known: Sequence[str]) -> str:
    """One of pydantic's errors as: place, rule, value given. `known` are the keys of the section that it is in: an
    unknown key lists them."""
    place = ".".join(str(step) for step in problem["loc"])
    if problem["type"] != "extra_forbidden":
        given = "" if problem["type"] == "missing" else f" (got {problem['input']!r:.200})"
        return f"{place or 'recipe'}: {problem['msg'].removeprefix('Value error, ')}{given}"
    close = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{place}: unknown key{hint}; known keys: {', '.join(known)}"
