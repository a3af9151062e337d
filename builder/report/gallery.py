"""What a page shows of a run's inputs: candidates, reconstructions, scores, pairs and failures of each, read from the
run directory alone, whether its build has finished or not."""

import json
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.dataset.views import split_of
from cyclepref.builder.pairing.pair import paired_errors, same_text
from cyclepref.builder.run.failures import failures
from cyclepref.builder.run.folder import StoreError
from cyclepref.builder.run.groups import read_groups
from cyclepref.builder.run.record import PROGRESS_FILE, wanted_of
from cyclepref.builder.run.store import Store, flat
from cyclepref.schemas.cycle import CYCLES, Cycle
from cyclepref.schemas.ids import digest
from cyclepref.schemas.recipe import MIX, Pairing, Splits
from cyclepref.schemas.run_files import ProgressFile, RunJson

# (part, row) of a content in `inputs` or `generations`.
Place = tuple[str, int]
# More inputs than this are no page that anyone looks through; they are drawn by the hash of their ids.
MOST_INPUTS = 10_000


@dataclass
class Candidate:
    """A distinct output of an input. `scores` and `spreads` are by metric, None where it has none; `samples` has the
    deciding metric's value by the seed of the reconstruction. `back` is the first reconstruction: its place and text.
    """

    id: str
    content_id: str
    models: list[str]
    index: int
    text: str | None
    place: Place | None
    truncated: bool
    scores: dict[str, float] = field(default_factory=dict)
    samples: dict[int | None, float] = field(default_factory=dict)
    back: tuple[Place, str | None] | None = None
    truth: float | None = None


@dataclass
class Pair:
    """Places of the chosen and the rejected candidate, how far apart they are, over how many shared seeds, and the
    paired standard error over these (None below two)."""

    id: str
    chosen: int
    rejected: int
    margin: float
    seeds: int
    noise: float | None


@dataclass
class Shown:
    """One input with all that is its own. `failures` are (stage, model, reason)."""

    id: str
    name: str
    category: str
    split: str
    text: str | None
    place: Place
    candidates: list[Candidate] = field(default_factory=list)
    pairs: list[Pair] = field(default_factory=list)
    failures: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class Gallery:
    """The inputs that are shown, of `total`. `decides` is the metric that made the pairs, `higher` says of each metric
    whether more is better. `finished`: the pairs are those of a build that came to its end."""

    cycle: Cycle
    models: list[str]
    metrics: list[str]
    decides: str
    higher: dict[str, bool]
    rule: Pairing
    inputs: list[Shown]
    total: int
    finished: bool


def read_gallery(store: Store, most: int = MOST_INPUTS) -> Gallery:
    """What a run directory has to show.

    Raises:
        StoreError: if it has no inputs yet, or is damaged.
    """
    run = store.read_json("run.json", RunJson) or {}
    inputs = store.rows("inputs", ["input_id", "modality", "text"])
    if not inputs.num_rows:
        raise StoreError(f"{store.root} has no inputs to show yet: `cyclepref build RECIPE --out {store.root}`")
    finished = all(store.exists(f"{view}/part-0.parquet") for view in ("candidates", "scores", "pairs"))
    asked = _asked(store)
    candidates = store.read_view("candidates") if finished else _drafted(store, inputs, asked)
    ids = sorted(set(candidates["input_id"].to_pylist()) or set(inputs["input_id"].to_pylist()))
    chosen = set(sorted(ids, key=lambda id_: digest("shown", id_))[:most])
    mine = _among(candidates, "input_id", chosen)
    back = _reconstructions(store, mine, asked)
    values = _among(_wanted(store.rows("similarities"), "similarity_id", asked.get("scores")), "input_id", chosen)
    scores = _among(store.read_view("scores"), "input_id", chosen) if finished else None
    pairs = _among(store.read_view("pairs"), "input_id", chosen) if finished else None
    recipe = run.get("recipe") or {}
    decides = _deciding(pairs, recipe, scores, values)
    shown = _inputs(store, _among(inputs, "input_id", chosen), recipe)
    places = _places(store, "generations", "generation_id", mine)
    _add_candidates(shown, mine, places, back, values, scores, decides)
    if pairs is not None:
        _add_pairs(shown, pairs)
    _add_failures(store, shown)
    metrics = sorted({metric for each in shown.values() for c in each.candidates for metric in c.scores})
    models = sorted({model for each in shown.values() for c in each.candidates for model in c.models})
    cycle = CYCLES[recipe.get("cycle") or _cycle_of(inputs)]
    rule = Pairing.model_validate(recipe.get("pairs") or {"min_margin": 0})
    higher = directions(store, run, metrics)
    ordered = [shown[id_] for id_ in sorted(shown)]
    return Gallery(cycle, models, metrics, decides, higher, rule, ordered, len(ids), finished)


