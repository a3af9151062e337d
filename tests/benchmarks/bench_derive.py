"""How long the driver's own work takes, and in how much memory: ids, accounting, scores, pairs, views, dataset rows.

    python tests/benchmarks/bench_derive.py [--candidates 100000 1000000 10000000] [--dataset] [--json FILE]

For each size a store is written as models would have left it (i2t2i, 12 candidates an input, one reconstruction each,
one metric), then a fresh process derives everything that a build derives, step by step and as a build does: what each
stage wants, that nothing of it is left to do, candidates, reconstructions, samples, scores, pairs and the edition of
the dataset. `--dataset` also writes the dataset's files and takes its statistics. The counts must be exact. Prints
seconds by step, the peak of resident memory after each (`anonymous` is without files that are mapped, which the system
takes back when it needs the room), and ratios to the limits.

What is left of ten million wanted ids is the steps "left to do".
"""

import argparse
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[2]))

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.dataset.views import Views, WritePlan
from cyclepref.builder.pairing.pair import Direction
from cyclepref.builder.run.blocks import Scratch
from cyclepref.builder.run.store import TABLES, Store
from cyclepref.builder.stages import compare
from cyclepref.builder.stages.accounting import Accountant, Work
from cyclepref.builder.stages.derive import SOURCES, Derivation, Models
from cyclepref.builder.stages.wanted import Use, wanted_generations
from cyclepref.schemas.cycle import CYCLES
from cyclepref.schemas.id_columns import hex_of
from cyclepref.schemas.recipe import Recipe
from cyclepref.schemas.resolved import Resolved

FORWARD, SAMPLES, INPUTS_PER_CHUNK = 4, 3, 10_000
# candidates -> (seconds, GB)
LIMITS = {100_000: (2.5, 0.6), 1_000_000: (25.0, 1.5), 10_000_000: (300.0, 3.0)}
RECIPE = {
    "name": "derive", "cycle": "i2t2i", "inputs": {"source": "shapeworld", "limit": 1}, "seed": 7,
    "forward": [{"model": "shapeworld-blip", "samples": 12, "settings": {"temperature": 1.0}}],
    "backward": {"model": "shapeworld-sd3"},
    "metric": {"metric": "lpips-shapeworld"}, "pairs": {"min_margin": 0.01, "poor_chosen": None},
}  # fmt: skip


def models() -> Models:
    """Captioners that sample, a painter and a distance, none of which is ever loaded."""
    blip, sd3 = CATALOG["shapeworld-blip"], CATALOG["shapeworld-sd3"]
    forward = [
        Use(Resolved(blip.model_copy(update={"name": f"captioner-{at}", "temperature": 1.0}), {"name": at}), SAMPLES)
        for at in range(FORWARD)
    ]
    metric = Resolved(CATALOG["lpips-shapeworld"], {"name": "metric"})
    return Models(forward, Use(Resolved(sd3, {"name": "painter"}), 1), [metric])


# ---- a store as models would have left it ------------------------------------------------------------------------


def fill(root: str, candidates: int) -> None:
    """Write the parts of a finished build, some inputs at a time."""
    store, used = Store(root), models()
    inputs = candidates // (FORWARD * SAMPLES)
    for chunk, start in enumerate(range(0, inputs, INPUTS_PER_CHUNK)):
        random = np.random.default_rng(chunk)
        ids = _ids(random, min(INPUTS_PER_CHUNK, inputs - start))
        _write(store, "inputs", chunk, {"input_id": ids, "modality": "image", "image": b"\x89PNG"})
        _write(store, "sources", chunk, {"source_key": ids, "source": ids, "stamp": "x", "input_id": ids})
        wanted = wanted_generations(pa.table({"source_id": ids, "input_id": ids}, SOURCES), used.forward, 7, "forward")
        content = _ids(random, wanted.num_rows)
        texts = pa.compute.binary_join_element_wise("two red circles above a blue square, on a grey wall;", content, "")
        _write(store, "generations", f"a{chunk}", {**_made(wanted), "content_id": content, "text": texts})
        sources = pa.table({"source_id": content, "input_id": wanted["input_id"]}, schema=SOURCES)
        back = wanted_generations(sources, [used.backward], 7, "backward")
        content = _ids(random, back.num_rows)
        _write(store, "generations", f"b{chunk}", {**_made(back), "content_id": content})
        rows = pa.table({"input_id": back["input_id"], "content_id": content})
        wanted = compare.wanted_similarities(rows, rows, used.metrics)
        value = pa.array(random.random(wanted.num_rows))
        columns = {name: wanted[name] for name in ("similarity_id", "input_id", "content_id", "fingerprint")}
        _write(store, "similarities", chunk, {**columns, "metric": wanted["model"], "value": value})


