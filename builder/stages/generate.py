"""Sources x models -> generations. Used twice: inputs -> candidates, and candidates -> reconstructions."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import pyarrow as pa

from cyclepref.builder import __version__
from cyclepref.builder.common.images import content_id, encode
from cyclepref.builder.engine.engine import Engine
from cyclepref.builder.engine.memory import Fitting
from cyclepref.builder.engine.task import Ahead
from cyclepref.builder.models import load_model
from cyclepref.builder.models.protocols import Caption, NoOutput, Painting
from cyclepref.builder.run.content import Contents
from cyclepref.builder.run.ids import IdSet
from cyclepref.builder.run.store import Store
from cyclepref.builder.stages.accounting import Accountant, Count
from cyclepref.builder.stages.model_stage import Content, ModelStage
from cyclepref.builder.stages.steps import attempt, failed_with, failure, receipt
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
    stage: str,
    wanted: pa.Table,
    content: tuple[str, str],
    uses: list[Use],
    accountant: Accountant,
    engine: Engine,
    ahead: Ahead | None = None,
    before: IdSet | None = None,
) -> dict[str, Count]:
    """Make the wanted generations that the store does not have; counts by model.

    `content` names the table and its column where the sources' content is: ("inputs", "input_id") for candidates,
    ("generations", "content_id") for reconstructions. `ahead` and `before` as of `ModelStage.run`.
    """
    specs = {use.model.name: use.model.spec for use in uses}
    return generation_stage(stage, content).run(wanted, specs, accountant, engine, ahead, before)


def generation_stage(stage: str, content: tuple[str, str]) -> ModelStage:
    """The stage that makes candidates, or reconstructions (see `generate`)."""
    table, key = content
    return ModelStage(
        name=stage,
        table="generations",
        key="generation_id",
        worker=Generator,
        roles={"source": Content("source_id", {table: key})},
        order=("source_part", "source_row", "seed"),
        write=partial(write_generations, stage=stage),
        rows_per_part=lambda spec: spec.batch_size * BATCHES_PER_PART,
    )


class Generator:
    """Loads a captioner or a text-to-image pipeline; makes an output of every row's source, or says why it cannot."""

    def __init__(self, spec: GeneratorSpec):
        self.spec, model = spec, load_model(spec)
        self.run = Fitting(model, model.caption if spec.kind == "captioner" else model.paint)

    def __call__(self, rows: pa.Table, contents: Contents) -> list["Drawn"]:
        """What was drawn for each row."""
        seeds, outputs = rows["seed"].to_pylist(), []
        for [sources] in contents.batches():
            mine = seeds[len(outputs) : len(outputs) + len(sources)]
            outputs += drawn(self.run, sources, mine, self.spec.resample)
        return outputs

    def halvings(self) -> int:
        """As of `cyclepref.builder.engine.task.Worker`."""
        return self.run.halvings()


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


def write_generations(
    rows: pa.Table, outputs: list[Drawn | Exception], halved: int, store: Store, stage: str
) -> pa.Table:
    """Encode a block's outputs and write them, failures first, as one part each; returns a receipt."""
    made, failed = [], []
    for row, output in zip(rows.to_pylist(), outputs, strict=True):
        found = Drawn(output, row["seed"], 0) if isinstance(output, Exception) else output
        if isinstance(found.result, Exception):
            failed.append(_failed(row, found, stage))
        else:
            made.append(_generation(row, found))
    store.write_part("failures", pa.Table.from_pylist(failed, schema=records.FAILURE))
    store.write_part("generations", pa.Table.from_pylist(made, schema=records.GENERATION))
    return receipt(rows, len(failed), halved)


def _failed(row: dict[str, Any], found: Drawn, stage: str) -> dict[str, Any]:
    """A Failure record: why a row has no output."""
    row = failed_with(found.result, row)
    draws = f" (and so at {found.draw} more draws)" if found.draw else ""
    return failure({**row, "message": f"{row['message']}{draws}"}, "generation_id", stage, "source_id")


def _generation(row: dict[str, Any], found: Drawn) -> dict[str, Any]:
    """A Generation record."""
    drawn_ = {**dict.fromkeys(records.GENERATION.names), **row, "seed": found.seed, "draw": found.draw}
    kept = {name: drawn_[name] for name in records.GENERATION.names}
    kept |= {"code_version": __version__, "truncated": found.result.truncated}
    if isinstance(found.result, Caption):
        cut_by = ["max_new_tokens"] if found.result.truncated else []
        text, raw = found.result.text, found.result.raw
        return {**kept, "text": text, "raw_text": raw, "content_id": text_id(text), "cut_by": cut_by}
    image = found.result.image
    size = {"width": image.width, "height": image.height, "cut_by": list(found.result.cut_by)}
    return {**kept, "content_id": content_id(image), "image": encode(image), **size}
