"""Sources x models -> generations. Used twice: inputs -> candidates, and candidates -> reconstructions."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa
from PIL import Image

from cyclepref.builder import __version__
from cyclepref.builder.common.images import content_id, encode
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.engine.memory import Fitting
from cyclepref.builder.models import load_model
from cyclepref.builder.models.protocols import Caption, NoOutput, Painting
from cyclepref.builder.run.content import contents
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.accounting import Accountant, Count
from cyclepref.builder.stages.model_stage import Content, ModelStage
from cyclepref.builder.stages.steps import ahead, attempt, blocks_of, failure, reason, receipt
from cyclepref.builder.stages.wanted import Use
from cyclepref.schemas import records
from cyclepref.schemas.cycle import MAX_CHARACTERS
from cyclepref.schemas.ids import resample_seed, text_id
from cyclepref.schemas.specs import GeneratorSpec

# A part is one block, so this many batches is the most that a killed worker costs: seconds to a minute.
BATCHES_PER_PART = 4


class EmptyCaption(NoOutput):
    """A captioner said nothing: no candidate, and no reconstruction of one."""


class NotUnicode(NoOutput):
    """A caption has half of a character's two code units, which no file can hold and no tokenizer reads."""


class LongCaption(NoOutput):
    """A caption is longer than any text encoder reads: a server may know no limit."""


class BlackImage(NoOutput):
    """A pipeline returned black and its safety checker, if it has one, did not: it computed NaN."""


class SafetyRefusal(NoOutput):
    """A pipeline's safety checker blacked the image."""


def generate(
    stage: str, wanted: pa.Table, content: tuple[str, str], uses: list[Use], accountant: Accountant, engine: Engine
) -> dict[str, Count]:
    """Make the wanted generations that the store does not have; counts by model.

    `content` names the table and its column where the sources' content is: ("inputs", "input_id") for candidates,
    ("generations", "content_id") for reconstructions.
    """
    table, key = content
    making = ModelStage(
        name=stage,
        table="generations",
        key="generation_id",
        worker=Generator,
        roles={"source": Content("source_id", {table: key})},
        order=("source_part", "source_row", "seed"),
        write=partial(write_generations, stage=stage),
        rows_per_part=lambda spec: spec.batch_size * BATCHES_PER_PART,
    )
    return making.run(wanted, {use.model.name: use.model.spec for use in uses}, accountant, engine)


class Generator:
    """The worker of an actor: loads its models once, and turns blocks of sources into blocks of outputs."""

    def __init__(self, specs: list[GeneratorSpec]):
        self.specs = {spec.name: spec for spec in specs}
        self.run = {spec.name: _fitting(spec) for spec in specs}

    def __call__(self, block: pa.Table) -> pa.Table:
        """Adds the columns of OUTPUT to a block whose rows are all of one model."""
        name = block["model"][0].as_py()
        spec, run = self.specs[name], self.run[name]
        batches = blocks_of(block, spec.batch_size)
        outputs: list[Drawn] = []
        # The next batch is decoded beside this one's run, so that a GPU does not wait for a JPEG.
        for batch, sources in zip(batches, ahead(partial(contents, role="source"), batches), strict=True):
            outputs += drawn(run, sources, batch["seed"].to_pylist(), spec.resample)
        return _with_outputs(block, outputs, run.halvings())

    @staticmethod
    def give_up(block: pa.Table, error: Exception) -> pa.Table:
        """The block as if every row had failed with `error`."""
        return _with_outputs(block, [Drawn(error, seed, 0) for seed in block["seed"].to_pylist()], 0)


class Drawn(NamedTuple):
    """What a model made of one row, or why nothing, with the seed it was made with: that of its `draw`."""

    result: Caption | Painting | Exception
    seed: int | None
    draw: int


def drawn(run: Callable[..., list[Any]], sources: list[Any], seeds: list[int | None], resample: int) -> list[Drawn]:
    """A batch's results. A sampled row without an output is drawn again, at most `resample` times, each time with
    another seed. (A retry is something else: the same seed once more, after an error that may pass.)"""
    found = [Drawn(_checked(result), seed, 0) for result, seed in zip(attempt(run, sources, seeds), seeds, strict=True)]
    for draw in range(1, resample + 1):
        again = [at for at, row in enumerate(found) if isinstance(row.result, NoOutput)]
        fresh = [resample_seed(seeds[at], draw) for at in again]
        results = attempt(run, [sources[at] for at in again], fresh) if again else []
        for at, result, seed in zip(again, results, fresh, strict=True):
            found[at] = Drawn(_checked(result), seed, draw)
    return found