def _ids(random: np.random.Generator, count: int) -> pa.Array:
    return hex_of(np.frombuffer(random.bytes(16 * count), dtype=np.uint8).reshape(count, 16))


def _made(wanted: pa.Table) -> dict[str, Any]:
    names = ("generation_id", "source_id", "model", "fingerprint", "seed")
    return {**{name: wanted[name] for name in names}, "draw": 0, "truncated": False}


def _write(store: Store, table: str, chunk: Any, columns: dict[str, Any]) -> None:
    schema = TABLES[table][0]
    count = len(next(iter(columns.values())))
    all_ = {"code_version": "bench", **columns}
    values = {
        field.name: value if isinstance(value := all_.get(field.name), pa.Array | pa.ChunkedArray)
        else pa.nulls(count, field.type) if value is None else pa.repeat(pa.scalar(value, field.type), count)
        for field in schema
    }  # fmt: skip
    store.create_part(table, f"{chunk}", pa.table(values, schema=schema))


# ---- what a build derives ----------------------------------------------------------------------------------------


class Watch:
    """Seconds and peaks of memory of each step."""

    def __init__(self) -> None:
        self.steps: dict[str, dict[str, float]] = {}
        self._anonymous, self._on = 0.0, True
        threading.Thread(target=self._look, daemon=True).start()

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        """Time a step; a name that comes again adds up."""
        begin, busy = time.perf_counter(), time.process_time()
        yield
        row = self.steps.setdefault(name, {"s": 0.0, "cpu_s": 0.0})
        row["s"] += time.perf_counter() - begin
        row["cpu_s"] += time.process_time() - busy
        row["anonymous_gb"], row["resident_gb"] = self._anonymous, peak()

    def _look(self) -> None:
        while self._on:
            lines = Path("/proc/self/status").read_text().splitlines()
            [anonymous] = [int(line.split()[1]) for line in lines if line.startswith("RssAnon")]
            self._anonymous = max(self._anonymous, anonymous * 1024 / 1e9)
            time.sleep(0.05)


def derive(root: str, candidates: int, with_dataset: bool) -> dict[str, Any]:
    """All of the driver's own work over a finished store."""
    store, used, recipe = Store(root), models(), Recipe.model_validate(RECIPE)
    accountant, watch = Accountant(store, 0.0), Watch()

    def account(stage: str, table: str, key: str, rows: pa.Table) -> None:
        with watch.step("left to do"):
            counts = accountant.run(Work(stage, table, key, rows), lambda todo: iter(()))
        if sum(count.reused for count in counts.values()) != candidates // 12 * 12:
            raise SystemExit(f"{stage}: {counts} is not what the store has: fast and wrong")

    with Scratch() as scratch:
        with watch.step("inputs"):
            inputs = store.rows("sources", ["input_id", "source"]).select(["input_id", "source"]).sort_by("input_id")
        derived = Derivation(store, scratch, recipe, used, inputs)
        with watch.step("wanted candidates"):
            wanted = derived.wanted_candidates()
        account("candidates", "generations", "generation_id", wanted)
        with watch.step("candidates"):
            derived.find_candidates()
        with watch.step("wanted reconstructions"):
            wanted = derived.wanted_reconstructions()
        account("reconstructions", "generations", "generation_id", wanted)
        with watch.step("reconstructions"):
            derived.find_reconstructions()
        with watch.step("wanted similarities"):
            wanted = derived.wanted_similarities()
        account("scores", "similarities", "similarity_id", wanted)
        del wanted
        with watch.step("scores and pairs"):
            count = derived.write_views(Direction("lpips-shapeworld", "f" * 32, False))
        views = Views(
            CYCLES["i2t2i"], inputs, derived.made, store.view_blocks("scores"), store.view_blocks("pairs"),
            "lpips-shapeworld", derived.reconstructions, derived.samples,
        )  # fmt: skip
        with watch.step("edition"):
            edition = views.edition()
        if count.possible != candidates // 12 * 66 or count.kept != views.pairs.num_rows:
            raise SystemExit(f"{count} is not what the store gives: fast and wrong")
        total = {name: sum(row[name] for row in watch.steps.values()) for name in ("s", "cpu_s")}
        total |= {"anonymous_gb": watch._anonymous, "resident_gb": peak()}
        if with_dataset:
            dataset(store, views, used, recipe, watch)
    return {"candidates": candidates, "pairs": count.kept, "edition": edition, "steps": watch.steps, "total": total}


