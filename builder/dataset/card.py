"""The text of a dataset card: what the dataset is, how it was made and what is in it, from the run itself.

Everything that comes from outside (names, settings) stands in it with its Markdown and HTML escaped.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from cyclepref.builder.common.markdown import escape
from cyclepref.builder.dataset.card_figures import people_section, picture, statistics_section, table
from cyclepref.builder.dataset.licences import UNKNOWN, strictest
from cyclepref.builder.pairing.pair import Direction
from cyclepref.builder.run.notices import notices
from cyclepref.schemas.recipe import Pairing, Recipe
from cyclepref.schemas.resolved import Resolved

CITATION = """@inproceedings{bahng2025cyclereward,
  title = {Cycle Consistency as Reward: Learning Image-Text Alignment without Human Preferences},
  author = {Bahng, Hyojin and Chan, Caroline and Durand, Fredo and Isola, Phillip},
  booktitle = {ICCV}, year = {2025}, note = {arXiv 2506.02095}
}"""
# How a pair comes to its images, without a copy of any.
WITH_IMAGES = {
    "i2t2i": (
        'images = rankings["train"].select_columns("image")',
        'train = pairs["train"].with_transform(',
        '    lambda rows: rows | {"image": images[rows["row"]]["image"]}',
        ")",
        'train[0]["image"], train[0]["chosen"], train[0]["rejected"]',
    ),
    "t2i2t": (
        "def with_images(rows):",
        '    found = rankings["train"][rows["row"]]["candidates"]',
        '    places = {side: zip(found, rows[f"{side}_index"]) for side in ("chosen", "rejected")}',
        '    return rows | {side: [made[at]["image"] for made, at in each] for side, each in places.items()}',
        "",
        'train = pairs["train"].with_transform(with_images)',
        'train[0]["prompt"], train[0]["chosen"], train[0]["rejected"]',
    ),
}
STAGES = ("candidates", "reconstructions", "scores", "safety")


@dataclass(frozen=True)
class Facts:
    """What a card tells of a build: `direction` is of the scores that decided the pairs, `counts` are run.json's
    without what was reused, `inputs_licence` is None where it is not known. `safety` is the safety model; `flagged`
    says what it left out (images, inputs, candidates). `grouped` is how many inputs are near-duplicates of another,
    None where they were not looked for. `audit` is audit.json, where people were asked."""

    recipe: Recipe
    models: list[Resolved]
    metrics: list[Resolved]
    direction: Direction
    counts: dict[str, Any]
    version: str
    inputs_licence: str | None = None
    safety: Resolved | None = None
    flagged: dict[str, int] = field(default_factory=dict)
    grouped: int | None = None
    audit: dict[str, Any] | None = None

    @property
    def licences(self) -> dict[str, str | None]:
        """The licence of the inputs and of each model, as the recipe and the catalog say."""
        return {"inputs": self.inputs_licence, **{m.name: getattr(m.spec, "licence", None) for m in self.models}}

    @property
    def licence(self) -> tuple[str, str]:
        """The strictest licence: its id on the Hub, "other" where there is none, or "unknown"; and its name."""
        return strictest(self.licences)[:2]

    def key(self) -> str:
        """All that decides the card apart from the statistics, as a text."""
        models = [(model.name, model.identity) for model in [*self.models, *self.metrics]]
        # Who watches a build is no matter of its dataset.
        recipe = self.recipe.model_dump(mode="json", exclude={"tracking"})
        parts = (
            *(recipe, models, self.direction.metric, self.counts, self.version),
            *(self.licences, self.safety and self.safety.identity, self.flagged, self.grouped),
            *([self.audit] if self.audit else []),
        )
        return json.dumps(parts, sort_keys=True, default=str)


def card(facts: Facts, statistics: dict[str, Any], pictures: dict[str, str], configs: tuple[str, ...]) -> str:
    """Markdown of the card below its YAML head. `statistics` are those of builder/dataset/statistics.py; `pictures` are
    paths within the folder, of those of "examples", "scores" and "wins" that there are."""
    sections = (
        _opening(facts, pictures, configs),
        _making(facts),
        _counts(facts),
        statistics_section(notices(facts.counts), statistics, pictures),
        *([people_section(facts.audit)] if facts.audit and facts.audit["scorers"] else []),
        _licence(facts),
    )
    return "\n".join(line for section in sections for line in [*section, ""])


def _opening(facts: Facts, pictures: dict[str, str], configs: tuple[str, ...]) -> list[str]:
    cycle = facts.recipe.shape
    arrow = f"{cycle.input} → {cycle.candidate} → {cycle.input}"
    loads = {
        "rankings": "one row per input, with its candidates and cycle scores",
        "pairs": "which of two candidates of an input is better, and by how much",
        "reconstructions": "what the candidates were turned back into",
    }
    code = [f'{name} = load_dataset("PATH", "{name}")'.ljust(62) + f"# {loads[name]}" for name in configs]
    return [
        f"# {escape(facts.recipe.name)}",
        "",
        f"Preference pairs for image-text alignment without human labels, by the cycle {arrow}: {_judged_by(facts)} is "
        f"the chosen one. Built with CyclePref {facts.version}.",
        "",
        *picture("Inputs with their candidates and cycle scores", pictures.get("examples")),
        "## How to load it",
        "",
        "PATH is this repository's id, or a folder with its files.",
        "",
        "```python",
        "from datasets import load_dataset",
        *code,
        "",
        *WITH_IMAGES[cycle.name],
        "```",
        "",
        "Each image is stored once, in `rankings`: a pair's `row` is its input's place there, `chosen_index` and "
        "`rejected_index` are places among that input's candidates. CyclePref's `load_pairs('PATH')` gives pairs with "
        "their images, and makes them at other thresholds.",
        "",
        "A candidate's `model` is a class of the forward models, `models` "
        f"lists all that made one {cycle.candidate}; `score` is by the metric that decided the pairs, `scores` has "
        "every metric's.",
    ]


def _making(facts: Facts) -> list[str]:
    recipe = facts.recipe
    made = [*facts.models, *facts.metrics, *([facts.safety] if facts.safety else [])]
    return [
        "## How it was made",
        "",
        *_scoring(recipe.pairs, facts.metrics, facts.direction),
        f"- Kept: pairs whose scores differ by at least {_thresholds(recipe.pairs)}.",
        "- Equal outputs of one input are one candidate with several models.",
        f"- Splits are by input: train {recipe.splits.train:g}, validation {recipe.splits.validation:g}, "
        f"test {recipe.splits.test:g}. {_grouping(facts.grouped)}",
        *_safety(facts),
        f"- Recipe seed: {recipe.seed}.",
        "",
        "| model | kind | weights | licence | settings |",
        "| --- | --- | --- | --- | --- |",
        *(f"| {' | '.join(map(escape, _model(model)))} |" for model in made),
    ]


def _model(model: Resolved) -> tuple[str, ...]:
    """Name, kind, weights, licence and settings of a model or metric; a direct metric has its own model's weights."""
    of, spec = model.identity.get("model") or model.identity, getattr(model.spec, "model", None) or model.spec
    hidden = ("kind", "repo", "revision", "weights")
    settings = {name: value for name, value in model.identity.items() if name not in hidden}
    repo, revision = of.get("repo"), of.get("revision")
    weights = f"{repo} at {revision}" if repo else f"local files {of.get('weights', '')}"
    if not repo and "weights" not in of:
        weights = of.get("served_model") or "of its package"
    licence = getattr(spec, "licence", "") or UNKNOWN
    return model.name, model.spec.kind, weights, licence, json.dumps(settings, sort_keys=True)


