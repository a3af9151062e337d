"""Whole builds against the bare batched loop over the same models: how much of the limit is reached.

    python tests/benchmarks/bench_limit.py [--candidates 2000] [--runs 3] [--cycles i2t2i t2i2t]

The limit is one process that loads each model, runs its rows in the batches of its spec, makes equal work once, and
keeps everything in memory: no Ray, no tables, no files, no resume (see _loop.py). Both ways are run whole, in fresh
processes, by turns, on all rows and on a quarter of them. The steady state is what the other three quarters cost, so
start-up is in neither; a whole build has it in. Fails if counts differ, or the build is below 0.90 of the limit in
its steady state or below 0.80 as a whole.
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
from _work import build, by_cycle, prepare, start_up

STEADY, WHOLE = 0.90, 0.80
LIMIT = ("--batched", "--reuse", "--in-memory")
PARTS = ("inputs", "candidates", "reconstructions", "comparisons", "pairs")


def measure(place: Path, cycle: str, candidates: int, runs: int) -> Row:
    """Both ways of one cycle, on all rows and a quarter: seconds, start-up, rows a second, and the build's shares."""
    path, _ = prepare(place / "all", cycle, candidates)
    small, _ = prepare(place / "quarter", cycle, candidates // 4)
    ways = {}
    for size, recipe in (("", path), (" of a quarter", small)):
        ways[f"limit{size}"] = lambda recipe=recipe: fresh("_loop.py", str(recipe), str(place / "unused"), *LIMIT)
        ways[f"build{size}"] = lambda recipe=recipe: build(recipe, Path(tempfile.mkdtemp(dir=place)))
    found = in_turns(ways, runs)
    counts = {name: same(results, "counts") for name, results in found.items()}
    check(counts)
    rows = {}
    for name in ("limit", "build"):
        few, all_ = found[f"{name} of a quarter"], found[name]
        more = all_[0]["counts"]["candidates"] - few[0]["counts"]["candidates"]
        steady = (median(all_) - median(few)) / more
        rows[name] = {
            "seconds": median(all_),
            "processor": median(all_, "processor"),
            "start-up": start_up(few, all_),
            "candidates a second": 1 / steady,
        }
    shares = {
        "steady": rows["build"]["candidates a second"] / rows["limit"]["candidates a second"],
        "whole": rows["limit"]["seconds"] / rows["build"]["seconds"],
    }
    return {"ways": rows, "counts": counts, "shares": shares}


def check(counts: dict[str, Row]) -> None:
    """Both ways did the same.

    Raises:
        BenchmarkError: if they did not.
    """
    for size in ("", " of a quarter"):
        mine, its = ({part: counts[f"{name}{size}"][part] for part in PARTS} for name in ("build", "limit"))
        if mine != its:
            raise BenchmarkError(f"the build{size} did {mine}, and the loop {its}: they cannot be compared")


def show(cycle: str, found: Row, given: argparse.Namespace) -> dict[str, Target]:
    """Print one cycle; what its shares should be."""
    title = f"{cycle}: {found['counts']['build']['candidates']} candidates, medians of {given.runs}"
    table(title, [{"way": name, **row} for name, row in found["ways"].items()])
    return {
        f"{cycle}, steady state, share of the limit": Target(found["shares"]["steady"], at_least=STEADY),
        f"{cycle}, whole build, share of the limit": Target(found["shares"]["whole"], at_least=WHOLE),
    }


def main() -> int:
    """Measure and print; 1 if a share is too small."""
    return by_cycle(
        __doc__, "limit", lambda place, cycle, given: measure(place, cycle, given.candidates, given.runs), show
    )


if __name__ == "__main__":
    sys.exit(main())
