"""Recipe: the YAML file that says what to build, validated when it is loaded."""

import difflib
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from schemas.cycle import CYCLES, Cycle
from schemas.errors import CyclePrefError


class RecipeError(CyclePrefError, ValueError):
    """A recipe that cannot be run: the message names the place, the value, the rule and the way out."""


class Part(BaseModel):
    """A section of the recipe: unknown keys are errors, never ignored."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class ImageFolder(Part):
    """Every image file under a folder, at any depth."""

    source: Literal["images"]
    path: str
    limit: Annotated[int, Field(ge=1)] | None = None


class PromptFile(Part):
    """A UTF-8 text file with a prompt a line."""

    source: Literal["prompts"]
    path: str
    limit: Annotated[int, Field(ge=1)] | None = None


class ParquetColumn(Part):
    """One column of a parquet file or of a folder of them: texts, image bytes or {bytes, path} structs."""

    source: Literal["parquet"]
    path: str
    column: str
    limit: Annotated[int, Field(ge=1)] | None = None


class DatasetColumn(Part):
    """One column of a local `datasets` folder: of `save_to_disk`, or whatever `load_dataset(path)` opens."""

    source: Literal["dataset"]
    path: str
    column: str
    split: str = "train"
    limit: Annotated[int, Field(ge=1)] | None = None


class ShapeWorldInputs(Part):
    """Scenes of the embedded world that its models were not trained on, as images or as prompts.

    `limit` scenes after the first `offset` of those that `seed` draws: two recipes with one seed can take scenes
    that have none in common.
    """

    source: Literal["shapeworld"]
    limit: Annotated[int, Field(ge=1)]
    offset: Annotated[int, Field(ge=0)] = 0
    seed: int = 0


class DciFolder(Part):
    """Densely Captioned Images (arXiv 2312.08578) as it unpacks: `annotations/*.json`, `photos/`, `splits.json`.

    A cycle that starts from images reads the photos, one that starts from texts the short captions. `split` is one
    of those in splits.json (train, valid, test); null takes every annotation in the folder.
    """

    source: Literal["dci"]
    path: str
    split: str | None = None
    limit: Annotated[int, Field(ge=1)] | None = None


class TsvColumn(Part):
    """One column of a tab-separated prompt list whose first line names the columns, as PartiPrompts' does.

    `where` keeps the rows whose cells are among the values given for each column it names, for example
    `{Category: [Animals, Vehicles], Challenge: [Quantity]}`.
    """

    source: Literal["tsv"]
    path: str
    column: str = "Prompt"
    where: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    limit: Annotated[int, Field(ge=1)] | None = None


PromptKind = Literal[
    "colour", "count", "background", "colour-count", "colour-background", "count-background", "colour-count-background"
]


class CompositionalPrompts(Part):
    """The compositional prompts of Lee et al. 2023 (arXiv 2302.12192): objects in a colour, number or place, or in
    several of these at once; see builder/compositional.py for the lists and the wording.

    `held_out` says what becomes of the five objects that the paper keeps for its evaluation (bear, tiger, rabbit,
    rose, wolf). `seed` shuffles; a smaller `limit` is the beginning of a larger one.
    """

    source: Literal["compositional"]
    kinds: Annotated[list[PromptKind], Field(min_length=1)]
    held_out: Literal["exclude", "only", "include"] = "exclude"
    limit: Annotated[int, Field(ge=1)] | None = None
    seed: int = 0


Inputs = Annotated[
    ImageFolder
    | PromptFile
    | ParquetColumn
    | DatasetColumn
    | ShapeWorldInputs
    | DciFolder
    | TsvColumn
    | CompositionalPrompts,
    Field(discriminator="source"),
]


class ModelChoice(Part):
    """A model of the catalog, a Hub id or a local folder; `settings` override fields of its spec.

    `samples` is how many outputs to draw for each source, each with its own seed. `name` is how the model is
    called in the tables; it is needed when a recipe uses one model twice with different settings.
    """

    model: str
    name: str | None = None
    samples: Annotated[int, Field(ge=1)] = 1
    settings: dict[str, Any] = {}

    @property
    def label(self) -> str:
        """The name of the model in the tables."""
        return self.name or self.model


class MetricChoice(Part):
    """A metric of the catalog; `settings` override fields of its spec."""

    metric: str
    settings: dict[str, Any] = {}


class Pairing(Part):
    """Which pairs of one input's candidates are preferences.

    `min_margin`: pairs that are closer than this say nothing. `poor_chosen`: pairs whose chosen candidate scores
    worse than this teach nothing good; null keeps them. Both are in the metric's own units. (CyclePrefDB:
    0.005, and DreamSim 0.7 or SBERT 0.4.)
    """

    min_margin: Annotated[float, Field(ge=0)]
    poor_chosen: float | None


class Splits(Part):
    """Shares of the inputs in each split; an input's split is a function of its id."""

    train: Annotated[float, Field(ge=0, le=1)] = 0.90
    validation: Annotated[float, Field(ge=0, le=1)] = 0.05
    test: Annotated[float, Field(ge=0, le=1)] = 0.05

    @model_validator(mode="after")
    def _sum_to_one(self) -> "Splits":
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            raise ValueError(f"train + validation + test must be 1, got {total:g}")
        return self