def _grouping(grouped: int | None) -> str:
    if grouped is None:
        return "Near-duplicate inputs were not looked for."
    return f"Near-duplicates share a split ({grouped} inputs are near-duplicates of another)."


def _safety(facts: Facts) -> list[str]:
    rule = facts.recipe.safety
    if rule is None:
        return []
    # A local folder's path says nothing to others.
    named = (facts.safety.identity.get("repo") if facts.safety else None) or "the safety model"
    left = ", ".join(f"{count} {name}" for name, count in facts.flagged.items())
    return [
        f"- Left out: images that {escape(named)} gives the label "
        f"{escape(rule.label)} with a probability of at least {rule.threshold:g} ({left})."
    ]


def _counts(facts: Facts) -> list[str]:
    counts = facts.counts
    inputs = counts["inputs"]
    return [
        "## Counts",
        "",
        f"Inputs: {inputs['read']} read, {inputs['unique']} distinct, {inputs['duplicate']} duplicates, "
        f"{inputs['failed']} failed.",
        "",
        "| stage | model | wanted | ok | failed |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {stage} | {escape(model)} | {count['wanted']} | {count['ok']} | {count['failed']} |"
            for stage in STAGES
            for model, count in counts.get(stage, {}).items()
        ),
        "",
        *table([name.replace("_", " ") for name in counts["pairs"]], [list(counts["pairs"].values())]),
    ]


