"""Settings on the command line that replace a recipe's: `--set name=value`."""

from typing import Any

from cyclepref.schemas.recipe import RecipeError


def parse_changes(given: list[str]) -> dict[str, Any]:
    """Parse `--set name=value`; each value is read as YAML.

    Raises:
        RecipeError: if a name or a value is missing.
    """
    import yaml

    changes = {}
    for each in given:
        name, equals, value = each.partition("=")
        if not (name and equals) or not all(name.split(".")):
            raise RecipeError(
                f"--set takes name=value, as in --set seed=3 or --set a.b=c for the setting b of a; got {each!r}"
            )
        try:
            changes[name] = _number(yaml.safe_load(value))
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            raise RecipeError(f"--set {name}: {value!r} is not a YAML value") from error
    return changes


def _number(value: Any) -> Any:
    """Turn a text such as 2e-5 into a number; YAML 1.1 reads it as a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
