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
import time
from pathlib import Path

import psutil
from _common import BenchmarkError, Row, Target, Watch, arguments, finish, in_turns, machine, median, say_machine, table

AT_LEAST, GROWTH = 5000.0, 1.2
SAMPLES, MODELS = 50, 2


def memory(watch: Watch, begin: float, end: float) -> Row:
    """Peaks in MB, and the last quarter's median as a multiple of the second quarter's; times as `Watch` has them."""
    quarter, figures = (end - begin) / 4, {}
    for at, name in ((1, "driver"), (2, "hosts")):
        second, last = (
            [look[at] for look in watch.looks if begin + n * quarter <= look[0] <= begin + (n + 1) * quarter]
            for n in (1, 3)
        )
        figures[f"{name} MB at the peak"] = max((look[at] for look in watch.looks), default=0.0)
        seen = second and last
        figures[f"{name} growth"] = statistics.median(last) / statistics.median(second) if seen else None
    return figures


def measure(place: Path, rows: int, batch: int) -> Row:
    """One run in a store of its own: seconds, rows a second, memory.

    Raises:
        BenchmarkError: if a row is missing.
    """
    # Here, so that the clock of a first run does not have the imports.
    import _no_op

    from cyclepref.builder.common.time_left import TimeLeft
    from cyclepref.builder.engine.engine import Engine
    from cyclepref.builder.run.record import Notes
    from cyclepref.builder.run.store import Store
    from cyclepref.builder.stages.accounting import Accountant

    class Ticks(Notes):
        """Notes that remember when receipts came, and of how many rows."""

        def __init__(self, store: Store):
            super().__init__(store)
            self.times: list[tuple[float, int]] = []

        def tick(self, done: int, failed: int, left: TimeLeft) -> None:
            self.times.append((time.monotonic(), done))
            super().tick(done, failed, left)

    store = Store(place)
    ids = _no_op.write_inputs(store, max(1, rows // (SAMPLES * MODELS)))
    uses = _no_op.uses_of(MODELS, batch, SAMPLES)
    notes = Ticks(store)
    with Engine() as engine:
        begin = time.monotonic()
        cores = engine.cluster.cpus
        ready = time.monotonic()
        watch = Watch(psutil.Process())
        wanted = _no_op.wanted(ids, uses)
        counts = _no_op.make(wanted, uses, Accountant(store, 0, notes=notes), engine)
        end = time.monotonic()
        watch.end()
    ok = sum(count.ok for count in counts.values())
    if not ok == wanted.num_rows == len(Store(store.root).ids("generations")):
        raise BenchmarkError(f"{wanted.num_rows} rows were wanted, and {ok} were made")
    (first, of_first), (last, _) = notes.times[0], notes.times[-1]
    return {
        "rows": ok,
        "cores": cores,
        "cluster": ready - begin,
        "first receipt": first - ready,
        "seconds": end - ready,
        "rows a second": (ok - of_first) / (last - first) if last > first else float("nan"),
        "whole, rows a second": ok / (end - ready),
        **memory(watch, first, last),
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
    targets = {"rows a second": Target(median(found, "rows a second"), at_least=AT_LEAST)}
    for name in ("driver growth", "hosts growth"):
        grown = [row[name] for row in found if row[name] is not None]
        if grown:
            targets[name] = Target(statistics.median(grown), at_most=GROWTH)
    return finish({"benchmark": "engine", "machine": on, "runs": found}, given.json, targets)


if __name__ == "__main__":
    sys.exit(main())