def _licence(facts: Facts) -> list[str]:
    _, name, unknown = strictest(facts.licences)
    says = f"The strictest of the licences below is **{escape(name)}**, which this dataset is marked with."
    if unknown:
        says = f"The licence is **unknown**: it is not known for {escape(', '.join(unknown))}."
    return [
        "## Licence and citation",
        "",
        f"{says} Derived by CyclePref's table of licences, which is no legal advice: read them.",
        "",
        *table(["of", "licence"], [[escape(of), escape(text or UNKNOWN)] for of, text in facts.licences.items()]),
        "",
        "```bibtex",
        CITATION,
        "```",
    ]


def _judged_by(facts: Facts) -> str:
    """What makes a candidate the better one."""
    if all(metric.spec.compares == "candidate" for metric in facts.metrics):
        return "a backward model tells how well each candidate goes with its input, and the candidate that goes better"
    return "each candidate of an input is turned back, and the candidate whose reconstruction is closer to the input"


def _scoring(rule: Pairing, metrics: list[Resolved], direction: Direction) -> list[str]:
    """Lines on what the scores are and which of them decided."""
    of = {"reconstruction": "the mean over a candidate's reconstructions", "candidate": "of a candidate itself"}
    lines = [
        f"- Cycle score: {escape(metric.name)}, {'higher' if metric.spec.higher_is_better else 'lower'} is better; "
        f"{of[metric.spec.compares]}."
        for metric in metrics
    ]
    if rule.mix:
        parts = ", ".join(f"{escape(name)} {weight:g}" for name, weight in sorted(rule.mix.items()))
        by = "its declared range" if rule.scale == "constants" else "rank within the input's candidates"
        return [*lines, f"- Pairs are decided by a mix, higher is better: {parts}; each brought to [0, 1] by {by}."]
    return lines if len(metrics) == 1 else [*lines, f"- Pairs are decided by {escape(direction.metric)}."]


def _thresholds(rule: Pairing) -> str:
    """What a pair's scores must fulfil, after the words "differ by at least"."""
    parts = [f"{rule.min_margin:g}"]
    if rule.min_margin_sd is not None:
        parts.append(f"by at least {rule.min_margin_sd:g} paired standard errors over the reconstructions' seeds")
    if rule.poor_chosen is not None:
        parts.append(f"and whose chosen candidate scores no worse than {rule.poor_chosen:g}")
    if rule.within == "model":
        parts.append("and only two candidates that some model made both of")
    if rule.balance is not None:
        parts.append(f"at least {rule.balance:.0%} of an input's pairs being of one model with itself")
    return ", ".join(parts)