class Recipe(Part):
    """A whole build: inputs -> candidates (forward) -> reconstructions (backward) -> scores -> pairs -> dataset."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    cycle: Literal["i2t2i", "t2i2t"]
    seed: int = 0
    inputs: Inputs
    forward: Annotated[list[ModelChoice], Field(min_length=1)]
    backward: ModelChoice
    metric: MetricChoice
    pairs: Pairing
    splits: Splits = Splits()
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.05

    @property
    def shape(self) -> Cycle:
        """The cycle's row in schemas/cycle.py."""
        return CYCLES[self.cycle]

    @model_validator(mode="after")
    def _labels_differ(self) -> "Recipe":
        labels = [choice.label for choice in self.forward]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"forward lists {', '.join(twice)} more than once: give each use a `name` of its own")
        if sum(choice.samples for choice in self.forward) < 2:
            raise ValueError("forward makes one candidate for each input: a pair needs two models or samples at least")
        return self


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        RecipeError: one message with every problem: where, what was given, what is allowed.
    """
    path = Path(path)
    if not path.is_file():
        raise RecipeError(f"no recipe at {path}: give the path of a YAML file, or see jobs/recipes for examples")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise RecipeError(f"{path} must hold a mapping of recipe keys, got {type(content).__name__}")
    return parse_recipe(content, where=str(path))


def parse_recipe(content: dict[str, Any], where: str = "recipe") -> Recipe:
    """Check a recipe that is already a mapping; `where` begins the error messages."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise RecipeError("\n".join([f"{where} is not a valid recipe:", *(f"  - {line}" for line in lines)])) from error


def _explain(problem: dict[str, Any]) -> str:
    """One pydantic error as: place, rule, value given; an unknown key lists the known ones."""
    place = ".".join(str(step) for step in problem["loc"])
    if problem["type"] != "extra_forbidden":
        given = "" if problem["type"] == "missing" else f" (got {problem['input']!r:.200})"
        return f"{place or 'recipe'}: {problem['msg'].removeprefix('Value error, ')}{given}"
    key = str(problem["loc"][-1])
    known = _keys_at(problem["loc"][:-1])
    close = difflib.get_close_matches(key, known, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    return f"{place}: unknown key{hint}; known keys: {', '.join(known)}"


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at an error's location knows."""
    sections = {"forward": ModelChoice, "backward": ModelChoice, "metric": MetricChoice, "pairs": Pairing}
    sources = {
        "images": ImageFolder, "prompts": PromptFile, "parquet": ParquetColumn,
        "dataset": DatasetColumn, "shapeworld": ShapeWorldInputs, "dci": DciFolder, "tsv": TsvColumn,
        "compositional": CompositionalPrompts,
    }  # fmt: skip
    if not loc:
        return list(Recipe.model_fields)
    if loc[0] == "inputs":
        return list(sources[str(loc[1])].model_fields)
    return list({**sections, "splits": Splits}[str(loc[0])].model_fields)
