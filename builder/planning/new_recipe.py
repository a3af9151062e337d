"""A first recipe for somebody's inputs and machine: models that fit its GPUs and are here or to be had, with the reason
for those that are not; every section explained in the file."""

import re
import shlex
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from cyclepref.builder.catalog.catalog import CATALOG
from cyclepref.builder.catalog.resolve import resolve
from cyclepref.builder.planning.check import check_recipe
from cyclepref.builder.planning.fit import fit
from cyclepref.builder.planning.hardware import Hardware
from cyclepref.builder.planning.inputs_found import FoundInputs, look_at
from cyclepref.builder.stages.needs import needs
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.specs import ModelSpec

# The best first. Those of unlike strength make pairs of both kinds: clear ones, and ones about details.
CAPTIONERS = (
    "qwen3-vl-8b", "qwen2.5-vl-7b", "internvl3-8b", "llava-onevision-7b", "qwen3-vl-2b", "internvl3-2b",
    "llava-1.5-7b", "blip-large", "blip-base",
)  # fmt: skip
PAINTERS = ("flux-schnell", "sd3.5-medium", "pixart-sigma", "sdxl", "sd-2.1", "sd-1.5")
BACK_TO_IMAGE = ("sd3.5-large", "sd3.5-medium", "sd3-medium", "sdxl", "sd-2.1", "sd-1.5")
BACK_TO_TEXT = ("qwen3-vl-8b", "qwen2.5-vl-7b", "llava-1.5-13b", "qwen3-vl-2b", "blip-large", "blip-base")
METRICS: dict[Modality, tuple[str, ...]] = {
    "image": ("dreamsim-clip", "dinov2-base", "lpips-alex"),
    "text": ("sbert", "sbert-mpnet"),
}
# Without a GPU a model of a billion parameters takes minutes a row.
LARGEST_ON_CPU = 600_000_000
MOST_FORWARD = 5
EMBEDDED: dict[Modality, tuple[tuple[str, ...], str, str]] = {
    "image": (
        ("shapeworld-blip", "shapeworld-llava", "shapeworld-blip-early", "shapeworld-llava-early"),
        "shapeworld-sd3", "lpips-shapeworld",
    ),
    "text": (
        ("shapeworld-sd3", "shapeworld-sd", "shapeworld-sd3-early", "shapeworld-sd-early"), "shapeworld-llava", "sbert",
    ),
}  # fmt: skip
# The rule of pairs by metric: the least margin, and the score below which the chosen one is itself poor, or None.
PAIRS = {"sbert": (0.005, 0.4), "dreamsim-clip": (0.005, 0.7), "lpips-shapeworld": (0.1, None)}


@dataclass
class Chosen:
    """Models of a new recipe by name, and those that were left out, with the reasons. `embedded` if only the models of
    the embedded world are here."""

    forward: list[str]
    backward: str
    metric: str
    embedded: bool = False
    left_out: dict[str, str] = field(default_factory=dict)


def choose(modality: Modality, on: Hardware) -> Chosen:
    """Models for inputs of a modality that fit this hardware and can be loaded here."""
    left_out: dict[str, str] = {}
    captions = modality == "image"
    forward = _usable(CAPTIONERS if captions else PAINTERS, on, left_out, MOST_FORWARD)
    backward = _usable(BACK_TO_IMAGE if captions else BACK_TO_TEXT, on, left_out, 1)
    metric = _usable(METRICS[modality], on, left_out, 1)
    if len(forward) >= 2 and backward and metric:
        return Chosen(forward, backward[0], metric[0], left_out=left_out)
    names, back, measure = EMBEDDED[modality]
    return Chosen(list(names), back, measure, embedded=True, left_out=left_out)


def _usable(names: tuple[str, ...], on: Hardware, left_out: dict[str, str], most: int) -> list[str]:
    """The first `most` names that can be used; the others that were asked go to `left_out`, with the reason."""
    found: list[str] = []
    for name in names:
        if len(found) == most:
            break
        if name in left_out:
            continue
        if why := _why_not(name, on):
            left_out[name] = why
        else:
            found.append(name)
    return found


def _why_not(name: str, on: Hardware) -> str | None:
    spec = CATALOG[name]
    if isinstance(spec, ModelSpec) and on.gpu is None and (spec.parameters or 0) > LARGEST_ON_CPU:
        return "too large for a machine without a GPU"
    if on.gpu and (wrong := fit(spec, on.gpu).wrong):
        return wrong.partition(": ")[0]
    try:
        problems = needs([resolve(spec, {})])
    except RecipeError as error:
        problems = [str(error)]
    if not problems:
        return None
    what, mark, _ = problems[0].removeprefix(f"{name}: ").splitlines()[0].partition("): ")
    return what + mark.removesuffix(": ")


# ---- the file ----------------------------------------------------------------------------------------------------


def recipe_text(name: str, file: Path, found: FoundInputs, chosen: Chosen, on: Hardware, limit: int | None) -> str:
    """The YAML of a new recipe, with a comment for every section."""
    return "\n".join([*_head(name, file, found, chosen, on), *_body(name, found, chosen, limit)]) + "\n"


