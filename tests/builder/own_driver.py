"""A driver with a Ray of its own, in a process that tests may look into and kill: slow rows, then a full disk."""

import sys
import threading
import time

import psutil
import pyarrow as pa

from cyclepref.builder.engine import watch
from cyclepref.builder.engine.cluster import EngineError
from cyclepref.builder.engine.engine import Engine

COMMAND = "cyclepref build recipe.yaml --out runs/mine"


def row(block: pa.Table) -> pa.Table:
    if block["row"][0].as_py() == 5:
        raise OSError(28, "No space left on device")
    time.sleep(0.5)
    return block


def main() -> None:
    watch.goes_on(f"This goes on:\n  {COMMAND}")
    try:
        with Engine() as engine:
            for _ in engine.run_tasks([pa.table({"row": [number]}) for number in range(60)], row):
                print("row", flush=True)
                sys.stdin.readline()  # one line for each row, so that the test sees it at work
    except EngineError as error:
        print("ended", error, flush=True)
    end = time.monotonic() + 3
    started = 0
    while time.monotonic() < end:
        started += sum(child.name() == "gcs_server" for child in psutil.Process().children())
        time.sleep(0.1)
    print("started again", started, flush=True)
    print("left", [thread.name for thread in threading.enumerate() if "Executor" in thread.name], flush=True)


if __name__ == "__main__":
    main()
