"""Settings given on the command line in place of a recipe's: `--set name=value`."""

from typing import Any

from cyclepref.schemas.recipe import RecipeError


def parse_changes(given: list[str]) -> dict[str, Any]:
    """`--set name=value`, each value as YAML reads it.

    Raises:
        RecipeError: for one without a name or a value.
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
            raise RecipeError(f"--set {name}: {value!r} is no YAML value") from error
    return changes


def _number(value: Any) -> Any:
    """YAML 1.1 reads 2e-5 as a text."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value
