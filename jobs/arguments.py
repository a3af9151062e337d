"""Types of command-line arguments: the error for a wrong value names the rule."""

import argparse
import re
from pathlib import Path


def place(value: str) -> str:
    """A run directory: a folder, or an address that the store supports."""
    return value if "://" in value else str(path(value))


def path(value: str) -> Path:
    """The path of a file or folder on this machine; it need not exist."""
    if not value.strip():
        raise argparse.ArgumentTypeError("must be a path, got nothing")
    try:
        value.encode()
    except UnicodeEncodeError:  # file names on Linux may be any bytes
        raise argparse.ArgumentTypeError(f"must be a path in UTF-8, got {value!r}: rename or link it") from None
    if "\0" in value:
        raise argparse.ArgumentTypeError(f"must be a path, which has no NUL in it, got {value!r}")
    return Path(value).expanduser()


def folder(value: str) -> Path:
    """The path of a folder on this machine; it need not exist."""
    if "://" in value:
        raise argparse.ArgumentTypeError(f"{value!r} is not a folder of this machine")
    return path(value)


def positive(value: str) -> int:
    """A whole number above 0."""
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {value!r}")
    return int(value)


def whole(value: str) -> int:
    """A whole number, 0 or more."""
    if not value.isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, got {value!r}")
    return int(value)


def hours(value: str) -> float:
    """A time in hours: 200h, 90m, 3d, or a number of hours."""
    parts = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhd]?)", value.strip())
    if not parts or not float(parts[1]):
        raise argparse.ArgumentTypeError(f"must be a time such as 200h, 90m or 3d, got {value!r}")
    return float(parts[1]) * {"s": 1 / 3600, "m": 1 / 60, "h": 1, "d": 24}[parts[2] or "h"]


def price(value: str) -> float:
    """A price, 0 or more."""
    found = number(value)
    if not 0 <= found < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value!r}")
    return found


def number(value: str) -> float:
    """Any number."""
    try:
        return float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {value!r}") from None


def number_or_none(value: str) -> str:
    """A number, or the word none."""
    return value if value == "none" else str(number(value))
