"""Recipe: the YAML file that says what to build, validated when it is loaded."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, model_validator

from schemas.cycle import CYCLES, Cycle
from schemas.errors import CyclePrefError
from schemas.publishing import DatasetOptions, Safety
from schemas.settings_file import explain, read_settings
from schemas.sources import SOURCES, Inputs, Part


class RecipeError(CyclePrefError, ValueError):
    """A recipe that cannot be run: the message names the place, the value, the rule and the way out."""


class ModelChoice(Part):
    """A model of the catalog, a Hub id or a local folder; `settings` override fields of its spec.

    `samples` is how many outputs to draw for each source, each with its own seed. `name` is how the model is
    called in the tables; it is needed when a recipe uses one model twice with different settings.
    """

    model: str
    name: str | None = None
    samples: Annotated[int, Field(ge=1)] = 1
    settings: dict[str, Any] = Field(default={})

    @property
    def label(self) -> str:
        """The name of the model in the tables."""
        return self.name or self.model


# What a weighted mix of metrics is called in the tables.
MIX = "mix"
# What the safety model is called there.
SAFETY = "safety"


class MetricChoice(Part):
    """A metric of the catalog, a Hub id or a local folder; `settings` override fields of its spec.

    An id or a folder is that of a sentence-transformers model if the cycle compares texts, and of a vision backbone
    (DINOv2, CLIP, SigLIP, ...) if it compares images. `name` is how the metric is called in the tables.
    """

    metric: str
    name: str | None = None
    settings: dict[str, Any] = Field(default={})

    @property
    def label(self) -> str:
        """The name of the metric in the tables."""
        return self.name or self.metric


class Pairing(Part):
    """Which pairs of one input's candidates are preferences, and by which scores.

    `by` names the metric that decides, `mix` several with their weights, which add up to 1. `scale` brings those to
    [0, 1], higher better, before they are mixed. "constants": by the metric's declared range, so that a metric whose
    values keep to a small part of it needs more weight. "rank": the share of the input's other distinct outputs that
    score worse, ties counting half.

    `min_margin`: pairs that are closer than this say nothing. `poor_chosen`: pairs whose chosen candidate scores
    worse than this teach nothing good; null keeps them. Both are in the deciding metric's own units, those of a mix
    in [0, 1]. (CyclePrefDB: 0.005, and DreamSim 0.7 or SBERT 0.4.)

    `min_margin_sd`: pairs whose margin is smaller than this many standard errors may be the backward model's noise,
    see `builder.pair.paired_errors`; null keeps them. It needs two reconstructions of a candidate at least.
    """

    min_margin: Annotated[float, Field(ge=0)]
    poor_chosen: float | None
    min_margin_sd: Annotated[float, Field(gt=0)] | None = None
    by: str | None = None
    mix: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=2)] | None = None
    scale: Literal["constants", "rank"] | None = None

    @model_validator(mode="after")
    def _one_judge(self) -> "Pairing":
        if self.mix is None:
            if self.scale is not None:
                raise ValueError(f"scale is {self.scale!r}, but there is no mix to bring to a scale: drop it")
            return self
        if self.by is not None:
            raise ValueError(f"pairs are decided by one metric or by a mix, got by {self.by!r} and mix: drop one")
        if self.scale is None:
            raise ValueError("mix needs a scale: 'constants' (each metric's declared range) or 'rank'")
        total = sum(self.mix.values())
        if abs(total - 1) > 1e-9:
            raise ValueError(f"the weights of mix must add up to 1, got {total:g}")
        if self.scale == "rank" and self.min_margin_sd is not None:
            raise ValueError(
                "min_margin_sd needs a score for each reconstruction, and a rank is of their mean: "
                "use scale 'constants', or by"
            )
        return self


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
    """A whole build: inputs -> candidates (forward) -> reconstructions (backward) -> scores -> pairs -> dataset.

    `metric` is short for `metrics` with one entry. All metrics are computed; `pairs` says which of them decides.
    `max_failure_rate` is the share of a model's rows in a stage that may fail.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")]
    cycle: Literal["i2t2i", "t2i2t"]
    seed: int = 0
    inputs: Inputs
    forward: Annotated[list[ModelChoice], Field(min_length=1)]
    backward: ModelChoice
    metric: MetricChoice | None = None
    metrics: Annotated[list[MetricChoice], Field(min_length=1)] | None = None
    pairs: Pairing
    splits: Splits = Splits()
    dataset: DatasetOptions = DatasetOptions()
    safety: Safety | None = None
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.05

    @property
    def shape(self) -> Cycle:
        """The cycle's row in schemas/cycle.py."""
        return CYCLES[self.cycle]

    @property
    def all_metrics(self) -> list[MetricChoice]:
        """What `metric` or `metrics` lists."""
        return [self.metric] if self.metric else list(self.metrics or ())

    @model_validator(mode="after")
    def _labels_differ(self) -> "Recipe":
        labels = [choice.label for choice in self.forward]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"forward lists {', '.join(twice)} more than once: give each use a `name` of its own")
        if sum(choice.samples for choice in self.forward) < 2:
            raise ValueError("forward makes one candidate for each input: a pair needs two models or samples at least")
        return self

    @model_validator(mode="after")
    def _metrics_decide(self) -> "Recipe":
        if (self.metric is None) == (self.metrics is None):
            raise ValueError(
                "a recipe has either metric or a list of metrics, got " + ("both" if self.metric else "none")
            )
        labels = [choice.label for choice in self.all_metrics]
        twice = sorted({label for label in labels if labels.count(label) > 1})
        if twice:
            raise ValueError(f"metrics lists {', '.join(twice)} more than once: give each use a `name` of its own")
        if MIX in labels:
            raise ValueError(
                f"a metric cannot be called {MIX!r}, which names the mix in the tables: give it another name"
            )
        named = [self.pairs.by] if self.pairs.by else list(self.pairs.mix or ())
        if unknown := [name for name in named if name not in labels]:
            raise ValueError(
                f"pairs name {', '.join(unknown)}, which metrics do not list: choose from {', '.join(labels)}"
            )
        if not named and len(labels) > 1:
            raise ValueError(f"with several metrics pairs need `by` (one of {', '.join(labels)}) or `mix`")
        return self

    @model_validator(mode="after")
    def _roles_differ(self) -> "Recipe":
        roles = {
            "forward": [choice.label for choice in self.forward],
            "backward": [self.backward.label],
            "metrics": [choice.label for choice in self.all_metrics],
            "safety": [SAFETY] if self.safety else [],
        }
        first: dict[str, str] = {}
        for role, label in ((role, label) for role, labels in roles.items() for label in labels):
            other = first.setdefault(label, role)
            if other != role:
                raise ValueError(
                    f"{label!r} is in {other} and in {role}, and a run has one model of a name: "
                    f"give the one in {other if role == 'safety' else role} another `name`"
                )
        return self

    @model_validator(mode="after")
    def _noise_is_known(self) -> "Recipe":
        if self.pairs.min_margin_sd is not None and self.backward.samples < 2:
            raise ValueError(
                f"pairs.min_margin_sd needs two reconstructions of a candidate at least, and backward.samples is "
                f"{self.backward.samples}: raise it, or drop min_margin_sd"
            )
        return self


