"""The datasets of a demo with other pairs: labelled by the truth, or without the candidates of some models."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.dataset.edition import release_bare
from cyclepref.builder.dataset.views import Views, WritePlan
from cyclepref.builder.run.store import Store, first_of_each
from cyclepref.builder.study.method import Finished

SIDES = ("chosen", "rejected")
_COLUMNS = ("id", "model", "models", "score")


def true_pairs(run: Finished) -> pa.Table:
    """The pairs of a run with the truly better candidate as the chosen one; pairs with equal truth are left out.

    Scores and margins are true alignment, in [0, 1].
    """
    rows = []
    for row in run.pairs.to_pylist():
        gap = run.truth[row["chosen_id"]] - run.truth[row["rejected_id"]]
        if gap == 0:
            continue
        if gap < 0:
            for name in _COLUMNS:
                row[f"chosen_{name}"], row[f"rejected_{name}"] = row[f"rejected_{name}"], row[f"chosen_{name}"]
        for side in SIDES:
            row[f"{side}_score"] = run.truth[row[f"{side}_id"]]
        rows.append(row | {"margin": abs(gap), "metric": "truth"})
    return pa.Table.from_pylist(rows, schema=run.pairs.schema)


def of_family(pairs: pa.Table, family: str, sides: int) -> pa.Table:
    """The pairs in which exactly `sides` candidates (0, 1 or 2) are by models whose names begin with `family`."""
    mine = [pc.starts_with(pairs[f"{side}_model"], family).cast(pa.int8()) for side in SIDES]
    return pairs.filter(pc.equal(pc.add(*mine), sides))


def write_pairs(run: Finished, pairs: pa.Table, out: Path) -> Path:
    """Write the dataset of a run with other pairs into the folder `out`; returns the dataset's folder.

    Its inputs, candidates and splits are the run's; `out` has a link to the run's store.
    """
    out.mkdir(parents=True, exist_ok=True)
    link = out / "store"
    if not link.exists():
        link.symlink_to((Path(run.store.root) / "store").resolve(), target_is_directory=True)
    store = Store(out)
    # A scene that two builds of this directory have listed has two rows.
    names = first_of_each(store.rows("sources", ["input_id", "source"]).select(["input_id", "source"]), "input_id")
    candidates = run.store.read_view("candidates").filter(pc.field("status") == "ok")
    scores = run.store.read_view("scores")
    metric = run.pairs["metric"][0].as_py() if run.pairs.num_rows else run.recipe.metric.label
    views = Views.of_tables(run.recipe.shape, names, candidates, scores, pairs, metric)
    plan = WritePlan(run.recipe.splits, sorted(choice.label for choice in run.recipe.forward))
    release_bare(store, views, plan, "mit", f"{run.recipe.name}, other pairs")
    return out / "dataset"