def _head(name: str, file: Path, found: FoundInputs, chosen: Chosen, on: Hardware) -> Iterator[str]:
    cycle = "captions of pictures, compared by the pictures that are painted from them"
    if found.modality == "text":
        cycle = "pictures of prompts, compared by the captions that are written of them"
    yield f"# {name}: {cycle}. Made by `cyclepref init`."
    yield "#"
    for command, why in (
        ("check", "what is wrong with it here, all at once"),
        ("plan", "what it will take, before anything is spent"),
        ("build", "the same command resumes it"),
    ):
        words = f"cyclepref {command} {_printable(shlex.quote(str(file)))}"
        yield f"#   {words + (f' --out runs/{name}' if command == 'build' else ''):<56} # {why}"
    yield "#"
    where = f"{on.cluster.gpus:g} {on.gpu.name}" if on.gpu else f"{on.cpus} CPU cores and no GPU"
    yield from _comment(f"Inputs: {found.about}. Machine: {where}.")
    if chosen.embedded:
        yield from _comment(
            "NO GOOD PAIRS COME OF THIS AS IT IS: the models below know the embedded world of simple shapes only. They "
            "show that everything runs; put others in their place once these can be had (see below for the reasons)."
        )
    if chosen.left_out:
        yield from _comment("Left out, and why:")
        for each, why in chosen.left_out.items():
            yield from _comment(f"  {each}: {why}", indent="      ")


def _body(name: str, found: FoundInputs, chosen: Chosen, limit: int | None) -> Iterator[str]:
    yield ""
    yield f"name: {_scalar(name)}"
    yield f"cycle: {'i2t2i' if found.modality == 'image' else 't2i2t'}"
    yield "# Another seed draws other samples."
    yield "seed: 0"
    if limit:
        yield f"# The first {limit} for a first look: a longer build reuses them. Remove `limit` to take all."
    yield f"inputs: {_flow({**found.section, **({'limit': limit} if limit else {})})}"
    yield "# Each makes candidates of every input. Models of unlike strength make clear pairs and fine ones;"
    yield "# `samples: 2` (captioners: with a temperature) lets one compete with itself."
    yield "forward:"
    for each in chosen.forward:
        yield f"  - {each}"
    yield "# Turns every candidate back. It is what costs most; `cyclepref models NAME` shows all settings of a model."
    yield f"backward: {chosen.backward}"
    yield "# Compares the input with what came back."
    yield f"metric: {chosen.metric}"
    margin, poor = PAIRS.get(chosen.metric, (0.005, None))
    yield "# The least difference of scores that makes a pair; the score from which on the chosen one is itself poor."
    yield f"pairs: {_flow({'min_margin': margin, 'poor_chosen': poor})}"
    yield "# Shares of the inputs. All candidates of an input are in one split."
    yield "splits: {train: 0.90, validation: 0.05, test: 0.05}"


def _comment(text: str, indent: str = "  ") -> Iterator[str]:
    """Lines of a comment, folded; what a path or a model says cannot end it."""
    line = "#"
    for word in _printable(text).split(" "):
        if len(line) + len(word) > 117 and line.strip("# "):
            yield line
            line = f"#{indent}"
        line += f" {word}"
    yield line


def _printable(text: str) -> str:
    return "".join(char if char.isprintable() else " " for char in text)


def _scalar(value: Any) -> str:
    return (
        yaml.safe_dump(value, default_flow_style=True, width=10_000, allow_unicode=True).removesuffix("...\n").strip()
    )


def _flow(section: dict[str, Any]) -> str:
    return "{" + ", ".join(f"{key}: {_in_flow(value)}" for key, value in section.items()) + "}"


def _in_flow(value: Any) -> str:
    """A value within braces, where a comma or a bracket would end a plain one."""
    told = _scalar([value])
    return told[1:-1] if told.startswith("[") else told


def new_recipe(
    inputs: Path, file: Path, on: Hardware, column: str | None = None, name: str | None = None, limit: int | None = None
) -> tuple[FoundInputs, Chosen]:
    """Look at inputs and write a recipe for them without faults on this hardware; returns what was found and chosen.

    Raises:
        RecipeError: if there are no such inputs, there is such a file already, or a recipe of these inputs has faults.
    """
    if file.exists():
        raise RecipeError(f"{file} is there already: give another name by --recipe, or remove it")
    found = look_at(inputs, column)
    chosen = choose(found.modality, on)
    text = recipe_text(name or name_for(inputs), file, found, chosen, on, limit)
    with tempfile.TemporaryDirectory() as folder:
        tried = Path(folder, "recipe.yaml")
        tried.write_text(text, encoding="utf-8")
        if faults := check_recipe(tried, None, on).faults:
            raise RecipeError("\n".join(["no recipe was written, since it would have faults:", *faults]))
    try:
        with file.open("x", encoding="utf-8") as sink:
            sink.write(text)
    except OSError as error:
        raise RecipeError(f"cannot write {file} ({error}): give another place by --recipe") from error
    return found, chosen


def name_for(inputs: Path) -> str:
    """A run's name after the file or folder of its inputs."""
    words = re.sub(r"[^A-Za-z0-9_.-]+", "-", inputs.resolve().stem).strip("-._")
    return words or "mine"
