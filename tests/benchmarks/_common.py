"""What the benchmarks share: ways that take turns in fresh processes, medians, a table, a JSON file, the machine.

A way is a command whose last line of output is a JSON object. Its `seconds` are those from the start of its process to
the end, so imports and loading are in them; its `processor` seconds are what the process and all below it used, which
other work on the machine changes less. Ways take turns, every second round backwards, so that what else runs on
the machine, and a machine that becomes warm or busy, falls on all of them alike; ratios are of their medians.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psutil

HERE = Path(__file__).parent
LOOK_S = 0.5
# The load per core from which a machine is called busy.
BUSY = 0.5
# What Ray starts for itself, and not for models.
RAYS_OWN = (
    "raylet",
    "gcs_server",
    "log_monitor",
    "dashboard",
    "runtime_env",
    "monitor.py",
    "_agent",
    "resource_tracker",
)
PACKAGES = ("cyclepref", "torch", "transformers", "diffusers", "sentence-transformers", "lpips", "ray", "pyarrow")

Row = dict[str, Any]


class BenchmarkError(RuntimeError):
    """A way that failed, or that did other work than it should have."""


def arguments(about: str | None, runs: int, **more: dict[str, Any]) -> argparse.ArgumentParser:
    """The options that all have: `--runs`, `--json` and those of `more` ("candidates": {...of add_argument})."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=runs, help="how often each way is run (default: %(default)s)")
    parser.add_argument("--json", type=Path, help="a file to write all figures to (default: none, a line is printed)")
    for name, options in more.items():
        parser.add_argument(f"--{name.replace('_', '-')}", **options)
    return parser


def fresh(script: str, *words: str) -> Row:
    """Run a script of this folder in a new process: what its last line of output says, and its `seconds` in all.

    Raises:
        BenchmarkError: if it fails; its last words are in the message.
    """
    return command([sys.executable, str(HERE / script), *words])


def command(words: list[str]) -> Row:
    """As `fresh`, of any command; one that prints no JSON has its `seconds` and `processor` alone."""
    begin = time.perf_counter()
    process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    watch = Watch(psutil.Process(process.pid))
    said, complaint = process.communicate()
    seconds = time.perf_counter() - begin
    watch.end()
    if process.returncode:
        raise BenchmarkError(f"{' '.join(words)} ended with {process.returncode}:\n{complaint[-3000:]}")
    last = (said.strip().splitlines() or [""])[-1]
    used = sum(watch.processor.values())
    return {**(json.loads(last) if last.startswith("{") else {}), "seconds": seconds, "processor": used}


class Watch(threading.Thread):
    """Looks twice a second at a process and all below it, until it is told to end.

    `processor` has the seconds of processor time by process; less than half a second of each is missed at its end.
    `looks` has the time (`time.monotonic`), the resident memory of the process and that of all others that are not
    Ray's own, in MB.
    """

    def __init__(self, root: psutil.Process):
        super().__init__(daemon=True)
        self.processor: dict[int, float] = {}
        self.looks: list[tuple[float, float, float]] = []
        self._root, self._end = root, threading.Event()
        self.start()

    def run(self) -> None:
        """Look."""
        while not self._end.wait(LOOK_S):
            memory = {"root": 0.0, "others": 0.0}
            with suppress(psutil.Error):
                for process in [self._root, *self._root.children(recursive=True)]:
                    with suppress(psutil.Error):  # it has ended meanwhile
                        times, used = process.cpu_times(), process.memory_info()
                        self.processor[process.pid] = times.user + times.system
                        if process == self._root:
                            memory["root"] = used.rss / 1e6
                        elif not any(name in " ".join(process.cmdline()) for name in RAYS_OWN):
                            # Shared memory, where Ray's objects lie, is not any one's.
                            memory["others"] += (used.rss - used.shared) / 1e6
            self.looks.append((time.monotonic(), memory["root"], memory["others"]))

    def end(self) -> None:
        """Look no more."""
        self._end.set()
        self.join()


def in_turns(ways: Mapping[str, Callable[[], Row]], runs: int) -> dict[str, list[Row]]:
    """Every way's results in `runs` rounds, told as they come."""
    results: dict[str, list[Row]] = {name: [] for name in ways}
    for number in range(runs):
        for name in list(ways) if number % 2 == 0 else reversed(list(ways)):
            results[name].append(ways[name]())
            print(f"  {name}: {results[name][-1]['seconds']:.1f} s", file=sys.stderr, flush=True)
    return results


def median(results: list[Row], figure: str = "seconds") -> float:
    """The median of one figure of a way's results."""
    return statistics.median(row[figure] for row in results)


def same(results: list[Row], figure: str) -> Any:
    """A figure that is the same in all of a way's results.

    Raises:
        BenchmarkError: if it is not.
    """
    found = {json.dumps(row[figure], sort_keys=True) for row in results}
    if len(found) != 1:
        raise BenchmarkError(f"{figure} differs from run to run: {', '.join(sorted(found))}")
    return results[0][figure]


def machine() -> Row:
    """What was measured on, with what and when; `load` is the machine's over the last minute, before the first run."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "date": datetime.date.today().isoformat(),
        "processor": names[0] if names else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(memory, 1),
        "load": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES},
    }


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def say_machine(on: Row) -> None:
    """Print the machine in two lines."""
    print(f"{on['date']}, {on['processor']}, {on['cores']} cores, {on['memory_gb']} GB, load {on['load']} at the start")
    if on["load"] > BUSY * on["cores"]:
        print("this machine is busy: seconds are not its own, and even ratios of them can be off by far")
    print(f"Python {on['python']}, " + ", ".join(f"{name} {version}" for name, version in on["versions"].items()))


def table(title: str, rows: list[Row]) -> None:
    """Print rows as a table of their keys: numbers to the right, floats with two digits."""
    shown = [{name: _cell(value) for name, value in row.items()} for row in rows]
    widths = {name: max(len(name), *(len(row[name]) for row in shown)) for name in rows[0]}
    print(f"\n{title}")
    print("  ".join(_placed(name, widths[name], rows[0][name]) for name in widths))
    for row, values in zip(shown, rows, strict=True):
        print("  ".join(_placed(row[name], widths[name], values[name]) for name in widths), flush=True)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,.2f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else str(value)


def _placed(text: str, width: int, value: Any) -> str:
    return text.ljust(width) if isinstance(value, str) else text.rjust(width)


@dataclass(frozen=True)
class Target:
    """What a figure should be: at least, or at most."""

    measured: float
    at_least: float | None = None
    at_most: float | None = None

    @property
    def met(self) -> bool:
        """Whether it is; not a number is not."""
        above = self.at_least is None or self.measured >= self.at_least
        return above and (self.at_most is None or self.measured <= self.at_most)

    def __str__(self) -> str:
        bound = f"at most {self.at_most:g}" if self.at_least is None else f"at least {self.at_least:g}"
        return f"{self.measured:,.2f}, wanted {bound}"


def finish(figures: Row, file: Path | None, targets: Mapping[str, Target]) -> int:
    """Write or print the figures and hold them against their targets; 0 if all are met, 1 otherwise."""
    figures["targets"] = {name: asdict(target) for name, target in targets.items()}
    print()
    for name, target in targets.items():
        print(f"{'met' if target.met else 'MISSED'}: {name}: {target}")
    if file is None:
        print(json.dumps(figures))
    else:
        file.write_text(json.dumps(figures, indent=1) + "\n")
    return int(not all(target.met for target in targets.values()))
