"""Types of arguments: a wrong value is told with the rule."""

import argparse
from pathlib import Path


def place(value: str) -> str:
    """A run directory: a folder, or an address that the store knows."""
    return value if "://" in value else str(Path(value).expanduser())


def positive(value: str) -> int:
    """A whole number above 0."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {value!r}")
    return int(value)


def number(value: str) -> float:
    """Any number."""
    try:
        return float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {value!r}") from None


def number_or_none(value: str) -> str:
    """A number, or the word none."""
    return value if value == "none" else str(number(value))
