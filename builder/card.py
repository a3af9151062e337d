"""The text of a dataset card: what the dataset is and how it was made, from the run itself.

Everything that comes from outside (names, settings) stands in it with its Markdown and HTML escaped.
"""

import json
import re
from typing import Any

from builder.models.resolve import Resolved
from builder.pair import Direction
from schemas.errors import visible
from schemas.recipe import Pairing, Recipe

CITATION = """@inproceedings{bahng2025cyclereward,
  title = {Cycle Consistency as Reward: Learning Image-Text Alignment without Human Preferences},
  author = {Bahng, Hyojin and Chan, Caroline and Durand, Fredo and Isola, Phillip},
  booktitle = {ICCV}, year = {2025}, note = {arXiv 2506.02095}
}"""


def card(
    recipe: Recipe,
    models: list[Resolved],
    metrics: list[Resolved],
    direction: Direction,
    counts: dict[str, Any],
    version: str,
) -> str:
    """Markdown of the card below its YAML head. `direction` is of the scores that decided the pairs, `counts` are
    run.json's."""
    cycle = recipe.shape
    arrow = f"{cycle.input} → {cycle.candidate} → {cycle.input}"
    made = [(model.name, model.identity) for model in [*models, *metrics]]
    lines = [
        f"# {escape(recipe.name)}",
        "",
        f"Preference pairs for image-text alignment without human labels, by the cycle {arrow}: each candidate of an "
        f"input is turned back by a backward model, and the candidate whose reconstruction is closer to the input "
        f"is the chosen one. Built with CyclePref {version}.",
        "",
        "```python",
        "from datasets import load_dataset",
        'rankings = load_dataset("PATH")            # one row per input, with its candidates and cycle scores',
        'pairs = load_dataset("PATH", "pairs")      # chosen_id and rejected_id name candidates of an input',
        "```",
        "",
        "## How it was made",
        "",
        *_scoring(recipe.pairs, metrics, direction),
        f"- Kept: pairs whose scores differ by at least {_thresholds(recipe.pairs)}.",
        "- Equal outputs of one input are one candidate with several models.",
        f"- Splits are by input: train {recipe.splits.train:g}, validation {recipe.splits.validation:g}, "
        f"test {recipe.splits.test:g}.",
        f"- Recipe seed: {recipe.seed}.",
        "",
        "| model | settings |",
        "| --- | --- |",
        *(f"| {escape(name)} | {escape(json.dumps(identity, sort_keys=True))} |" for name, identity in made),
        "",
        "## Counts",
        "",
        "| stage | model | wanted | ok | failed |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {stage} | {escape(model)} | {count['wanted']} | {count['ok']} | {count['failed']} |"
            for stage in ("candidates", "reconstructions", "scores")
            for model, count in counts[stage].items()
        ),
        "",
        "| " + " | ".join(counts["pairs"]).replace("_", " ") + " |",
        "|" + " --- |" * len(counts["pairs"]),
        "| " + " | ".join(str(value) for value in counts["pairs"].values()) + " |",
        "",
        "## Licence and citation",
        "",
        "The licence follows from the inputs and the models above; it has not been determined here.",
        "",
        "```bibtex",
        CITATION,
        "```",
        "",
    ]
    return "\n".join(lines)


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
    return ", ".join(parts)


def escape(text: str) -> str:
    """Text that is only text in Markdown (GitHub's bare links included), in HTML, and in a table's cell."""
    text = visible(" ".join(text.split()), keep="").replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([\\`*_{}\[\]()#+!|~$])", r"\\\1", text)
    # What would become a link by itself, or a mention of somebody.
    return re.sub(r"://|(?i:www)\.|@", lambda found: "".join(f"&#{ord(c)};" for c in found[0]), text)
