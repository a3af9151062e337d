"""The work that whole builds are compared by: the two shipped recipes of the embedded world, on inputs in files.

Every way reads the same files, uses the same models with the same settings and dtype, and derives the same seeds from
the same content, so that its rows are a build's rows, and its counts can be held against a build's exactly.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from _common import Row, Target, arguments, command, finish, machine, median, say_machine

from cyclepref.builder.catalog.resolve import metric_spec, model_spec
from cyclepref.builder.recipe_check import read_recipe
from cyclepref.builder.run.store import Store
from cyclepref.builder.sources.open import open_source
from cyclepref.jobs.recipe_names import shipped_recipes
from cyclepref.schemas.ids import text_id
from cyclepref.schemas.recipe import Recipe, parse_recipe
from cyclepref.schemas.run_files import RunJson
from cyclepref.schemas.specs import GeneratorSpec, MetricSpec

CYCLES = ("i2t2i", "t2i2t")


@dataclass(frozen=True)
class Counts:
    """What was done. `embeddings`: texts or images that the metric's network was given (LPIPS reads both pictures of a
    comparison each time); None where nobody outside can see it."""

    inputs: int
    candidates: int
    reconstructions: int
    comparisons: int
    embeddings: int | None
    pairs: int | None

    def to_dict(self) -> dict[str, int | None]:
        """For a line of JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Work:
    """A recipe with its models' specs; `forward` and `backward` each with its number of samples."""

    recipe: Recipe
    forward: list[tuple[GeneratorSpec, int]]
    backward: tuple[GeneratorSpec, int]
    metric: MetricSpec

    @property
    def from_images(self) -> bool:
        """Whether the inputs are images, and so the candidates texts."""
        return self.recipe.cycle == "i2t2i"

    @property
    def candidates(self) -> int:
        """Candidates of each input."""
        return sum(samples for _, samples in self.forward)


def prepare(place: Path, cycle: str, candidates: int, models: int | None = None) -> tuple[Path, Work]:
    """Write the inputs of about so many candidates into `place`, and a recipe of them; the recipe's path, and the work.

    Images are PNG files of a folder, prompts a column of a parquet file. `models` takes the recipe's first ones alone.
    """
    content = yaml.safe_load(shipped_recipes("build")[f"shapeworld_{cycle}"].read_text())
    content["forward"] = content["forward"][:models]
    each = sum(choice.get("samples", 1) for choice in content["forward"])
    content["inputs"]["limit"] = max(1, round(candidates / each))
    place.mkdir(parents=True)
    source = open_source(parse_recipe(content).inputs, "image" if cycle == "i2t2i" else "text")
    made = list(source.read([name for name, _ in source.items()]))
    if cycle == "i2t2i":
        (place / "images").mkdir()
        for at, image in enumerate(made):
            (place / "images" / f"{at:06}.png").write_bytes(image)
        content["inputs"] = {"source": "images", "path": str(place / "images")}
    else:
        pq.write_table(pa.table({"prompt": made}), place / "prompts.parquet")
        content["inputs"] = {"source": "parquet", "path": str(place / "prompts.parquet"), "column": "prompt"}
    path = place / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path, read_work(path)


def read_work(path: Path) -> Work:
    """The work of a recipe."""
    recipe = read_recipe(path)
    shape = recipe.shape
    forward = [(model_spec(choice, shape.forward_kind), choice.samples) for choice in recipe.forward]
    backward = model_spec(recipe.backward, shape.backward_kind), recipe.backward.samples
    [metric] = recipe.all_metrics
    return Work(recipe, forward, backward, metric_spec(metric, shape.input))


def build(path: Path, out: Path) -> Row:
    """A whole build as a user runs it, by the command line in a process of its own: its seconds, its `counts`, and its
    stages' own seconds."""
    done = command([sys.executable, "-m", "cyclepref.jobs", "build", str(path), "--out", str(out)])
    run = Store(out).read_json("run.json", RunJson)
    return {**done, "counts": counts_of(run["counts"]).to_dict(), "stages": run["seconds"]}


def counts_of(counts: dict[str, Any]) -> Counts:
    """A build's counts as others have them."""
    made = [
        sum(count["ok"] for count in counts[stage].values()) for stage in ("candidates", "reconstructions", "scores")
    ]
    return Counts(counts["inputs"]["unique"], *made, None, counts["pairs"]["kept"])


def start_up(few: list[Row], all_: list[Row]) -> float:
    """The seconds of a way that do not grow with its rows: the line through the medians at two sizes, at no rows."""
    sizes = [results[0]["counts"]["candidates"] for results in (few, all_)]
    steady = (median(all_) - median(few)) / (sizes[1] - sizes[0])
    return median(all_) - steady * sizes[1]


def texts(path: Path) -> list[str]:
    """The prompts of a file that `prepare` wrote."""
    return pq.read_table(path)["prompt"].to_pylist()


def id_of(content: Any) -> str:
    """The id of a text or an image: what its seeds are derived from."""
    # Here, since texts need no Pillow.
    from cyclepref.builder.common.images import content_id

    return text_id(content) if isinstance(content, str) else content_id(content)


def batches(rows: list[Any], size: int) -> Iterator[list[Any]]:
    """Consecutive batches of at most `size`."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def say(counts: Counts, **figures: Any) -> None:
    """Print what a way did as its last line."""
    print(json.dumps({"counts": counts.to_dict(), **figures}))


def by_cycle(
    about: str | None,
    name: str,
    measure: Callable[[Path, str, argparse.Namespace], Row],
    show: Callable[[str, Row, argparse.Namespace], dict[str, Target]],
    **more: dict[str, Any],
) -> int:
    """A benchmark of builds, as its main function: `measure` finds the figures of a cycle, `show` prints them and says
    what they should be. `more` are options of its own, as of `arguments`. 1 if a figure misses its target."""
    parser = arguments(
        about, 3,
        candidates={"type": int, "default": 2000, "help": "about so many (default: %(default)s)"},
        cycles={"nargs": "+", "choices": CYCLES, "default": CYCLES},
        **more,
    )  # fmt: skip
    given = parser.parse_args()
    on, figures, targets = machine(), {}, {}
    say_machine(on)
    for cycle in given.cycles:
        with tempfile.TemporaryDirectory() as place:
            figures[cycle] = measure(Path(place), cycle, given)
        targets |= show(cycle, figures[cycle], given)
    return finish({"benchmark": name, "machine": on, "cycles": figures}, given.json, targets)