def directions(store: Store, run: dict[str, Any], metrics: Iterable[str]) -> dict[str, bool]:
    """Of each metric whether a higher score is better, as its run says.

    Raises:
        StoreError: if it does not.
    """
    said = {MIX: {"higher_is_better": True}} | (run.get("models") or {})
    for row in store.rows("models").to_pylist():
        said.setdefault(row["name"], json.loads(row["identity"]))
    missing = [metric for metric in metrics if "higher_is_better" not in said.get(metric, {})]
    if missing:
        raise StoreError(f"{store.root} does not say whether more is better of {', '.join(missing)}: build it again")
    return {metric: bool(said[metric]["higher_is_better"]) for metric in metrics}


def category_of(name: str) -> str:
    """What an input is counted under: the first folder of its name, where it lies in one."""
    first, slash, _ = name.strip("/").partition("/")
    return first if slash else ""


def _asked(store: Store) -> dict[str, pa.Array]:
    """The ids that the latest build asked of each stage; a run of an earlier version may not say."""
    notes = store.read_json(PROGRESS_FILE, ProgressFile) or {"stages": []}
    asked: dict[str, list[pa.Array]] = defaultdict(list)
    for note in notes["stages"]:
        asked[note["stage"]].append(flat(wanted_of(store, note)["id"].cast(pa.string())))
    return {stage: pa.concat_arrays(ids) for stage, ids in asked.items()}


def _wanted(rows: pa.Table, key: str, asked: pa.Array | None) -> pa.Table:
    return rows if asked is None else rows.filter(pc.is_in(rows[key], value_set=asked))


def _among(rows: pa.Table, column: str, values: set[str]) -> pa.Table:
    return rows.filter(pc.is_in(rows[column], value_set=pa.array(sorted(values), pa.string())))


def _drafted(store: Store, inputs: pa.Table, asked: dict[str, pa.Array]) -> pa.Table:
    """Candidates as the view will have them, of what a build has made so far."""
    made = store.rows("generations", ["generation_id", "source_id", "model", "content_id", "text", "truncated"])
    made = _wanted(made, "generation_id", asked.get("candidates"))
    made = made.filter(pc.is_in(made["source_id"], value_set=flat(inputs["input_id"]))).sort_by("generation_id")
    count: dict[tuple[str, str], int] = defaultdict(int)
    rows = []
    for row in made.to_pylist():
        index = count[row["source_id"], row["model"]]
        count[row["source_id"], row["model"]] += 1
        rows.append({**row, "input_id": row["source_id"], "sample_index": index, "status": "ok"})
    schema = pa.schema(
        [(name, pa.string()) for name in ("generation_id", "input_id", "model", "content_id", "text", "status")]
        + [("sample_index", pa.int64()), ("truncated", pa.bool_())]
    )
    return pa.Table.from_pylist(rows, schema=schema)


def _reconstructions(store: Store, candidates: pa.Table, asked: dict[str, pa.Array]) -> dict[str, list[dict]]:
    """What was made of each candidate's content, in order of seed."""
    columns = ["generation_id", "source_id", "seed", "content_id", "text"]
    made = _wanted(store.rows("generations", columns), "generation_id", asked.get("reconstructions"))
    made = _among(made, "source_id", set(candidates["content_id"].to_pylist()) - {None})
    found: dict[str, list[dict]] = defaultdict(list)
    for row in made.sort_by([("seed", "ascending"), ("generation_id", "ascending")]).to_pylist():
        found[row["source_id"]].append(row)
    return found


def _deciding(pairs: pa.Table | None, recipe: dict, scores: pa.Table | None, values: pa.Table) -> str:
    """The metric that decides pairs: of the pairs, of the recipe, or the first one that has scores."""
    if pairs is not None and pairs.num_rows:
        return pairs["metric"][0].as_py()
    rule = recipe.get("pairs") or {}
    if rule.get("mix"):
        return MIX
    listed = [recipe["metric"]] if recipe.get("metric") else recipe.get("metrics") or []
    names = [rule.get("by"), *(each.get("name") or each["metric"] for each in listed)]
    known = sorted(set((scores if scores is not None else values)["metric"].to_pylist()))
    return next((name for name in [*names, *known] if name), "")


def _cycle_of(inputs: pa.Table) -> str:
    return "i2t2i" if inputs["modality"][0].as_py() == "image" else "t2i2t"


