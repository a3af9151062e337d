"""Whole builds against the same work as a Ray Data chain, which is what one would write without CyclePref.

    python tests/benchmarks/bench_ray_data.py [--candidates 2000] [--runs 3] [--cycles i2t2i t2i2t]

The chain is in _chain.py: an actor pool for each model, files in, parquet out. It resumes nothing, accounts for
nothing, and makes no pairs and no dataset; a build does. Both run whole in fresh processes, by turns. Fails if the
build is slower than the chain.
"""

import argparse
import sys
import tempfile
from pathlib import Path

from _common import (
    BenchmarkError,
    Row,
    Target,
    fresh,
    in_turns,
    median,
    same,
    table,
)
from _work import build, by_cycle, prepare

AT_LEAST = 1.0


def measure(place: Path, cycle: str, candidates: int, runs: int) -> Row:
    """Both ways of one cycle: seconds and counts, and how many times as fast the build is."""
    path, work = prepare(place / "all", cycle, candidates)
    ways = {
        "chain": lambda: fresh("_chain.py", str(path), tempfile.mkdtemp(dir=place)),
        "build": lambda: build(path, Path(tempfile.mkdtemp(dir=place))),
    }
    found = in_turns(ways, runs)
    counts = {name: same(results, "counts") for name, results in found.items()}
    check(counts["chain"], counts["build"], work.backward[1])
    seconds = {name: median(results) for name, results in found.items()}
    used = {name: median(results, "processor") for name, results in found.items()}
    return {"seconds": seconds, "processor": used, "counts": counts, "times": seconds["chain"] / seconds["build"]}


def check(chain: Row, built: Row, samples: int) -> None:
    """The chain lost no row.

    Raises:
        BenchmarkError: if it did.
    """
    wanted = {"candidates": built["candidates"], "reconstructions": built["candidates"] * samples}
    found = {name: chain[name] for name in wanted}
    if found != wanted:
        raise BenchmarkError(f"the chain made {found}, and {wanted} were to be made: they cannot be compared")


def show(cycle: str, found: Row, given: argparse.Namespace) -> dict[str, Target]:
    """Print one cycle; how many times as fast the build should be."""
    parts = ("candidates", "reconstructions", "comparisons", "pairs")
    rows = [
        {
            "way": name,
            **{kind: found[kind][name] for kind in ("seconds", "processor")},
            **{part: found["counts"][name][part] for part in parts},
        }
        for name in ("chain", "build")
    ]
    table(f"{cycle}: medians of {given.runs}", rows)
    return {f"{cycle}, whole build, times the chain": Target(found["times"], at_least=AT_LEAST)}


def main() -> int:
    """Measure and print; 1 if the build is slower."""
    return by_cycle(
        __doc__, "ray_data", lambda place, cycle, given: measure(place, cycle, given.candidates, given.runs), show
    )


if __name__ == "__main__":
    sys.exit(main())
