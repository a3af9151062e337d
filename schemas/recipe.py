"""Recipe: the YAML file that says what to build, validated when it is loaded."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cyclepref.schemas.cycle import CYCLES, Cycle
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.publishing import DatasetOptions, Safety, Tracking
from cyclepref.schemas.rules import Fault, Section, check, rule
from cyclepref.schemas.settings_file import Settings, read_settings
from cyclepref.schemas.sources import Inputs

# What errors call a recipe, and the command that lists recipes that work.
VALID, EXAMPLES = "a valid recipe", "cyclepref recipes"


class RecipeError(CyclePrefError, ValueError):
    """A recipe that cannot be run: the message names the place, the value, the rule and the way out.

    `faults` are the problems of one model's or metric's settings, each with its place in them.
    """

    def __init__(self, message: str, faults: tuple[Fault, ...] = ()):
        super().__init__(message)
        self.faults = faults


class ModelChoice(Section):
    """A model of the catalog, a Hub id or a local folder; `settings` override fields of its spec. A model without
    settings can be written as its name alone.

    `samples` is how many outputs to draw for each source, each with its own seed. `name` is the model's name in the
    tables; a recipe that uses one model twice with different settings needs it.
    """

    model: str
    name: str | None = None
    samples: Annotated[int, Field(ge=1)] = 1
    settings: dict[str, Any] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def of_name(cls, given: Any) -> Any:
        """Accept a plain text as the model's name."""
        return {"model": given} if isinstance(given, str) else given

    @property
    def label(self) -> str:
        """The name of the model in the tables."""
        return self.name or self.model


# The name of a weighted mix of metrics in the tables.
MIX = "mix"
# The name of the safety model there.
SAFETY = "safety"


class MetricChoice(Section):
    """A metric of the catalog, a Hub id or a local folder; `settings` override fields of its spec.

    An id or a folder means a sentence-transformers model if the cycle compares texts, and a vision backbone (DINOv2,
    CLIP, SigLIP, ...) if it compares images. `name` is the metric's name in the tables. A metric without settings can
    be written as its name alone.
    """

    metric: str
    name: str | None = None
    settings: dict[str, Any] = Field(default={})

    @model_validator(mode="before")
    @classmethod
    def of_name(cls, given: Any) -> Any:
        """Accept a plain text as the metric's name."""
        return {"metric": given} if isinstance(given, str) else given

    @property
    def label(self) -> str:
        """The name of the metric in the tables."""
        return self.name or self.metric


class Pairing(Section):
    """Which pairs of one input's candidates are preferences, and by which scores.

    `by` names the metric that decides; `mix` names several metrics with weights that add up to 1. `scale` brings their
    values to [0, 1], higher is better, before they are mixed. "constants" uses each metric's declared range: a metric
    whose values fill a small part of its range needs more weight. "rank" uses the share of the input's other distinct
    outputs that score worse, ties counting half.

    `min_margin` drops pairs whose scores are closer than this. `poor_chosen` drops pairs whose chosen candidate scores
    worse than this; null, the default, keeps them. Both are in the deciding metric's own units; a mix scores from 0 to
    1. (CyclePrefDB: 0.005, and DreamSim 0.7 or SBERT 0.4.)

    `min_margin_sd` drops pairs whose margin is smaller than this many standard errors, which may be the backward
    model's noise (see `cyclepref.builder.pairing.pair.paired_errors`); null keeps them. It needs at least two
    reconstructions of each candidate.
    """

    min_margin: Annotated[float, Field(ge=0, description="the least difference of scores that makes a pair, 0 or more")]
    poor_chosen: float | None = None
    min_margin_sd: Annotated[float, Field(gt=0)] | None = None
    by: str | None = None
    mix: Annotated[dict[str, Annotated[float, Field(gt=0)]], Field(min_length=2)] | None = None
    scale: Literal["constants", "rank"] | None = None
    within: Literal["any", "model"] = "any"
    balance: Annotated[float, Field(gt=0, lt=1)] | None = None

    @rule("within", "balance")
    def _nothing_to_balance(self) -> Iterator[Fault]:
        if self.within == "model" and self.balance is not None:
            yield Fault(
                ("balance",), f"all pairs are of one model, so balance {self.balance:g} has no effect: drop one"
            )

    @rule("mix", "scale")
    def _a_scale_is_of_a_mix(self) -> Iterator[Fault]:
        if self.mix is None and self.scale is not None:
            yield Fault(("scale",), f"scale is {self.scale!r}, but there is no mix to bring to a scale: drop it")
        if self.mix is not None and self.scale is None:
            yield Fault(
                ("mix",), "a mix needs a scale: add scale: constants (each metric's declared range) or scale: rank"
            )

    @rule("mix", "by")
    def _one_judge(self) -> Iterator[Fault]:
        if self.mix is not None and self.by is not None:
            yield Fault(("by",), f"pairs are decided by one metric or by a mix, got by {self.by!r} and mix: drop one")

    @rule("mix")
    def _weights_add_up(self) -> Iterator[Fault]:
        total = sum((self.mix or {}).values())
        if self.mix is not None and abs(total - 1) > 1e-9:
            yield Fault(("mix",), f"the weights of a mix must add up to 1, got {total:g}")

    @rule("scale", "min_margin_sd")
    def _a_rank_has_no_error(self) -> Iterator[Fault]:
        if self.scale == "rank" and self.min_margin_sd is not None:
            yield Fault(
                ("min_margin_sd",),
                "needs a score for each reconstruction, and a rank is of their mean: use scale: constants, or by",
            )