def dataset(store: Store, views: Views, used: Models, recipe: Recipe, watch: Watch) -> None:
    """Write the dataset and take its statistics."""
    from cyclepref.builder.dataset.edition import _files
    from cyclepref.builder.dataset.reader import DatasetFolder
    from cyclepref.builder.dataset.statistics import statistics
    from cyclepref.builder.dataset.write import write_splits
    from cyclepref.builder.run.folder import Folder

    plan = WritePlan(recipe.splits, sorted(use.model.name for use in used.forward))
    with watch.step("dataset files"):
        counts, written = write_splits(store, views, plan, "0" * 12)
    with watch.step("dataset statistics"):
        statistics(DatasetFolder(Folder(store.address("dataset")), _files(counts, written)))


def peak() -> float:
    """Peak of this process's resident memory, in GB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


# ---- each in a process of its own --------------------------------------------------------------------------------


def _alone(connection: Any, step: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    connection.send(step(*arguments))


def alone(step: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a step in a process of its own."""
    context = multiprocessing.get_context("spawn")
    mine, its = context.Pipe()
    process = context.Process(target=_alone, args=(its, step, arguments))
    process.start()
    its.close()
    result = mine.recv()
    process.join()
    return result


def show(found: dict[str, Any]) -> None:
    """A table of one size."""
    print(f"\n{found['candidates']:,} candidates, {found['pairs']:,} pairs")
    print(f"  {'step':26}{'s':>8}{'cpu s':>8}{'anonymous GB':>14}{'resident GB':>13}")
    for name, row in [*found["steps"].items(), ("total, without dataset", found["total"])]:
        values = f"{row['s']:8.2f}{row['cpu_s']:8.2f}{row['anonymous_gb']:14.2f}{row['resident_gb']:13.2f}"
        print(f"  {name:26}{values}")
    if limit := LIMITS.get(found["candidates"]):
        total = found["total"]
        shares = (
            f"{total['s'] / limit[0]:.2f} of {limit[0]:g} s, {total['anonymous_gb'] / limit[1]:.2f} of {limit[1]:g} GB"
        )
        print(f"  of the limit: {shares}")


def main() -> None:
    """Measure each size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, nargs="+", default=list(LIMITS), help="sizes (default: %(default)s)")
    parser.add_argument("--dataset", action="store_true", help="write the dataset as well")
    parser.add_argument("--json", type=Path, help="a file for the figures")
    parser.add_argument("--folder", help="where the store is made, with room for 1 kB a candidate (default: TMPDIR)")
    arguments = parser.parse_args()
    found = []
    for candidates in arguments.candidates:
        root = tempfile.mkdtemp(dir=arguments.folder)
        try:
            alone(fill, root, candidates)
            found.append(alone(derive, root, candidates, arguments.dataset))
        finally:
            shutil.rmtree(root, ignore_errors=True)
        show(found[-1])
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
