"""CyclePrefDB's own layout, which builder/cycleprefdb.py reads: JSON lines of inputs, images in a tar beside them.

The keys beyond input, generations and scores are CyclePref's own; other readers of the layout ignore them.
"""

import io
import json
import tarfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

from builder.exports.images import FILE_OF_SPLIT
from builder.exports.writing import Part, image_name


def write_cycleprefdb(part: Part, folder: Path) -> None:
    """`SPLIT.jsonl`, a line for each input that has a pair, with all its candidates; images in `SPLIT.tar`, each once.

    `pairs` lists [chosen, rejected], places among the generations. A reader that makes pairs itself, by thresholds of
    its own, does not see it.
    """
    name = FILE_OF_SPLIT.get(part.rankings.split, part.rankings.split)
    # Each tar has its own folder, so that unpacking all of them mixes up nothing.
    with (
        (folder / f"{name}.jsonl").open("w", encoding="utf-8") as lines,
        tarfile.open(folder / f"{name}.tar", "w") as tar,
    ):
        for line in _lines(part, lambda id_, read: _add(tar, id_, read())):
            lines.write(json.dumps(line) + "\n")


def _lines(part: Part, put: Callable[[str, Callable[[], bytes]], str]) -> Iterator[dict[str, Any]]:
    rankings = part.rankings
    places = _places(part)
    for row, group in part.groups():
        first, count = places[row]
        some = rankings.candidates.slice(first, count).to_pylist()
        input_id, text = group[0]["input_id"], group[0]["caption"]
        yield {
            "id": input_id,
            "input": text if text is not None else put(input_id, partial(rankings.images.of_input, row)),
            "generations": [_output(part, put, each, first + at) for at, each in enumerate(some)],
            "scores": [each["value"] for each in some],
            "generation_ids": [each["generation_id"] for each in some],
            # The one that the pairs name comes first.
            "models": [sorted(each["models"], key=lambda name, each=each: name != each["model"]) for each in some],
            "metric": rankings.metric,
            "higher_is_better": rankings.higher_is_better,
            "pairs": [[pair["chosen"] - first, pair["rejected"] - first] for pair in group],
        }


def _output(part: Part, put: Callable[[str, Callable[[], bytes]], str], each: dict[str, Any], place: int) -> str:
    if each["text"] is not None:
        return each["text"]
    return put(each["generation_id"], partial(part.rankings.images.of_candidate, place))


def _places(part: Part) -> dict[int, tuple[int, int]]:
    """Where the candidates of each row begin, and how many they are: they lie together."""
    found: dict[int, tuple[int, int]] = {}
    for at, row in enumerate(part.rankings.candidates["row"].to_pylist()):
        first, count = found.get(row, (at, 0))
        found[row] = (first, count + 1)
    return found


def _add(tar: tarfile.TarFile, id_: str, data: bytes) -> str:
    """Add a file that is a function of its content alone: no time, no owner."""
    member = tarfile.TarInfo(image_name(id_, data))
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
    return member.name
