"""Error texts for a wrong setting: the rule, the value given and the way out."""

import re
from collections.abc import Sequence
from datetime import date
from typing import Any

from cyclepref.schemas.nearest import did_you_mean

# Characters of a value that an error repeats.
SHOWN = 80
# By pydantic's kind of error; {} are the bounds that it gives.
RULES = {
    "string_type": "must be a text",
    "string_too_short": "must be a text of {min_length} characters or more",
    "string_pattern_mismatch": "must begin with a letter or a digit, and have only these and . _ -",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "dict_type": "must be settings, name: value",
    "model_type": "must be settings, name: value",
    "model_attributes_type": "must be settings, name: value",
    "greater_than": "must be above {gt}",
    "greater_than_equal": "must be {ge} or more",
    "less_than": "must be below {lt}",
    "less_than_equal": "must be {le} or less",
    "too_short": "must have {min_length} entries or more",
    "invalid_key": "has a name that is not a text: put it in quotes",
    "recursion_loop": "contains itself",
}


def missing(about: str | None) -> str:
    """A setting that must be given; `about` says what it is."""
    return f"is missing: {about}" if about else "is missing, and has no default: give it"


def unknown(name: str, known: Sequence[str]) -> str:
    """An unknown setting: the message suggests those with a similar name, or lists all."""
    hint = did_you_mean(name, known)
    return f"unknown setting{hint}; there are {', '.join(known)}"


def worded(problem: dict[str, Any], names: Sequence[str], hidden: bool = False) -> str:
    """One of pydantic's errors in our words. `names` are the settings of the section that is expected there, if any; a
    `hidden` value is not repeated."""
    kind, given, bounds = problem["type"], problem["input"], problem.get("ctx", {})
    if kind in ("value_error", "assertion_error"):
        return str(bounds.get("error", problem["msg"]))
    if kind in ("literal_error", "union_tag_invalid", "union_tag_not_found"):
        return _choice(kind, given, bounds, hidden)
    if kind == "too_short" and bounds.get("min_length") == 1:
        return "must not be empty"
    plain = {name: f"{value:g}" if isinstance(value, float) else value for name, value in bounds.items()}
    rule = RULES.get(kind, "").format(**plain) or problem["msg"]
    if rule.startswith("must be settings") and names:
        rule += f" (there are {', '.join(names)})"
    return rule + ("" if hidden else f", got {shown(given)}{_quotes(kind, given)}")


def _choice(kind: str, given: Any, bounds: dict[str, Any], hidden: bool) -> str:
    """The text for a value that is none of the allowed words."""
    if kind == "union_tag_not_found":
        return f"must be settings with a {bounds['discriminator'].strip(chr(39))}, got {shown(given)}"
    expected = bounds.get("expected") or bounds["expected_tags"]
    value = bounds.get("tag", given)
    names = re.findall(r"'([^']*)'", expected)
    what = f"{bounds['discriminator'].strip(chr(39))} " if "discriminator" in bounds else ""
    said = "" if hidden else f", got {shown(value)}{did_you_mean(str(value), names)}"
    return f"{what}must be {' or '.join(filter(None, [', '.join(names[:-1]), names[-1]]))}{said}"


def _quotes(kind: str, given: Any) -> str:
    """A hint to use quotes, for words and dates that YAML does not read as text."""
    if kind != "string_type" or not isinstance(given, bool | int | float | date):
        return ""
    because = " (YAML reads yes, no, on and off as true or false)" if isinstance(given, bool) else ""
    return f"{because}: put it in quotes"


def shown(value: Any) -> str:
    """A value as YAML writes it; a whole section only by its kind and keys."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, dict):
        return f"settings ({', '.join(map(str, value))})"[:SHOWN] if value else "nothing"
    if isinstance(value, list | tuple | set):
        return f"a list of {len(value)}" if value else "an empty list"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "..."
