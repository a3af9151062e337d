"""The whole work in one process and one plain loop, with three switches: what the reference does, and what it lacks.

    python tests/benchmarks/_loop.py RECIPE FOLDER [--batched] [--reuse] [--in-memory]

With all switches off it is the protocol of CycleReward's scripts: one row at a time; every picture a PNG file, opened
again by whoever needs it; every candidate reconstructed, though another may have said the same; the input embedded
again for every candidate; a JSON file at the end of each stage, and nothing to resume from. It is kinder to them in one
thing: they start a process for each model and stage, and here one does it all.

`--batched` runs the specs' batch sizes. `--reuse` makes equal work once: an input's equal candidates are reconstructed
once, and each distinct text is embedded once. `--in-memory` writes and reads no files. All three are the bare batched
loop: the most that one process can do with these models.
"""

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from _work import Counts, Work, batches, id_of, read_work, say, texts
from PIL import Image

from cyclepref.builder.metrics import load_metric
from cyclepref.builder.models import load_model
from cyclepref.builder.pairing.pair import UNIT, same_text
from cyclepref.schemas.ids import sample_seed


class Loop:
    """One pass over all stages; `loading` are the seconds of `clock` that models took to load (and their imports)."""

    def __init__(
        self,
        work: Work,
        folder: Path,
        batched: bool = False,
        reuse: bool = False,
        in_memory: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.clock = clock
        self.work, self.folder = work, folder
        self.batched, self.reuse, self.in_memory = batched, reuse, in_memory
        self.loading, self.embeddings = 0.0, 0

    def run(self) -> Counts:
        """All stages; what was done."""
        inputs = self.inputs()
        self.ids = [id_of(self.opened(one)) for one in inputs]
        candidates = self.candidates(inputs)
        made, reconstructed = self.reconstructions(candidates)
        scores, compared = self.scores(inputs, candidates, made)
        pairs = self.pairs(candidates, scores)
        return Counts(len(inputs), len(candidates), reconstructed, compared, self.embeddings, pairs)

    # ---- stages ------------------------------------------------------------------------------------------------

    def inputs(self) -> list[Any]:
        """Texts, or images, or their files."""
        path = Path(self.work.recipe.inputs.path)
        if not self.work.from_images:
            return texts(path)
        files = sorted(path.iterdir())
        return [self.opened(file) for file in files] if self.in_memory else files

    def candidates(self, inputs: list[Any]) -> list[tuple[int, Any]]:
        """(input, candidate) of every forward model and sample."""
        made = []
        for spec, samples in self.work.forward:
            rows = [(at, index) for at in range(len(inputs)) for index in range(samples)]
            seeds = [None if spec.greedy else self.seed(at, index, "forward") for at, index in rows]
            outputs = self.generated(spec, [inputs[at] for at, _ in rows], seeds)
            made += [(at, output) for (at, _), output in zip(rows, outputs, strict=True)]
        self.dump("candidates", made)
        return made

    def reconstructions(self, candidates: list[tuple[int, Any]]) -> tuple[list[list[Any]], int]:
        """The reconstructions of every candidate, and how many were made."""
        spec, samples = self.work.backward
        keys = [(at, self.same(row, candidate)) for row, (at, candidate) in enumerate(candidates)]
        if self.reuse and spec.greedy:
            keys = [(-1, same) for _, same in keys]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        rows = [(row, index) for row in sorted(first.values()) for index in range(samples)]
        seeds = [None if spec.greedy else self.seed(candidates[row][0], index, "backward") for row, index in rows]
        outputs = self.generated(spec, [candidates[row][1] for row, _ in rows], seeds)
        made: dict[int, list[Any]] = {}
        for (row, _), output in zip(rows, outputs, strict=True):
            made.setdefault(row, []).append(output)
        self.dump("reconstructions", [(row, output) for row, some in made.items() for output in some])
        return [made[first[key]] for key in keys], len(outputs)

    def scores(self, inputs: list[Any], candidates: list[tuple[int, Any]], made: list[list[Any]]) -> tuple[Any, int]:
        """Each candidate's mean over its reconstructions, and how many comparisons were made."""
        rows = [(at, one) for (at, _), some in zip(candidates, made, strict=True) for one in some]
        keys = [(at, self.same(row, one)) for row, (at, one) in enumerate(rows)]
        first = {key: row for row, key in reversed(list(enumerate(keys)))}
        distinct = sorted(first.values())
        values = self.compared([(inputs[rows[row][0]], rows[row][1]) for row in distinct])
        of_row = dict(zip(distinct, values, strict=True))
        found = iter([of_row[first[key]] for key in keys])
        scores = [float(np.mean([next(found) for _ in some])) for some in made]
        self.dump("scores", scores)
        return scores, len(distinct)

    def pairs(self, candidates: list[tuple[int, Any]], scores: list[float]) -> int:
        """How many pairs there are, by the recipe's rule: unequal outputs, far enough apart, the better one good."""
        rule, sign = self.work.recipe.pairs, 1 if self.work.metric.higher_is_better else -1
        by_input: dict[int, dict[Any, int]] = {}
        for (at, candidate), score in zip(candidates, scores, strict=True):
            same = same_text(candidate) if isinstance(candidate, str) else id_of(self.opened(candidate))
            by_input.setdefault(at, {}).setdefault(same, sign * round(score / UNIT))
        least, poor = round(rule.min_margin / UNIT), sign * round(rule.poor_chosen / UNIT)
        kept = []
        for at, known in by_input.items():
            values = list(known.values())
            some = [(max(a, b), min(a, b)) for i, a in enumerate(values) for b in values[i + 1 :]]
            kept += [(at, *both) for both in some if both[0] - both[1] >= max(1, least) and both[0] >= poor]
        self.dump("pairs", kept)
        return len(kept)

    # ---- one model's rows --------------------------------------------------------------------------------------

    def generated(self, spec: Any, sources: list[Any], seeds: list[int | None]) -> list[Any]:
        """What a model makes of its rows, in order: texts, or images or their files."""
        size = spec.batch_size if self.batched else 1
        model = self.loaded(load_model, spec.model_copy(update={"batch_size": size}))
        captions = spec.kind == "captioner"
        made: list[Any] = []
        for rows in batches(list(zip(sources, seeds, strict=True)), size):
            given, noise = [self.opened(source) for source, _ in rows], [seed for _, seed in rows]
            if captions:
                made += [caption.text for caption in model.caption(given, noise)]
            else:
                made += [self.kept(spec.name, len(made) + n, p.image) for n, p in enumerate(model.paint(given, noise))]
        return made

    def compared(self, rows: list[tuple[Any, Any]]) -> list[float]:
        """The metric's value of each (input, reconstruction)."""
        size = self.work.metric.batch_size if self.batched else 1
        metric = self.loaded(load_metric, self.work.metric.model_copy(update={"batch_size": size}))
        values: list[float] = []
        if self.work.from_images:  # LPIPS has no embedding to keep: it reads both pictures
            self.embeddings = 2 * len(rows)
            for some in batches(rows, size):
                x, y = ([self.opened(image) for image in side] for side in zip(*some, strict=True))
                values += metric.compare(x, y)
            return values
        if self.reuse:
            self.embeddings = len({text for row in rows for text in row})
            return metric.compare(*map(list, zip(*rows, strict=True)))
        self.embeddings = 2 * len(rows)
        for some in batches(rows, size):
            x, y = (
                metric.model.encode(list(side), batch_size=size, normalize_embeddings=True)
                for side in zip(*some, strict=True)
            )
            values += (x * y).sum(axis=1).tolist()
        return values

    def loaded(self, load: Any, spec: Any) -> Any:
        """A model, its seconds of loading noted."""
        begin = self.clock()
        model = load(spec)
        self.loading += self.clock() - begin
        return model

    # ---- content -----------------------------------------------------------------------------------------------

    def seed(self, at: int, index: int, role: str) -> int:
        return sample_seed(self.work.recipe.seed, self.ids[at], index, role)

    def same(self, row: int, content: Any) -> Any:
        """What rows that may share their work have in common; without reuse each stands alone."""
        if not self.reuse:
            return row
        return content if isinstance(content, str) else id_of(self.opened(content))

    def opened(self, content: Any) -> Any:
        """A text or an image, read from its file if it is in one."""
        return Image.open(content).convert("RGB") if isinstance(content, Path) else content

    def kept(self, name: str, number: int, image: Image.Image) -> Any:
        """An image, or the PNG file that it was written to."""
        if self.in_memory:
            return image
        file = self.folder / name / f"{number:06}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)
        return file

    def dump(self, name: str, rows: list[Any]) -> None:
        """A stage's rows as one JSON file at its end."""
        if not self.in_memory:
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{name}.json").write_text(json.dumps(rows, default=str))


def main() -> None:
    """Run and say what was done."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("folder", type=Path, help="where pictures and JSON go")
    for switch in ("batched", "reuse", "in-memory"):
        parser.add_argument(f"--{switch}", action="store_true")
    given = parser.parse_args()
    begin = time.perf_counter()
    loop = Loop(read_work(given.recipe), given.folder, given.batched, given.reuse, given.in_memory)
    counts = loop.run()
    say(counts, working=time.perf_counter() - begin - loop.loading)


if __name__ == "__main__":
    main()