class Splits(Section):
    """Shares of the inputs in each split; an input's split is a function of its id."""

    train: Annotated[float, Field(ge=0, le=1)] = 0.90
    validation: Annotated[float, Field(ge=0, le=1)] = 0.05
    test: Annotated[float, Field(ge=0, le=1)] = 0.05

    @rule("train", "validation", "test")
    def _sum_to_one(self) -> Iterator[Fault]:
        total = self.train + self.validation + self.test
        if abs(total - 1) > 1e-9:
            yield Fault((), f"train + validation + test must be 1, got {total:g}")


class Recipe(Section):
    """A whole build: inputs -> candidates (forward) -> reconstructions (backward) -> scores -> pairs -> dataset.

    `metric` is short for `metrics` with one entry. All metrics are computed; `pairs` says which of them decides.
    `max_failure_rate` is the share of a model's rows in a stage that may fail.
    """

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$", description="what the run is called")]
    cycle: Annotated[Literal["i2t2i", "t2i2t"], Field(description="i2t2i (from images) or t2i2t (from texts)")]
    seed: int = 0
    inputs: Annotated[Inputs, Field(description="where images or prompts come from, as {source: images, path: photos}")]
    forward: Annotated[
        list[ModelChoice], Field(min_length=1, description="a list of the models that make candidates, two or more")
    ]
    backward: Annotated[ModelChoice, Field(description="the model that makes reconstructions of the candidates")]
    metric: MetricChoice | None = None
    metrics: Annotated[list[MetricChoice], Field(min_length=1)] | None = None
    pairs: Annotated[Pairing, Field(description="which differences make a pair, as {min_margin: 0.005}")]
    splits: Splits = Splits()
    dataset: DatasetOptions = DatasetOptions()
    safety: Safety | None = None
    tracking: Tracking | None = None
    max_failure_rate: Annotated[float, Field(ge=0, le=1)] = 0.05

    @property
    def shape(self) -> Cycle:
        """The cycle's row in schemas/cycle.py."""
        return CYCLES[self.cycle]

    @property
    def all_metrics(self) -> list[MetricChoice]:
        """What `metric` or `metrics` lists."""
        return [self.metric] if self.metric else list(self.metrics or ())

    @rule("forward")
    def _candidates_can_be_told_apart(self) -> Iterator[Fault]:
        yield from _twice("forward", [choice.label for choice in self.forward])
        if sum(choice.samples for choice in self.forward) < 2:
            yield Fault(("forward",), "makes one candidate for each input: a pair needs two models or samples at least")

    @rule("metric", "metrics")
    def _metrics_can_be_told_apart(self) -> Iterator[Fault]:
        if (self.metric is None) == (self.metrics is None):
            got = "both" if self.metric else "none"
            yield Fault(
                ("metric",) if self.metric else (), f"a recipe has either metric or a list of metrics, got {got}"
            )
        labels = [choice.label for choice in self.all_metrics]
        yield from _twice("metrics", labels)
        if MIX in labels:
            yield Fault(
                ("metric",) if self.metric else ("metrics", labels.index(MIX)),
                f"a metric cannot be called {MIX!r}, which names the mix in the tables: give it another name",
            )

    @rule("metric", "metrics", "pairs.by", "pairs.mix")
    def _metrics_decide(self) -> Iterator[Fault]:
        labels = [choice.label for choice in self.all_metrics]
        at, named = ("by", [self.pairs.by]) if self.pairs.by else ("mix", list(self.pairs.mix or ()))
        if unknown := [name for name in named if name not in labels]:
            yield Fault(
                ("pairs", at),
                f"pairs name {', '.join(unknown)}, which metrics do not list: choose from {', '.join(labels)}",
            )
        if not named and len(labels) > 1:
            yield Fault(("pairs",), f"with several metrics pairs need `by` (one of {', '.join(labels)}) or `mix`")

    @rule("forward", "backward", "metric", "metrics", "safety")
    def _roles_differ(self) -> Iterator[Fault]:
        roles = [
            *((("forward", at), choice.label) for at, choice in enumerate(self.forward)),
            (("backward",), self.backward.label),
            *((("metrics", at) if self.metrics else ("metric",), c.label) for at, c in enumerate(self.all_metrics)),
            *([(("safety",), SAFETY)] if self.safety else []),
        ]
        first: dict[str, str] = {}
        for at, label in roles:
            role = str(at[0])
            other = first.setdefault(label, role)
            if other != role:
                yield Fault(
                    at if role != "safety" else (other,),
                    f"{label!r} is in {other} and in {role}, and a run has one model of a name: "
                    f"give the one in {other if role == 'safety' else role} another `name`",
                )

    @rule("pairs.min_margin_sd", "backward.samples")
    def _noise_is_known(self) -> Iterator[Fault]:
        if self.pairs.min_margin_sd is not None and self.backward.samples < 2:
            yield Fault(
                ("pairs", "min_margin_sd"),
                "needs two reconstructions of a candidate at least, and backward.samples is "
                f"{self.backward.samples}: raise it, or drop min_margin_sd",
            )


