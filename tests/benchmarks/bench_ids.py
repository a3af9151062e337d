"""How long it takes to find out what is left of ten million rows, and in how much memory.

    python tests/benchmarks/bench_ids.py [--rows 10000000] [--there 0.9]

A store of similarities (the table with the most rows) is written for a share of the ids, then a fresh process asks
which of all wanted ids are missing: this is what a build does first in every stage. The count must be exact. Making
the wanted ids, one BLAKE2b a row, is timed on its own. Prints seconds, rows a second, ratios to the limits (10 s and
1 GB for ten million) and each step's peak of resident memory.
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[2]))

from cyclepref.builder.run.store import TABLES, Store, without

LIMIT_S, LIMIT_GB = 10.0, 1.0
ROWS_PER_PART = 500_000


def ids(start: int, count: int) -> pa.Array:
    """`count` distinct ids, as good as hashed: hex letters of a seeded generator's bytes, made quickly."""
    raw = np.random.default_rng(start).bytes(16 * count).hex().encode()
    offsets = pa.py_buffer(np.arange(0, 32 * count + 1, 32, dtype=np.int32))
    return pa.StringArray.from_buffers(count, offsets, pa.py_buffer(raw))


def fill(root: str, rows: int, there: float) -> None:
    """Write the parts that a build would have left, the last `1 - there` of every part's ids missing."""
    schema, key = TABLES["similarities"]
    store = Store(root)
    for start in range(0, rows, ROWS_PER_PART):
        count = min(ROWS_PER_PART, rows - start)
        some = ids(start, count).slice(0, round(count * there))
        same = {name: pa.repeat("a name that all share", len(some)) for name in schema.names}
        columns = {**same, key: some, "value": pa.array(np.random.default_rng(start).random(len(some)))}
        store.create_part("similarities", f"{start:032x}.parquet", pa.table(columns).select(schema.names).cast(schema))


def scan(root: str, rows: int, there: float) -> dict[str, float]:
    """Find what is left, as `Accountant.run` does."""
    count = [min(ROWS_PER_PART, rows - start) for start in range(0, rows, ROWS_PER_PART)]
    starts = range(0, rows, ROWS_PER_PART)
    wanted = pa.chunked_array([ids(start, some) for start, some in zip(starts, count, strict=True)])
    table = pa.table({"similarity_id": wanted})
    base = peak()
    begin, busy = time.perf_counter(), time.process_time()
    present = Store(root).ids("similarities")
    read = time.perf_counter()
    left = without(table, "similarity_id", present).num_rows
    end = time.perf_counter()
    expected = sum(some - round(some * there) for some in count)
    if left != expected:
        raise SystemExit(f"{left} rows are left, and {expected} should be: fast and wrong")
    return {
        "read ids": read - begin,
        "subtract": end - read,
        "scan": end - begin,
        "cpu": time.process_time() - busy,
        "wanted ids alone, GB": base,
    }


def hash_ids(root: str, rows: int, there: float) -> dict[str, float]:
    """Make wanted ids as `generate.want` does."""
    # Here, since they bring in the libraries that a scan can do without.
    from cyclepref.builder.stages.wanted import Use, wanted_generations
    from cyclepref.schemas.resolved import Resolved
    from cyclepref.schemas.specs import PainterSpec

    spec = PainterSpec(name="m", repo="org/m", steps=1, guidance=0, width=8, height=8)
    inputs = max(1, rows // 10)
    sources = [(f"{n:032x}", f"{n:032x}") for n in range(inputs)]
    uses = [Use(Resolved(spec, spec.identity()), 10)]
    begin = time.perf_counter()
    made = wanted_generations(sources, uses, 0, "forward").num_rows
    return {"hash": time.perf_counter() - begin, "rows": made}


def peak() -> float:
    """Peak of this process's resident memory, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def _alone(connection: Any, step: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    result = step(*arguments)
    connection.send((result, peak()))


def alone(step: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    """A step in a process of its own: its result, and its peak of memory in GB."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_alone, args=(its, step, arguments))
    process.start()
    its.close()
    result = mine.recv()
    process.join()
    return result


def main() -> None:
    """Measure, print, and fail on a wrong count."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000, help="ids that are wanted (default: %(default)s)")
    parser.add_argument("--there", type=float, default=0.9, help="share of them in the store (default: %(default)s)")
    parser.add_argument("--hash-rows", type=int, default=1_000_000, help="ids to hash (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        alone(fill, root, arguments.rows, arguments.there)
        times, memory = alone(scan, root, arguments.rows, arguments.there)
    share = arguments.rows / 10_000_000
    print(f"scan of {arguments.rows:,} ids, {arguments.there:.0%} of them there:")
    print(f"  {times['scan']:.2f} s ({times['read ids']:.2f} reading, {times['subtract']:.2f} subtracting; "
          f"{times['cpu']:.2f} s of processor time), "
          f"{times['scan'] / (LIMIT_S * share):.2f} of the limit")  # fmt: skip
    print(f"  {memory:.2f} GB at the peak, {memory / LIMIT_GB:.2f} of the limit; "
          f"the libraries and the wanted ids as strings alone: {times['wanted ids alone, GB']:.2f} GB")  # fmt: skip
    made, memory = alone(hash_ids, "", arguments.hash_rows, 0)
    print(f"hashing {made['rows']:,} wanted ids: {made['hash']:.2f} s, {made['rows'] / made['hash']:,.0f} a second, "
          f"{memory:.2f} GB at the peak")  # fmt: skip


if __name__ == "__main__":
    main()
