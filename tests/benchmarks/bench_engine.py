"""What the engine does by itself: models that do nothing, a million generations, rows a second and flat memory.

    python tests/benchmarks/bench_engine.py [--rows 1000000] [--runs 1] [--batch 256]

A stage of a real build (ids wanted, less those in the store, located, sent to models, answered, written, accounted for)
whose two models answer at once, on texts. Seconds are from the first thought of the stage to its accounting; a cluster
is started before and its seconds told apart. The memory of the driver and of all processes that Ray keeps for models is
looked at twice a second. Fails if a row is missing, below 5,000 rows a second from the first receipt to the last, or if
the last quarter of the time has more than 1.2 times the second quarter's memory.
"""

import os
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil
from _common import BenchmarkError, Row, arguments, finish, in_turns, machine, median, say_machine, table

AT_LEAST, GROWTH = 5000.0, 1.2
SAMPLES, MODELS = 50, 2
LOOK_S = 0.5
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


class Memory(threading.Thread):
    """Looks at the resident memory, in MB, of this process and of those below it, until it is told to stop."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.looks: list[tuple[float, float, float]] = []  # time, driver, all others
        self._stop_asked = threading.Event()

    def run(self) -> None:
        me = psutil.Process()
        while not self._stop_asked.wait(LOOK_S):
            others = sum(_resident(process) for process in me.children(recursive=True))
            self.looks.append((time.monotonic(), _resident(me), others))

    def end(self) -> None:
        """Look no more."""
        self._stop_asked.set()
        self.join()

    def growth(self, begin: float, end: float) -> Row:
        """Peaks, and the last quarter's median as a multiple of the second quarter's; times are `time.monotonic`'s."""
        quarter = (end - begin) / 4
        figures: Row = {}
        for at, name in ((1, "driver"), (2, "hosts")):
            second, last = (
                [look[at] for look in self.looks if begin + n * quarter <= look[0] <= begin + (n + 1) * quarter]
                for n in (1, 3)
            )
            figures[f"{name} MB at the peak"] = max((look[at] for look in self.looks), default=0.0)
            both = second and last
            figures[f"{name} growth"] = statistics.median(last) / statistics.median(second) if both else None
        return figures


def _resident(process: psutil.Process) -> float:
    """A process's own memory in MB; shared memory, where Ray's objects lie, is not any one's."""
    try:
        if process.pid != os.getpid() and any(name in " ".join(process.cmdline()) for name in RAYS_OWN):
            return 0.0
        used = process.memory_info()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return 0.0
    return (used.rss - used.shared) / 1e6


def measure(place: Path, rows: int, batch: int) -> Row:
    """One run in a store of its own: seconds, rows a second, memory.

    Raises:
        BenchmarkError: if a row is missing.
    """
    # Here, so that the clock of a first run does not have the imports.
    import _no_op

    from cyclepref.builder.engine.engine import Engine
    from cyclepref.builder.run.record import Notes
    from cyclepref.builder.run.store import Store
    from cyclepref.builder.stages.accounting import Accountant

    class Ticks(Notes):
        """Notes that remember when receipts came."""

        times: ClassVar[list[tuple[float, int]]] = []

        def tick(self, done: int, failed: int) -> None:
            self.times.append((time.monotonic(), done))
            super().tick(done, failed)

    store = Store(place)
    ids = _no_op.write_inputs(store, max(1, rows // (SAMPLES * MODELS)))
    uses = _no_op.uses_of(MODELS, batch, SAMPLES)
    Ticks.times = []
    with Engine() as engine:
        begin = time.monotonic()
        cores = engine.cluster.cpus
        ready = time.monotonic()
        memory = Memory()
        memory.start()
        wanted = _no_op.wanted(ids, uses)
        counts = _no_op.make(wanted, uses, Accountant(store, 0, notes=Ticks(store)), engine)
        end = time.monotonic()
        memory.end()
    ok = sum(count.ok for count in counts.values())
    if not ok == wanted.num_rows == len(Store(store.root).ids("generations")):
        raise BenchmarkError(f"{wanted.num_rows} rows were wanted, and {ok} were made")
    (first, of_first), (last, _) = Ticks.times[0], Ticks.times[-1]
    return {
        "rows": ok,
        "cores": cores,
        "cluster": ready - begin,
        "first receipt": first - ready,
        "seconds": end - ready,
        "rows a second": (ok - of_first) / (last - first) if last > first else float("nan"),
        "whole, rows a second": ok / (end - ready),
        **memory.growth(first, last),
    }


def main() -> int:
    """Measure and print; 1 if it is too slow or grows."""
    parser = arguments(
        __doc__, 1,
        rows={"type": int, "default": 1_000_000, "help": "generations (default: %(default)s)"},
        batch={"type": int, "default": 256, "help": "rows of a batch; a part holds four (default: %(default)s)"},
    )  # fmt: skip
    given = parser.parse_args()
    # Processes that Ray starts import the worker from here.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]).rstrip(
        ":"
    )
    on = machine()
    say_machine(on)

    def once() -> Row:
        with tempfile.TemporaryDirectory() as place:
            return measure(Path(place), given.rows, given.batch)

    found = in_turns({"engine": once}, given.runs)["engine"]
    table("the engine by itself", found)
    targets = {"rows a second": (median(found, "rows a second"), AT_LEAST)}
    for name in ("driver growth", "hosts growth"):
        grown = [row[name] for row in found if row[name] is not None]
        if grown:
            targets[f"{name}, its inverse"] = (1 / statistics.median(grown), 1 / GROWTH)
    return finish({"benchmark": "engine", "machine": on, "runs": found}, given.json, targets)


if __name__ == "__main__":
    sys.exit(main())
