"""What writing a dataset costs: memory that does not grow with it, bytes beside its images, and inputs a second.

    python tests/benchmarks/bench_dataset.py            # 1,000 and 3,000 inputs, 3 images of 49 kB each

Fails if the peak is above six row groups and 2 kB a candidate (its ids and scores, which are held for all of them), or
if what is published is more than 1.05 times its images and its other columns. Seconds are of a machine with nothing
else to do.
"""

import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

sys.path[:0] = [str(Path(__file__).parents[2]), str(Path(__file__).parents[1] / "builder")]

from dataset_run import MODELS, make_run  # noqa: E402

from cyclepref.builder.dataset.shards import BATCH_BYTES  # noqa: E402
from cyclepref.builder.dataset.write import write_splits  # noqa: E402

SIDE, SIZES = 128, (1000, 3000)


def measure(place: Path, inputs: int) -> dict[str, float]:
    """Write a dataset of noise; seconds, peak bytes of Python and Arrow together, bytes written, and their ratio."""
    run = make_run(place, "t2i2t", inputs, side=SIDE)
    before, pool = pa.default_memory_pool(), pa.proxy_memory_pool(pa.default_memory_pool())
    begin = time.monotonic()
    write_splits(run.store, run.views, run.plan(), "speed")
    seconds = time.monotonic() - begin
    pa.set_memory_pool(pool)
    tracemalloc.start()
    write_splits(run.store, run.views, run.plan(), "memory")
    peak = tracemalloc.get_traced_memory()[1] + pool.max_memory()
    tracemalloc.stop()
    pa.set_memory_pool(before)
    files = list((place / "dataset").rglob("*-speed-*"))
    size = sum(path.stat().st_size for path in files)
    content = sum(pq.read_table(path).nbytes for path in files)
    return {"inputs": inputs, "seconds": seconds, "peak": peak, "bytes": size, "ratio": size / content}


def main() -> int:
    """Print the figures; 1 if one of them is out of bounds."""
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(Path(folder, str(inputs)), inputs) for inputs in SIZES]
    print("inputs  seconds  inputs/s  MB written  MB at the peak  published / content")
    for row in rows:
        speed, mb, peak = row["inputs"] / row["seconds"], row["bytes"] / 1e6, row["peak"] / 1e6
        print(f"{row['inputs']:6}  {row['seconds']:7.2f}  {speed:8.0f}  {mb:10.1f}  {peak:14.1f}  {row['ratio']:.4f}")
    bounds = [6 * BATCH_BYTES + 2000 * len(MODELS) * row["inputs"] for row in rows]
    too_large = any(row["peak"] > bound for row, bound in zip(rows, bounds, strict=True))
    return int(too_large or max(row["ratio"] for row in rows) > 1.05)


if __name__ == "__main__":
    sys.exit(main())