def load_recipe(path: str | Path) -> Recipe:
    """Read and check a recipe file.

    Raises:
        RecipeError: one message with every problem: where, what was given, what is allowed.
    """
    content = read_settings(Path(path), RecipeError, "jobs/recipes")
    return parse_recipe(content, where=str(path))


def parse_recipe(content: dict[str, Any], where: str = "recipe") -> Recipe:
    """Check a recipe that is already a mapping; `where` begins the error messages."""
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        lines = [_explain(problem) for problem in error.errors()]
        raise RecipeError("\n".join([f"{where} is not a valid recipe:", *(f"  - {line}" for line in lines)])) from error


def _explain(problem: dict[str, Any]) -> str:
    unknown = problem["type"] == "extra_forbidden"
    return explain(problem, _keys_at(problem["loc"][:-1]) if unknown else ())


def _keys_at(loc: tuple[int | str, ...]) -> list[str]:
    """The keys that the section at an error's location knows."""
    sections = {
        "forward": ModelChoice,
        "backward": ModelChoice,
        "metric": MetricChoice,
        "metrics": MetricChoice,
        "pairs": Pairing,
        "dataset": DatasetOptions,
        "safety": Safety,
    }
    if not loc:
        return list(Recipe.model_fields)
    if loc[0] == "inputs":
        return list(SOURCES[str(loc[1])].model_fields)
    return list({**sections, "splits": Splits}[str(loc[0])].model_fields)