def _fitting(spec: GeneratorSpec) -> Fitting:
    model = load_model(spec)
    return Fitting(model, model.caption if spec.kind == "captioner" else model.paint)


def _with_outputs(block: pa.Table, outputs: list[Drawn], halved: int) -> pa.Table:
    rows = [{"halved": 0, "seed": row.seed, "draw": row.draw, **_output(row)} for row in outputs]
    rows[0]["halved"] = halved
    made = pa.Table.from_pylist(rows, schema=OUTPUT)
    kept = [name for name in block.column_names if name == "source_id" or not name.startswith(("source_", "seed"))]
    block = block.select(kept)
    return pa.Table.from_arrays([*block.columns, *made.columns], names=[*kept, *made.column_names])


# What leaves a worker: text or raw RGB pixels, or why there is neither. Encoding is the next step's work, so that
# a GPU does not wait for a PNG.
OUTPUT = pa.schema(
    [
        ("seed", pa.int64()),
        ("draw", pa.int64()),
        ("text", pa.string()),
        ("raw_text", pa.string()),
        ("rgb", pa.binary()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("truncated", pa.bool_()),
        ("cut_by", pa.list_(pa.string())),
        ("error_class", pa.string()),
        ("message", pa.string()),
        ("halved", pa.int64()),
    ]
)


def _checked(result: Any) -> Any:
    """A result, or why it is none: an empty caption or a black image is a failure, never data."""
    if isinstance(result, Caption) and (size := max(len(result.text), len(result.raw))) > MAX_CHARACTERS:
        return LongCaption(f"the caption has {size:,} characters, more than {MAX_CHARACTERS:,}: lower max_new_tokens")
    if isinstance(result, Caption) and not _is_unicode(result.text + result.raw):
        return NotUnicode(f"the caption is not Unicode text: it has a lone surrogate (raw: {result.raw!a})")
    if isinstance(result, Caption) and not result.text:
        return EmptyCaption(f"the caption is empty (raw: {result.raw!r})")
    if isinstance(result, Painting) and result.refused:
        return SafetyRefusal("the pipeline's safety checker refused this image (nsfw_content_detected)")
    if isinstance(result, Painting) and result.image.getbbox() is None:
        checker = "its safety checker did not flag it" if result.refused is False else "it has no safety checker"
        return BlackImage(f"every pixel is black, and {checker}: NaN was decoded; try another dtype")
    return result


def _is_unicode(text: str) -> bool:
    """Whether every character has an encoding: a lone surrogate, as JSON can escape one, has none."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _output(row: Drawn) -> dict[str, Any]:
    """One row of OUTPUT."""
    result = row.result
    if isinstance(result, Exception):
        draws = f" (and so at {row.draw} more draws)" if row.draw else ""
        return {"error_class": type(result).__name__, "message": f"{reason(result)}{draws}"}
    if isinstance(result, Caption):
        cut_by = ["max_new_tokens"] if result.truncated else []
        return {"text": result.text, "raw_text": result.raw, "truncated": result.truncated, "cut_by": cut_by}
    size = {"width": result.image.width, "height": result.image.height}
    return {"rgb": result.image.tobytes(), **size, "truncated": result.truncated, "cut_by": list(result.cut_by)}


def write_generations(block: pa.Table, store: Store, stage: str) -> pa.Table:
    """Encode a block's outputs and write them, failures first, as one part each; returns a receipt."""
    made, failed = [], []
    for row in block.to_pylist():
        if row["error_class"]:
            failed.append(failure(row, "generation_id", stage, "source_id"))
        else:
            made.append(_generation(row))
    store.write_part("failures", pa.Table.from_pylist(failed, schema=records.FAILURE))
    store.write_part("generations", pa.Table.from_pylist(made, schema=records.GENERATION))
    return receipt(block, len(failed))


def _generation(row: dict[str, Any]) -> dict[str, Any]:
    """A Generation record from one row of a worker's output."""
    kept = {name: row.get(name) for name in records.GENERATION.names}
    if row["rgb"] is None:
        return {**kept, "content_id": text_id(row["text"]), "code_version": __version__}
    image = Image.frombytes("RGB", (row["width"], row["height"]), row["rgb"])
    return {**kept, "content_id": content_id(image), "image": encode(image), "code_version": __version__}
