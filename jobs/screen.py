"""The console of all commands, and sizes that people can read."""

import math
import sys

from rich.console import Console

UNITS = ("B", "kB", "MB", "GB", "TB")


# Results go to stdout, messages about the work to stderr.
console = Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def size_text(count: float) -> str:
    """Bytes as a person reads them."""
    power = min(len(UNITS) - 1, int(math.log10(max(count, 1)) // 3))
    return f"{count / 1000**power:.{min(power, 1)}f} {UNITS[power]}"
