"""Whole builds against the protocol of CycleReward's scripts: how many times as fast, and which part comes from what.

    python tests/benchmarks/bench_reference.py [--candidates 2000] [--runs 3] [--cycles i2t2i t2i2t]
    python tests/benchmarks/bench_reference.py --reference-candidates 200     # minutes instead of hours

Four ways do one work in fresh processes, by turns, each from its start to its end: same files, models, dtype, seeds.

    reference    one process, batch 1, a PNG a file, every candidate reconstructed, the input embedded again for every
                 candidate, JSON at the end of a stage, no resume (see _loop.py)
    + batches    the same, in the batches of the models' specs
    + reuse      and equal work made once
    build        `cyclepref build`: the same by Ray, with tables, resume, accounting and a dataset at the end

`--reference-candidates` gives the first two fewer inputs; their working time, in which one row follows another, is then
scaled up, and what is scaled is said. Start-up is told apart: a loop's is its seconds less those in which it works; a
build's is what a build of a quarter and one of all rows leave when the seconds a row are taken away. Fails if a way
did other work than the build, or the gain is below 5 times (i2t2i) or 10 times (t2i2t).
"""

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Any

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

GAIN = {"i2t2i": 5.0, "t2i2t": 10.0}
LOOPS = {"reference": (), "+ batches": ("--batched",), "+ reuse": ("--batched", "--reuse")}
# Rounding at another batch shape may turn a token or a score that was close to another: so many pairs may differ.
PAIRS_APART = 0.01


def measure(place: Path, cycle: str, candidates: int, fewer: int, runs: int) -> Row:
    """All ways of one cycle: seconds, start-up and counts of each, and the ratios."""
    path, work = prepare(place / "all", cycle, candidates)
    small, _ = prepare(place / "quarter", cycle, candidates // 4)
    short, _ = prepare(place / "short", cycle, fewer) if fewer < candidates else (path, work)
    recipes = {"reference": short, "+ batches": short, "+ reuse": path}
    ways: dict[str, Any] = {
        name: lambda name=name: fresh("_loop.py", str(recipes[name]), tempfile.mkdtemp(dir=place), *LOOPS[name])
        for name in LOOPS
    }
    ways["build"] = lambda: build(path, Path(tempfile.mkdtemp(dir=place)))
    ways["build of a quarter"] = lambda: build(small, Path(tempfile.mkdtemp(dir=place)))
    found = in_turns(ways, runs)
    counts = {name: same(results, "counts") for name, results in found.items()}
    rows = {name: _loop(found[name], counts[name], counts["build"]) for name in LOOPS}
    begun = start_up(found["build of a quarter"], found["build"])
    seconds = median(found["build"])
    used = median(found["build"], "processor")
    rows["build"] = {
        "seconds": seconds, "start-up": begun, "working": seconds - begun, "processor": used, "scaled": 1.0
    }  # fmt: skip
    check(work, counts, rows)
    return {"ways": rows, "counts": counts, "ratios": _ratios(rows)}


def _loop(results: list[Row], did: Row, whole: Row) -> Row:
    """A loop's medians for the whole work, its working time scaled where it did a part."""
    scaled = whole["candidates"] / did["candidates"]
    working = median(results, "working") * scaled
    begun = median([{"start-up": row["seconds"] - row["working"]} for row in results], "start-up")
    # Which part of it is start-up's is not known, so that of a part of the work cannot be scaled.
    used = median(results, "processor") if scaled == 1 else None
    return {"seconds": begun + working, "start-up": begun, "working": working, "processor": used, "scaled": scaled}


def check(work: Any, counts: dict[str, Row], rows: dict[str, Row]) -> None:
    """Hold each way's counts against the build's.

    Raises:
        BenchmarkError: if one did other work.
    """
    whole, samples = counts["build"], work.backward[1]
    for name in LOOPS:
        did = counts[name]
        if rows[name]["scaled"] != 1:
            continue
        reconstructed = whole["reconstructions"] if name == "+ reuse" else whole["candidates"] * samples
        wanted = {"inputs": whole["inputs"], "candidates": whole["candidates"], "reconstructions": reconstructed}
        wrong = {figure: did[figure] for figure, value in wanted.items() if did[figure] != value}
        if wrong or abs(did["pairs"] - whole["pairs"]) > PAIRS_APART * whole["pairs"]:
            raise BenchmarkError(f"{name} did {did}, and the build {whole}: they cannot be compared")


def _ratios(rows: dict[str, Row]) -> Row:
    seconds = {name: row["seconds"] for name, row in rows.items()}
    return {
        "whole": seconds["reference"] / seconds["build"],
        "working alone": rows["reference"]["working"] / rows["build"]["working"],
        "batches": rows["reference"]["working"] / rows["+ batches"]["working"],
        "reuse": rows["+ batches"]["working"] / rows["+ reuse"]["working"],
        "build against the loop with both": rows["+ reuse"]["working"] / rows["build"]["working"],
    }


def show(cycle: str, found: Row, given: argparse.Namespace) -> dict[str, Target]:
    """Print one cycle; how many times as fast the build should be."""
    did = found["counts"]
    table(
        f"{cycle}: {did['build']['candidates']} candidates, {did['build']['pairs']} pairs, medians of {given.runs}",
        [{"way": name, **row, "of the build": row["seconds"] / found["ways"]["build"]["seconds"],
          **{part: did[name][part] for part in ("reconstructions", "comparisons", "embeddings")}}
         for name, row in found["ways"].items()],
    )  # fmt: skip
    table(f"{cycle}: times as fast", [{"from": name, "times": value} for name, value in found["ratios"].items()])
    return {f"{cycle}, whole build, times the reference": Target(found["ratios"]["whole"], at_least=GAIN[cycle])}


def main() -> int:
    """Measure and print; 1 if the build is not as many times as fast as it should be."""

    def measured(place: Path, cycle: str, given: argparse.Namespace) -> Row:
        fewer = given.reference_candidates or given.candidates
        return measure(place, cycle, given.candidates, fewer, given.runs)

    fewer = {"type": int, "help": "as many for the two slow ways (default: all)"}
    return by_cycle(__doc__, "reference", measured, show, reference_candidates=fewer)


if __name__ == "__main__":
    sys.exit(main())
