"""The text of a dataset card: what the dataset is, how it was made and what is in it, from the run itself.

Everything that comes from outside (names, settings) stands in it with its Markdown and HTML escaped.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from cyclepref.builder.common.markdown import escape
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
        parts = (
            *(self.recipe.model_dump(mode="json"), models, self.direction.metric, self.counts, self.version),
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
        _statistics(facts, statistics, pictures),
        *([_people(facts.audit)] if facts.audit and facts.audit["scorers"] else []),
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
        f"Preference pairs for image-text alignment without human labels, by the cycle {arrow}: each candidate of an "
        f"input is turned back by a backward model, and the candidate whose reconstruction is closer to the input "
        f"is the chosen one. Built with CyclePref {facts.version}.",
        "",
        *_picture("Inputs with their candidates and cycle scores", pictures.get("examples")),
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
    """Name, kind, weights, licence and settings of a model or metric."""
    settings = {name: value for name, value in model.identity.items() if name not in ("kind", "repo", "revision")}
    settings.pop("weights", None)
    repo, revision = model.identity.get("repo"), model.identity.get("revision")
    weights = f"{repo} at {revision}" if repo else f"local files {model.identity.get('weights', '')}"
    if not repo and "weights" not in model.identity:
        weights = model.identity.get("served_model") or "of its package"
    licence = getattr(model.spec, "licence", "") or UNKNOWN
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
        *_table([name.replace("_", " ") for name in counts["pairs"]], [list(counts["pairs"].values())]),
    ]


def _statistics(facts: Facts, found: dict[str, Any], pictures: dict[str, str]) -> list[str]:
    length, identity, near = found["length"], found["identity"], found["duplicates"]["near"]
    per_input, open_, model = found["pairs_per_input"], found["transitivity"], found["model_mean"]
    splits = [[name, count["inputs"], count["candidates"], count["pairs"]] for name, count in found["splits"].items()]
    scores = [[escape(name), f"{of['mean']:.4g}", *_values(of["quantiles"])] for name, of in found["scores"].items()]
    return [
        "## What is in it",
        "",
        *(f"> **Warning.** {escape(warning)}\n" for warning in [*notices(facts.counts), *found["warnings"]]),
        *_table(["split", "inputs", "candidates", "pairs"], splits),
        "",
        f"- Pairs per input: {per_input['min']} to {per_input['max']}, mean {per_input['mean']:.1f}; "
        f"{per_input['without']} inputs have none.",
        f"- Length bias: the longer candidate is the chosen one in {_share(length['longer_chosen'])} of the pairs.",
        f"- Model bias: the models' names alone predict {_share(identity['predicts'])} of the pairs.",
        f"- Which model, or which candidate: {_share(model['within'])} of the pairs are of one model with itself; the "
        f"models' mean scores alone predict {_share(model['predicts'])} of the pairs, and {_share(model['explains'])} "
        "of the scores' variance within an input lies between models.",
        f"- Transitivity: {open_['cyclic']} of {open_['triangles']} triangles of pairs are circles; {open_['open']} "
        "chains a > b > c lack the pair a > c.",
        f"- Duplicates: {found['duplicates']['made_by_several_models']} candidates were made by several models, "
        f"{found['duplicates']['shared_by_several_inputs']} are equal to one of another input; of every two candidates "
        f"of an input {near['near']} of {near['compared']} are near-duplicates (in {near['inputs']} inputs).",
        "",
        "Cycle scores and margins (quantiles):",
        "",
        *_table(
            ["", "mean", "least", "5%", "25%", "median", "75%", "95%", "greatest"],
            [*scores, *([["margin of a pair", "", *_values(found["margins"])]] if found["margins"] else [])],
        ),
        "",
        *_picture("Histograms of the cycle scores", pictures.get("scores")),
        "Pairs that the row's model won against the column's:",
        "",
        *_table(
            ["model", *(str(at + 1) for at in range(len(found["models"])))],
            [[f"{at + 1} {escape(name)}", *found["wins"][at]] for at, name in enumerate(found["models"])],
        ),
        "",
        *_picture("How often each model won against each other", pictures.get("wins")),
        *_histogram_table(found["scores"]),
    ]


def _people(found: dict[str, Any]) -> list[str]:
    """What people said of some of the pairs, without their names."""
    rows = [
        [escape(name), _share(of["share"]), _span(of), of["pairs"], _quarters(of["by_margin"])]
        for name, of in found["scorers"].items()
    ]
    alpha = (found["people"]["alpha"] or {}).get("alpha")
    agree = "" if alpha is None else f" Krippendorff's alpha between them is {alpha:.2f}."
    return [
        "## What people say",
        "",
        f"{len(found['annotators'])} people labelled {found['answered']} pairs without knowing the scores, as many of "
        f"each margin and each two models; of {found['clear']} they prefer one candidate.{agree}",
        "",
        *_table(["scorer", "agrees with people", "95% interval", "pairs", "by margin, smallest quarter first"], rows),
    ]


def _quarters(parts: list[dict[str, Any]]) -> str:
    return " ".join(_share(part["share"]) for part in parts)


def _span(of: dict[str, Any]) -> str:
    return "one input" if of["low"] is None else f"{of['low']:.1%} to {of['high']:.1%}"


def _histogram_table(scores: dict[str, Any]) -> list[str]:
    rows = [
        [escape(name), f"{low:.4g} to {high:.4g}", count]
        for name, of in scores.items()
        for low, high, count in zip(of["edges"], of["edges"][1:], of["counts"], strict=False)
    ]
    table = _table(["metric", "score", "candidates"], rows)
    return ["<details><summary>The histograms in numbers</summary>", "", *table, "", "</details>"]


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
        *_table(["of", "licence"], [[escape(of), escape(text or UNKNOWN)] for of, text in facts.licences.items()]),
        "",
        "```bibtex",
        CITATION,
        "```",
    ]


def _table(head: list[str], rows: list[list[Any]]) -> list[str]:
    """A table of cells that are escaped already."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def _picture(title: str, path: str | None) -> list[str]:
    return [f"![{title}]({path})", ""] if path else []


def _values(quantiles: dict[str, float]) -> list[str]:
    return [f"{value:.4g}" for value in quantiles.values()]


def _share(share: float | None) -> str:
    return "none" if share is None else f"{share:.1%}"


def _scoring(rule: Pairing, metrics: list[Resolved], direction: Direction) -> list[str]:
    """Lines on what the scores are and which of them decided."""
    ways = {metric.name: "higher" if metric.spec.higher_is_better else "lower" for metric in metrics}
    lines = [
        f"- Cycle score: {escape(name)}, {way} is better; the mean over a candidate's reconstructions."
        for name, way in ways.items()
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