def _twice(where: str, labels: list[str]) -> Iterator[Fault]:
    """A fault for each label that a list repeats, placed at the second use."""
    for label in sorted({label for label in labels if labels.count(label) > 1}):
        second = labels.index(label, labels.index(label) + 1)
        yield Fault((where, second), f"{where} lists {label} more than once: give each use a `name` of its own")


def load_recipe(path: str | Path, changes: Mapping[str, Any] | None = None) -> Recipe:
    """Read and check a recipe file; `changes` ("inputs.limit": value) replace what it says.

    Raises:
        RecipeError: one message with every fault: line and column, what was given, what is allowed.
            `cyclepref.builder.recipe_check.read_recipe` also checks that models, metrics and paths exist.
    """
    return checked(recipe_settings(path, changes))


def recipe_settings(path: str | Path, changes: Mapping[str, Any] | None) -> Settings:
    """The settings of a recipe file after `changes`. Models and metrics given as a name alone become sections, so that
    a change can add settings to them."""
    settings = read_settings(Path(path), RecipeError, EXAMPLES)
    content = settings.content
    for name, kind in (("backward", ModelChoice), ("metric", MetricChoice)):
        if name in content:
            content[name] = kind.of_name(content[name])
    for name, kind in (("forward", ModelChoice), ("metrics", MetricChoice)):
        if isinstance(content.get(name), list):
            content[name] = [kind.of_name(each) for each in content[name]]
    return settings.change(changes or {})


def parse_recipe(content: dict[str, Any], where: str = "recipe") -> Recipe:
    """Check a recipe that is already a mapping; `where` begins the error messages."""
    return checked(Settings(where, content))


def checked(settings: Settings) -> Recipe:
    """Turn settings into a recipe. Raises RecipeError with every fault."""
    recipe, faults = check(Recipe, settings.content)
    settings.refuse(faults, RecipeError, VALID)
    return recipe
