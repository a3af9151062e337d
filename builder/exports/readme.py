"""The notes on a layout in an export's README: what its trainer does that a user has to know.

Each function takes one written split and the results of all splits with pairs, and returns paragraphs.
"""

import math

from cyclepref.builder.common.markdown import escape
from cyclepref.builder.exports.cycleprefdb import POOR, SIMILAR, higher_wins, turned
from cyclepref.builder.exports.writing import Exported, ExportSplit, json_name

# Thresholds are printed with six digits, rounded so that the value itself still passes, by more than rounding errors of
# doubles.
STEP, SLACK = 1e6, 1e-9


def margins(part: ExportSplit, done: list[Exported]) -> list[str]:
    """The column `margin` of formats whose trainer ignores it."""
    return [
        "`margin` is how far apart the two cycle scores of a pair are, in the units of "
        f"{escape(part.rankings.metric)}. The trainer ignores it; filter or weigh by it as you like."
    ]


def reward_margins(part: ExportSplit, done: list[Exported]) -> list[str]:
    """The column `margin`, which TRL's RewardTrainer applies."""
    metric = escape(part.rankings.metric)
    if part.unit is None:
        return ["There is no column `margin`, since TRL's RewardTrainer would apply it."]
    unit = f"the units of the cycle score ({metric})"
    if part.unit != 1:
        unit = (
            "standard deviations of the cycle score among the candidates of one input "
            f"({part.unit:.6g} in the units of {metric})"
        )
    return [
        "TRL's RewardTrainer applies the column `margin` if there is one: its loss is "
        f"`-log sigmoid(r_chosen - r_rejected - margin)`. Here margins are in {unit}. Rewards have no unit of their "
        "own, so large margins push them apart and margins near 0 do next to nothing. Export with `--margin none` to "
        "train without, `--margin standardised` for margins of about 1, `--margin raw` for differences of scores."
    ]


def kto(part: ExportSplit, done: list[Exported]) -> list[str]:
    """The weights that balance both labels."""
    rows = ", ".join(f"{escape(each.split)} {each.pairs} and {each.pairs}" for each in done)
    return [
        f"A pair is two rows, one with each label. Rows with the label true and with false: {rows}. So both labels "
        "weigh the same with `desirable_weight=1.0` and `undesirable_weight=1.0`, the defaults of TRL's KTOConfig. If "
        "you leave out rows afterwards, set `desirable_weight` to (rows with false) / (rows with true), or to 4/3 of "
        "that at most (arXiv 2402.01306), and leave `undesirable_weight` at 1.0."
    ]


def diffusion_dpo(part: ExportSplit, done: list[Exported]) -> list[str]:
    """A default of diffusers' script that is wrong for these pairs, and a kind of pipeline that it cannot load."""
    return [
        "diffusers' `train_diffusion_dpo.py` trains on this folder with `--dataset_name FOLDER --dataset_split_name "
        "train --no_hflip`. Without `--no_hflip` it flips images at random, which makes left and right in a prompt "
        "wrong. It loads a pipeline's VAE as `AutoencoderKL`, so it cannot train a pipeline with an `AutoencoderTiny`, "
        "which CyclePref's embedded painters have."
    ]


def imagereward(part: ExportSplit, done: list[Exported]) -> list[str]:
    """The meaning of an item."""
    return [
        "`ranking` 1 is the best. ImageReward's reader pairs every two generations of an item whose ranks differ, "
        "which gives exactly the pairs counted above. `cycle_scores` are those of the generations, by "
        f"{escape(part.rankings.metric)}; `margin` is how far apart the two scores of a pair are, the smallest of the "
        "item. The reader ignores both."
    ]


def hpdv3(part: ExportSplit, done: list[Exported]) -> list[str]:
    """The values in the columns for votes."""
    return [
        "`path1` is the preferred image. There are no votes, so `confidence` is 1 and `choice_dist` [1, 0] for every "
        "pair: a threshold of HPSv3's reader leaves out no pair, and its soft labels equal hard ones."
    ]


def paths(part: ExportSplit, done: list[Exported]) -> list[str]:
    """Why paths are absolute, and what to do when the folder moves."""
    return [
        "Paths of images are absolute, since readers open them unchanged, from any working directory. They begin with "
        f"{escape(str(part.root))}. If you move this folder, CyclePref still finds the images; for other readers, "
        "export again to the new place, or replace that beginning in the JSON files."
    ]


def cycleprefdb(part: ExportSplit, done: list[Exported]) -> list[str]:
    """How CycleReward's own reader makes pairs, and which thresholds give it ours."""
    higher, name = higher_wins(part), part.rankings.cycle.name
    worst = [each.counted["poorest"] for each in done]
    closest, poorest = _below(min(each.counted["closest"] for each in done)), _below(min(worst))
    if not higher:
        poorest = -_below(-max(worst))
    what, better, kind = ("images", "higher", "t2i") if higher else ("captions", "lower", "i2t")
    rows = [f"| {escape(json_name(e.split))} | {e.counted['read']} | {e.counted['ours']} | {e.pairs} |" for e in done]
    lines = [
        f"CycleReward's training code (hjbahng/cyclereward) makes pairs itself, from `scores`, taking {better} as "
        f"better for {what}. Where the generation that is listed first has the higher score, it takes the wrong one of "
        "the two for the better. So generations stand in ascending order of score here, in which it inverts no pair: "
        "leave them so.",
        "It also makes pairs that CyclePref's rules or your filters left out. Those that were kept are in `pairs`, as "
        "[chosen, rejected] places among the generations. It makes all of these, and others, with "
        f"`--{kind}_data_path FOLDER --threshold_similar {closest:.6f} --threshold_negative {poorest:.6f}`. With "
        f"{SIMILAR} and {POOR[name]}, as in its paper"
        + (" (CycleReward-Combo always takes the latter for images)" if higher else "")
        + ", it makes:",
        "\n".join(["| file | pairs | of these in `pairs` | in `pairs` |", "| --- | --- | --- | --- |", *rows]),
        "CycleReward-Combo takes one folder of either cycle. For the two types that take one, its code as released "
        "(36e1077) stops with a KeyError: the collator asks for `input`, which is not what its dataset calls that.",
    ]
    if turned(part):
        worse = "lower" if higher else "higher"
        lines.insert(1, f"{escape(part.rankings.metric)} is better the {worse} it is, so `scores` are 1 - score.")
    return lines


def _below(value: float) -> float:
    return math.floor((value - SLACK) * STEP) / STEP
