"""CyclePrefDB's own layout, as CycleReward's training code reads it (hjbahng/cyclereward, dataset/dataset.py).

Its reader makes pairs itself, from the scores. It assumes that lower is better for captions and higher for images,
whatever the metric is, and it inverts a pair whose first generation has the higher score. So generations are in
ascending order of score, which inverts no pair, and scores with the other direction are written as 1 - score. It opens
paths unchanged, so they are absolute.

The keys beyond input, generations and scores are CyclePref's own, for builder/preferences/cycleprefdb.py; other readers
of the layout ignore them.
"""

import math
from collections.abc import Iterator
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import Any

from cyclepref.builder.exports.writing import Counted, ExportSplit, ImageFiles, write_json_list
from cyclepref.builder.pairing.pair import UNIT

# The reader's default thresholds: it makes no pair with closer scores, or whose better score is worse than this.
SIMILAR, POOR = 0.005, {"i2t2i": 0.7, "t2i2t": 0.4}


def write_cycleprefdb(part: ExportSplit, folder: Path) -> Counted:
    """`SPLIT.json`, a list with an item for each input that has a pair, with all its candidates; image files.

    `pairs` lists [chosen, rejected], places among the generations.

    Returns:
        What CycleReward's reader makes of it: `read`, the number of pairs at its default thresholds; `ours`, how many
        of them are in `pairs`; `closest` and `poorest`, the thresholds at which it makes all of `pairs`.
    """
    counted: Counted = {"read": 0, "ours": 0, "closest": math.inf, "poorest": math.inf}
    write_json_list(folder / part.json, (_counting(item, part, counted) for item in _items(part, folder)))
    counted["poorest"] *= 1 if higher_wins(part) else -1
    return counted


def higher_wins(part: ExportSplit) -> bool:
    """Whether the reader takes the higher of two scores as the better one."""
    return part.rankings.cycle.name == "t2i2t"


def turned(part: ExportSplit) -> bool:
    """Whether the metric's direction differs from the one that the reader assumes."""
    return part.rankings.higher_is_better is not higher_wins(part)


def _items(part: ExportSplit, folder: Path) -> Iterator[dict[str, Any]]:
    rankings, images = part.rankings, ImageFiles(folder, part.root)
    places = _places(part)
    for row, group in part.groups():
        first, count = places[row]
        some = rankings.candidates.slice(first, count).to_pylist()
        scores = [_turned(each["value"]) if turned(part) else each["value"] for each in some]
        order = sorted(range(count), key=lambda at: (scores[at], some[at]["generation_id"]))
        place = {first + at: new for new, at in enumerate(order)}
        input_id, text = group[0]["input_id"], group[0]["caption"]
        some = [some[at] for at in order]
        yield {
            "id": input_id,
            "input": text if text is not None else images.put(input_id, partial(rankings.images.of_input, row)),
            "generations": [_output(part, images, some[new], at) for at, new in place.items()],
            "scores": sorted(scores),
            "generation_ids": [each["generation_id"] for each in some],
            # The model that the pairs name comes first.
            "models": [sorted(each["models"], key=lambda name, each=each: name != each["model"]) for each in some],
            "metric": f"1 - {rankings.metric}" if turned(part) else rankings.metric,
            "higher_is_better": higher_wins(part),
            "pairs": [[place[pair["chosen"]], place[pair["rejected"]]] for pair in group],
        }


def _turned(value: float) -> float:
    """1 - score, computed in the integer units that pairs are compared in, so that no margin changes."""
    one = round(1 / UNIT)
    return (one - round(value / UNIT)) / one


def _output(part: ExportSplit, images: ImageFiles, each: dict[str, Any], place: int) -> str:
    if each["text"] is not None:
        return each["text"]
    return images.put(each["generation_id"], partial(part.rankings.images.of_candidate, place))


def _counting(item: dict[str, Any], part: ExportSplit, counted: Counted) -> dict[str, Any]:
    """The item, after adding what the reader makes of it to `counted`; `poorest` is counted as if higher were
    better."""
    scores, texts, higher = item["scores"], [text.strip().lower() for text in item["generations"]], higher_wins(part)
    sign = 1 if higher else -1
    ours = {(chosen, rejected) for chosen, rejected in item["pairs"]}
    limit = sign * POOR[part.rankings.cycle.name]
    for low, high in combinations(range(len(scores)), 2):
        better, worse = (high, low) if higher else (low, high)
        gap, value = scores[high] - scores[low], sign * scores[better]
        if (better, worse) in ours:
            counted["closest"], counted["poorest"] = min(counted["closest"], gap), min(counted["poorest"], value)
        if texts[low] != texts[high] and gap >= SIMILAR and value >= limit:
            counted["read"] += 1
            counted["ours"] += (better, worse) in ours
    return item


def _places(part: ExportSplit) -> dict[int, tuple[int, int]]:
    """The first place and the number of each row's candidates, which are consecutive."""
    found: dict[int, tuple[int, int]] = {}
    for at, row in enumerate(part.rankings.candidates["row"].to_pylist()):
        first, count = found.get(row, (at, 0))
        found[row] = (first, count + 1)
    return found