def _inputs(store: Store, inputs: pa.Table, recipe: dict) -> dict[str, Shown]:
    sources = store.rows("sources", ["source", "input_id"])
    names = dict(zip(sources["input_id"].to_pylist(), sources["source"].to_pylist(), strict=True))
    groups = {row["input_id"]: row["group"] for row in read_groups(store)}
    splits = Splits.model_validate(recipe["splits"]) if recipe.get("splits") else None
    shown = {}
    for row in inputs.to_pylist():
        id_ = row["input_id"]
        name = names.get(id_) or ""
        split = split_of(groups.get(id_, id_), splits) if splits else ""
        place = (row["part"], row["row"])
        shown[id_] = Shown(id_, name, category_of(name), split, row["text"], place)
    return shown


def _places(store: Store, table: str, key: str, rows: pa.Table) -> dict[str, Place]:
    found = _among(store.rows(table, [key]), key, set(rows[key].to_pylist()))
    return {row[key]: (row["part"], row["row"]) for row in found.to_pylist()}


def _add_candidates(
    shown: dict[str, Shown],
    candidates: pa.Table,
    places: dict[str, Place],
    back: dict[str, list[dict]],
    values: pa.Table,
    scores: pa.Table | None,
    decides: str,
) -> None:
    """Candidates of each input, equal outputs as one, as pairing sees them (builder/pairing/pair.py)."""
    compared = _compared(values)
    scored: dict[str, dict[str, float]] = defaultdict(dict)
    for row in () if scores is None else scores.select(["generation_id", "metric", "value"]).to_pylist():
        scored[row["generation_id"]][row["metric"]] = row["value"]
    groups: dict[tuple[str, str], list[dict]] = defaultdict(list)
    for row in candidates.to_pylist():
        if row["status"] == "ok":
            same = row["content_id"] if row["text"] is None else same_text(row["text"])
            groups[row["input_id"], same].append(row)
    for (input_id, _), rows in groups.items():
        rows.sort(key=lambda row: (row["generation_id"] not in scored, row["generation_id"]))
        first = rows[0]
        id_, content = first["generation_id"], first["content_id"]
        models = sorted({row["model"] for row in rows})
        one = Candidate(
            id_, content, models, first["sample_index"], first["text"], places.get(id_), bool(first["truncated"])
        )
        made = [(row, compared.get((input_id, row["content_id"]), {})) for row in back.get(content, ())]
        # Of a content that two inputs share, only those that were compared with this one.
        mine = [each for each in made if each[1]] or made
        one.samples = {row["seed"]: found[decides] for row, found in mine if decides in found}
        one.scores = scored.get(id_) or _means([found for _, found in mine])
        if mine:
            row = mine[0][0]
            one.back = ((row["part"], row["row"]), row["text"])
        shown[input_id].candidates.append(one)
    for each in shown.values():
        each.candidates.sort(key=lambda c: c.id)


def _compared(values: pa.Table) -> dict[tuple[str, str], dict[str, float]]:
    """(input, reconstruction's content) -> metric -> similarity."""
    found: dict[tuple[str, str], dict[str, float]] = defaultdict(dict)
    columns = (values[name].to_pylist() for name in ("input_id", "content_id", "metric", "value"))
    for input_id, content, metric, value in zip(*columns, strict=True):
        found[input_id, content][metric] = value
    return found


def _means(found: list[dict[str, float]]) -> dict[str, float]:
    names = sorted({name for each in found for name in each})
    return {name: float(np.mean([each[name] for each in found if name in each])) for name in names}


def _add_pairs(shown: dict[str, Shown], pairs: pa.Table) -> None:
    for row in pairs.to_pylist():
        each = shown[row["input_id"]]
        at = {candidate.id: place for place, candidate in enumerate(each.candidates)}
        # A pair of an earlier version's view may name a candidate that another equal one stands for now.
        if row["chosen_id"] not in at or row["rejected_id"] not in at:
            continue
        chosen, rejected = at[row["chosen_id"]], at[row["rejected_id"]]
        seeds, noise = noise_of(each.candidates[chosen], each.candidates[rejected])
        each.pairs.append(Pair(row["pair_id"], chosen, rejected, row["margin"], seeds, noise))
    for each in shown.values():
        each.pairs.sort(key=lambda pair: (-pair.margin, pair.id))


def noise_of(first: Candidate, second: Candidate) -> tuple[int, float | None]:
    """Over how many seeds both were compared, and the paired standard error of their difference; None below two."""
    shared = sorted((seed for seed in first.samples if seed in second.samples), key=str)
    if len(shared) < 2:
        return len(shared), None
    a, b = (np.array([[each.samples[seed] for seed in shared]]) for each in (first, second))
    return len(shared), float(paired_errors(a, b)[0])


def _add_failures(store: Store, shown: dict[str, Shown]) -> None:
    if not store.exists(PROGRESS_FILE):
        return
    for row in failures(store):
        if row["input_id"] in shown:
            reason = f"{row['error']}: {row['message']}"
            shown[row["input_id"]].failures.append((row["stage"], row["model"], reason))
