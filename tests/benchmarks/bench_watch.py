"""What `cyclepref watch` costs the build that it looks at: a build alone, and one whose page is open in a browser.

    python tests/benchmarks/bench_watch.py            # 3 builds of each, of 300 inputs of the embedded world

The page is asked for once the build has something to show, and from then on what its script asks for: the data once,
and news every 4 seconds. Both builds make the same rows, which is checked. The target is of processor time, which other
work on the machine changes less: the build's own, at most 1.05 times what it takes alone.
"""

import json
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from pathlib import Path

from _common import Row, Target, arguments, command, finish, in_turns, machine, median, same, say_machine, table

NEWS_S = 4.0
CLI = [sys.executable, "-m", "cyclepref.jobs"]


def build(inputs: int, watched: bool) -> Row:
    """Seconds of a build in a new run directory, and its counts; and how often somebody asked for news meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder, "run")
        onlooker = Onlooker(out) if watched else None
        said = command([*CLI, "build", "shapeworld_i2t2i", "--out", str(out), "--limit", str(inputs)])
        looks = onlooker.end() if onlooker else 0
        counts = json.loads((out / "run.json").read_text())["counts"]
    rows = {name: counts[name] for name in ("inputs", "candidates", "reconstructions", "scores", "pairs")}
    return {**said, "counts": rows, "looks": looks}


class Onlooker(threading.Thread):
    """Runs `cyclepref watch` on a run as soon as there is one, and asks for what the page asks for until it is told to
    end."""

    def __init__(self, out: Path):
        super().__init__(daemon=True)
        self.out, self.looks, self._end = out, 0, threading.Event()
        self.start()

    def run(self) -> None:
        """Look."""
        while not (self.out / "progress.json").exists():
            if self._end.wait(0.1):
                return
        watch = subprocess.Popen([*CLI, "watch", str(self.out)], stdout=subprocess.PIPE, text=True)
        try:
            address, token = next(line for line in watch.stdout if "?token=" in line).split()[-1].split("?")
            for path in ("", "data"):
                self._ask(f"{address}{path}?{token}")
            while not self._end.wait(NEWS_S):
                self._ask(f"{address}news?{token}")
                self.looks += 1
        finally:
            watch.terminate()
            watch.wait()

    def _ask(self, address: str) -> None:
        with urllib.request.urlopen(address, timeout=60) as answer:
            answer.read()

    def end(self) -> int:
        """Look no more; returns how often news were asked for."""
        self._end.set()
        self.join()
        return self.looks


def main() -> int:
    """Print the figures; 1 if the build is slowed."""
    options = arguments(__doc__, 3, inputs={"type": int, "default": 300, "help": "inputs of a build"}).parse_args()
    on = machine()
    say_machine(on)
    begin = time.monotonic()
    ways = {"alone": lambda: build(options.inputs, False), "watched": lambda: build(options.inputs, True)}
    results = in_turns(ways, options.runs)
    counts = same([row for rows in results.values() for row in rows], "counts")
    rows = [
        {"way": name, "processor seconds": median(of, "processor"), "seconds": median(of), "asked": median(of, "looks")}
        for name, of in results.items()
    ]
    table(f"a build of {counts['inputs']['unique']} inputs", rows)
    ratios = {figure: median(results["watched"], figure) / median(results["alone"], figure)
              for figure in ("processor", "seconds")}  # fmt: skip
    figures = {"machine": on, "ratios": ratios, "rows": rows, "took_s": round(time.monotonic() - begin)}
    print(f"\nwatched, times alone: processor {ratios['processor']:.3f}, wall {ratios['seconds']:.3f}")
    targets = {"the build's processor time, watched to alone": Target(ratios["processor"], at_most=1.05)}
    return finish(figures, options.json, targets)


if __name__ == "__main__":
    sys.exit(main())
