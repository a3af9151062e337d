"""Two runs side by side: which labels changed between them, and why."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclepref.builder.common.progress import stage
from cyclepref.builder.pairing.pair import UNIT, same_text
from cyclepref.builder.report.core import core, shown
from cyclepref.builder.report.facts import facts
from cyclepref.builder.report.gallery import MOST_INPUTS, Candidate, Gallery, Shown, noise_of, read_gallery
from cyclepref.builder.report.page import ReportError, render, write_page, write_pictures
from cyclepref.builder.report.report import Written
from cyclepref.builder.report.thumbnails import strips
from cyclepref.builder.run.store import Store
from cyclepref.schemas.run_files import RunJson

SAME, TURNED, ONLY = "same label", "turned round", "in {} alone"
SETTINGS = ("inputs", "forward", "backward", "metric", "metrics", "pairs", "seed", "splits")
VALUE_LIMIT, SENTENCES = 200, 60


@dataclass(frozen=True)
class Change:
    """A pair of one input whose label differs: what happened to it, the cause, and both in a sentence."""

    what: str
    why: str
    sentence: str


def compare(first: str | Path, second: str | Path, out: str | Path, *, most: int = MOST_INPUTS) -> Written:
    """Write two runs as one page: their inputs side by side, which labels changed, and why.

    Raises:
        ReportError: if they are of different cycles, or share no input.
        StoreError: if one of them has no run, or has not come to its pairs.
    """
    stores = [Store(first), Store(second)]
    galleries = [read_gallery(store, most) for store in stores]
    _refuse(stores, galleries)
    shared = {each.id for each in galleries[0].inputs} & {each.id for each in galleries[1].inputs}
    for gallery in galleries:
        gallery.inputs = [each for each in gallery.inputs if each.id in shared]
    heads = [facts(store) for store in stores]
    changes, counts = _changes(*galleries)
    file = Path(out).expanduser()
    ids = [each.id for each in galleries[0].inputs]
    with stage("thumbnails", 2 * len(ids)) as tick:
        pictures = write_pictures(_strips(stores, galleries), file, tick)
    data = {
        "runs": [core(gallery, head["folder"]) for gallery, head in zip(galleries, heads, strict=True)],
        "changes": {id_: [change.sentence for change in found[:SENTENCES]] for id_, found in changes.items()},
    }
    told = {
        "tiles": [("pairs in A", counts["A"]), ("pairs in B", counts["B"]), (SAME, counts[SAME]),
                  *((what, sum(c.what == what for found in changes.values() for c in found))
                    for what in (TURNED, ONLY.format("A"), ONLY.format("B")))],
        "reasons": _reasons(changes),
        "settings": _settings(*(store.read_json("run.json", RunJson) or {} for store in stores)),
    }  # fmt: skip
    title = f"{heads[0]['folder']} and {heads[1]['folder']}"
    about = f"The {len(ids):,} inputs that both runs have, A above B."
    write_page(file, render(title, heads, data, [], pictures, gallery=about, changes=told))
    beside = file.with_name(pictures.folder) if pictures.folder else None
    return Written(file, beside, len(ids), max(gallery.total for gallery in galleries))


def _strips(stores: list[Store], galleries: list[Gallery]) -> Iterator[tuple[int, str, bytes]]:
    for number, (store, gallery) in enumerate(zip(stores, galleries, strict=True)):
        for each, strip in zip(gallery.inputs, strips(store, gallery), strict=True):
            yield number, each.id, strip


def _refuse(stores: list[Store], galleries: list[Gallery]) -> None:
    a, b = galleries
    if a.cycle != b.cycle:
        cycles = f"{stores[0].root} is of {a.cycle.name} and {stores[1].root} of {b.cycle.name}"
        raise ReportError(f"{cycles}: compare two runs of one cycle")
    for store, gallery in zip(stores, galleries, strict=True):
        if not gallery.finished:
            raise ReportError(f"{store.root} has no pairs yet: `cyclepref build RECIPE --out {store.root}` makes them")
    if not {each.id for each in a.inputs} & {each.id for each in b.inputs}:
        raise ReportError(f"{stores[0].root} and {stores[1].root} share no input: compare two runs of the same inputs")


def _changes(a: Gallery, b: Gallery) -> tuple[dict[str, list[Change]], Counter[str]]:
    """Of each input the pairs whose label differs, and how many pairs there are and stay."""
    others = {each.id: each for each in b.inputs}
    found: dict[str, list[Change]] = {}
    counts: Counter[str] = Counter()
    for first in a.inputs:
        second = others[first.id]
        ours, theirs = _labels(first), _labels(second)
        counts.update({"A": len(ours), "B": len(theirs)})
        counts[SAME] += sum(theirs.get(key) == label for key, label in ours.items())
        if changed := list(_changed((a, first, ours), (b, second, theirs))):
            found[first.id] = changed
    return found, counts


def _labels(each: Shown) -> dict[frozenset[str], str]:
    """The two outputs of a pair -> the chosen one."""
    keys = [_key(candidate) for candidate in each.candidates]
    return {frozenset((keys[pair.chosen], keys[pair.rejected])): keys[pair.chosen] for pair in each.pairs}


def _key(candidate: Candidate) -> str:
    """What makes two candidates the same in both runs: the output, whichever model made it."""
    return candidate.content_id if candidate.text is None else same_text(candidate.text)


Side = tuple[Gallery, Shown, dict[frozenset[str], str]]


def _changed(first: Side, second: Side) -> Iterator[Change]:
    """What differs between two runs of one input."""
    for key in sorted(first[2].keys() | second[2].keys(), key=sorted):
        ours, theirs = first[2].get(key), second[2].get(key)
        if ours == theirs:
            continue
        if ours and theirs:
            why = _moved(first[0], second[0])
            what, said = TURNED, f"A chooses {_named(first[1], ours)}, B {_named(second[1], theirs)}"
        else:
            having, lacking, name = (first, second, "A") if ours else (second, first, "B")
            why = _lacks(lacking, key, "B" if ours else "A")
            what = ONLY.format(name)
            said = f"only {name} prefers {_named(having[1], ours or theirs or '')}"
        yield Change(what, why, f"{said}: {why}. {_gaps(first, second, key)}")


def _moved(a: Gallery, b: Gallery) -> str:
    """Why scores of the same two outputs are the other way round."""
    if a.decides != b.decides:
        return f"A is decided by {a.decides} and B by {b.decides}"
    return "their scores moved: another backward model, other seeds or another metric's settings"


def _lacks(side: Side, key: frozenset[str], name: str) -> str:
    """Why a run has no pair of two outputs."""
    gallery, each, _ = side
    mine = [candidate for candidate in each.candidates if _key(candidate) in key]
    if len(mine) < 2:
        return f"{name} does not have both outputs"
    values = [candidate.scores.get(gallery.decides) for candidate in mine]
    if None in values:
        return f"one of them has no score in {name}"
    gap, rule = abs(values[0] - values[1]), gallery.rule
    # Compared in the unit of pairing, which rounds (builder/pairing/pair.py).
    if round(gap / UNIT) < round(rule.min_margin / UNIT) or round(gap / UNIT) == 0:
        return f"too close in {name}, where min_margin is {rule.min_margin:g}"
    best = max(values) if gallery.higher[gallery.decides] else min(values)
    poor = rule.poor_chosen
    if poor is not None and (best < poor if gallery.higher[gallery.decides] else best > poor):
        return f"the better one is poor in {name}, where poor_chosen is {poor:g}"
    if (rule.within == "model" or rule.balance is not None) and set(mine[0].models).isdisjoint(mine[1].models):
        return f"of different models, of which within and balance leave some out in {name}"
    return f"within the noise of the backward model in {name}"


def _named(each: Shown, key: str) -> str:
    """An output, by the models that made it."""
    mine = next((candidate for candidate in each.candidates if _key(candidate) == key), None)
    return "an output" if mine is None else shown(", ".join(mine.models), VALUE_LIMIT)


def _gaps(first: Side, second: Side, key: frozenset[str]) -> str:
    """Both runs' scores of two outputs, in a sentence."""
    parts = []
    for name, (gallery, each, _) in (("A", first), ("B", second)):
        mine = sorted((candidate for candidate in each.candidates if _key(candidate) in key), key=_key)
        values = [candidate.scores.get(gallery.decides) for candidate in mine]
        if len(mine) == 2 and None not in values:
            seeds, noise = noise_of(*mine)
            more = "" if noise is None else f", noise {noise:.3g} over {seeds} seeds"
            parts.append(f"{name} {values[0]:.4g} and {values[1]:.4g}{more}")
    return f"{_metrics(first[0], second[0])}: {'; '.join(parts)}." if parts else ""


def _metrics(a: Gallery, b: Gallery) -> str:
    return a.decides if a.decides == b.decides else f"{a.decides} and {b.decides}"


def _reasons(changes: dict[str, list[Change]]) -> list[tuple[str, str, int]]:
    counts = Counter((change.what, change.why) for found in changes.values() for change in found)
    return [(what, why, count) for (what, why), count in counts.most_common()]


def _settings(a: dict[str, Any], b: dict[str, Any]) -> list[tuple[str, str, str]]:
    """What the recipes and models of two runs say differently."""
    ours, theirs = (dict(_flat({name: (run.get("recipe") or {}).get(name) for name in SETTINGS})) for run in (a, b))
    for found, run in ((ours, a), (theirs, b)):
        found["cyclepref"] = run.get("cyclepref")
        found |= {f"fingerprint of {name}": of.get("fingerprint") for name, of in (run.get("models") or {}).items()}
    differing = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
    return [(name, *(shown(str(side.get(name, "–")), VALUE_LIMIT) for side in (ours, theirs))) for name in differing]


def _flat(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict | list):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for name, each in items:
            yield from _flat(each, f"{path}.{name}" if path else str(name))
    elif value is not None:
        yield path, value
