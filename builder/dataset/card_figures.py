"""What is in a dataset, as its card tells it: figures and tables, and what people say of the pairs."""

from typing import Any

from cyclepref.builder.common.markdown import escape


def statistics_section(noticed: list[str], found: dict[str, Any], pictures: dict[str, str]) -> list[str]:
    """The statistics of `dataset/statistics.py`; `noticed` are warnings about the build."""
    length, identity, near = found["length"], found["identity"], found["duplicates"]["near"]
    per_input, open_, model = found["pairs_per_input"], found["transitivity"], found["model_mean"]
    splits = [[name, count["inputs"], count["candidates"], count["pairs"]] for name, count in found["splits"].items()]
    scores = [[escape(name), f"{of['mean']:.4g}", *_values(of["quantiles"])] for name, of in found["scores"].items()]
    return [
        "## What is in it",
        "",
        *(f"> **Warning.** {escape(warning)}\n" for warning in [*noticed, *found["warnings"]]),
        *table(["split", "inputs", "candidates", "pairs"], splits),
        "",
        f"- Pairs per input: {per_input['min']} to {per_input['max']}, mean {per_input['mean']:.1f}; "
        f"{per_input['without']} inputs have none.",
        f"- Length bias: the longer candidate is the chosen one in {share_of(length['longer_chosen'])} of the pairs.",
        f"- Model bias: the models' names alone predict {share_of(identity['predicts'])} of the pairs.",
        f"- Which model, or which candidate: {share_of(model['within'])} of the pairs are of one model with itself; "
        f"the models' mean scores alone predict {share_of(model['predicts'])} of the pairs, and "
        f"{share_of(model['explains'])} of the scores' variance within an input lies between models.",
        f"- Transitivity: {open_['cyclic']} of {open_['triangles']} triangles of pairs are circles; {open_['open']} "
        "chains a > b > c lack the pair a > c.",
        f"- Duplicates: {found['duplicates']['made_by_several_models']} candidates were made by several models, "
        f"{found['duplicates']['shared_by_several_inputs']} are equal to one of another input; of every two candidates "
        f"of an input {near['near']} of {near['compared']} are near-duplicates (in {near['inputs']} inputs).",
        "",
        "Cycle scores and margins (quantiles):",
        "",
        *table(
            ["", "mean", "least", "5%", "25%", "median", "75%", "95%", "greatest"],
            [*scores, *([["margin of a pair", "", *_values(found["margins"])]] if found["margins"] else [])],
        ),
        "",
        *picture("Histograms of the cycle scores", pictures.get("scores")),
        "Pairs that the row's model won against the column's:",
        "",
        *table(
            ["model", *(str(at + 1) for at in range(len(found["models"])))],
            [[f"{at + 1} {escape(name)}", *found["wins"][at]] for at, name in enumerate(found["models"])],
        ),
        "",
        *picture("How often each model won against each other", pictures.get("wins")),
        *_histogram_table(found["scores"]),
    ]


def people_section(found: dict[str, Any]) -> list[str]:
    """What people said of some of the pairs, without their names."""
    rows = [
        [escape(name), share_of(of["share"]), _span(of), of["pairs"], _quarters(of["by_margin"])]
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
        *table(["scorer", "agrees with people", "95% interval", "pairs", "by margin, smallest quarter first"], rows),
    ]


def _quarters(parts: list[dict[str, Any]]) -> str:
    return " ".join(share_of(part["share"]) for part in parts)


def _span(of: dict[str, Any]) -> str:
    return "one input" if of["low"] is None else f"{of['low']:.1%} to {of['high']:.1%}"


def _histogram_table(scores: dict[str, Any]) -> list[str]:
    rows = [
        [escape(name), f"{low:.4g} to {high:.4g}", count]
        for name, of in scores.items()
        for low, high, count in zip(of["edges"], of["edges"][1:], of["counts"], strict=False)
    ]
    lines = table(["metric", "score", "candidates"], rows)
    return ["<details><summary>The histograms in numbers</summary>", "", *lines, "", "</details>"]


def table(head: list[str], rows: list[list[Any]]) -> list[str]:
    """A table of cells that are escaped already."""
    lines = [head, ["---"] * len(head), *rows]
    return ["| " + " | ".join(str(cell) for cell in line) + " |" for line in lines]


def picture(title: str, path: str | None) -> list[str]:
    """Lines with a picture, if there is one."""
    return [f"![{title}]({path})", ""] if path else []


def _values(quantiles: dict[str, float]) -> list[str]:
    return [f"{value:.4g}" for value in quantiles.values()]


def share_of(share: float | None) -> str:
    """A share in [0, 1], of pairs for example, as people read it."""
    return "none" if share is None else f"{share:.1%}"
