"""The work as a Ray Data chain, written as Ray's documentation writes one: read, `map_batches`, write.

    python tests/benchmarks/_chain.py RECIPE FOLDER

A class for each kind of model, a pool of one actor for each model, `read_images` or `read_parquet` in, `write_parquet`
out. Actors take parts of the cores that add up to all but one, since tasks that read and write need one: a chain on a
small machine has no room for one core a model. As such a chain goes, it makes every candidate's reconstructions, equal
ones too; nothing resumes, a row that fails ends the run, and pairs are left to whoever reads its rows.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import ray
from _work import Counts, Work, id_of, read_work, say
from PIL import Image

from cyclepref.schemas.ids import sample_seed

Batch = dict[str, np.ndarray]


class Candidates:
    """A forward model: adds a column for each of its samples."""

    def __init__(self, spec: Any, samples: int, recipe_seed: int, name: str):
        from cyclepref.builder.models import load_model

        self.spec, self.samples, self.recipe_seed, self.name = spec, samples, recipe_seed, name
        self.model = load_model(spec)

    def __call__(self, batch: Batch) -> Batch:
        """A batch of inputs with this model's candidates."""
        sources = opened(batch["input"])
        for index in range(self.samples):
            seeds = [sample_seed(self.recipe_seed, id_of(source), index, "forward") for source in sources]
            batch[f"{self.name}.{index}"] = generated(self.model, self.spec, sources, seeds)
        return batch


class Reconstructions:
    """The backward model: adds `reconstruction`."""

    def __init__(self, spec: Any, recipe_seed: int):
        from cyclepref.builder.models import load_model

        self.spec, self.recipe_seed, self.model = spec, recipe_seed, load_model(spec)

    def __call__(self, batch: Batch) -> Batch:
        """A batch of candidates with their reconstructions."""
        places = zip(batch["input_id"], batch["sample"], strict=True)
        seeds = [sample_seed(self.recipe_seed, str(id_), int(index), "backward") for id_, index in places]
        batch["reconstruction"] = generated(self.model, self.spec, opened(batch["candidate"]), seeds)
        return batch


class Scores:
    """The metric: adds `score`."""

    def __init__(self, spec: Any):
        from cyclepref.builder.metrics import load_metric

        self.metric = load_metric(spec)

    def __call__(self, batch: Batch) -> Batch:
        """A batch of reconstructions with their scores."""
        batch["score"] = np.array(self.metric.compare(opened(batch["input"]), opened(batch["reconstruction"])))
        return batch


def generated(model: Any, spec: Any, sources: list[Any], seeds: list[int]) -> np.ndarray:
    """A model's outputs as a column: strings, or pixels of shape (rows, height, width, 3)."""
    if spec.kind == "captioner":
        captions = model.caption(sources, [None] * len(seeds) if spec.greedy else seeds)
        return np.array([caption.text for caption in captions], dtype=object)
    return np.stack([np.asarray(painting.image) for painting in model.paint(sources, seeds)])


def opened(column: np.ndarray) -> list[Any]:
    """A column as texts or images."""
    return [Image.fromarray(row) if isinstance(row, np.ndarray) else str(row) for row in column]


def one_a_candidate(row: dict[str, Any], columns: list[str], samples: int) -> list[dict[str, Any]]:
    """An input's row as a row for each candidate and backward sample."""
    [source] = opened([row["input"]])
    kept = {"input": row["input"], "input_id": id_of(source)}
    return [
        {**kept, "model": name, "candidate": row[name], "sample": index} for name in columns for index in range(samples)
    ]


def run(work: Work, out: Path) -> Counts:
    """The whole chain, on the Ray that this process is connected to."""
    recipe, (back, samples) = work.recipe, work.backward
    cores = int(ray.cluster_resources()["CPU"])
    share = max(0.01, int(100 * max(1, cores - 1) / (len(work.forward) + 2)) / 100)
    alone = {"compute": ray.data.ActorPoolStrategy(size=1), "num_cpus": share}
    if work.from_images:
        rows = ray.data.read_images(recipe.inputs.path, mode="RGB").rename_columns({"image": "input"})
    else:
        rows = ray.data.read_parquet(recipe.inputs.path).rename_columns({"prompt": "input"})
    for number, (spec, drawn) in enumerate(work.forward):
        made_of = (spec, drawn, recipe.seed, f"candidate {number}")
        rows = rows.map_batches(Candidates, fn_constructor_args=made_of, batch_size=spec.batch_size, **alone)
    columns = [f"candidate {n}.{index}" for n, (_, drawn) in enumerate(work.forward) for index in range(drawn)]
    rows = rows.flat_map(one_a_candidate, fn_kwargs={"columns": columns, "samples": samples})
    rows = rows.map_batches(
        Reconstructions, fn_constructor_args=(back, recipe.seed), batch_size=back.batch_size, **alone
    )
    rows = rows.map_batches(Scores, fn_constructor_args=(work.metric,), batch_size=work.metric.batch_size, **alone)
    rows.write_parquet(str(out))
    made = sum(pq.ParquetFile(file).metadata.num_rows for file in out.rglob("*.parquet"))
    inputs = made // (work.candidates * samples)
    return Counts(inputs, made // samples, made, made, None, None)


def main() -> None:
    """Run and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path, help="where the rows go")
    given = parser.parse_args()
    begin = time.perf_counter()
    ray.init(address="local", include_dashboard=False, log_to_driver=False)
    ray.data.DataContext.get_current().enable_progress_bars = False
    counts = run(read_work(given.recipe), given.folder)
    ray.shutdown()
    say(counts, working=time.perf_counter() - begin)


if __name__ == "__main__":
    main()
