"""What an audit says: how people agree with each other, and how each scorer agrees with people, by margin."""

from collections import Counter, defaultdict
from itertools import combinations
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cyclepref.builder.report.gallery import directions
from cyclepref.builder.report.scorers import LENGTH, Part, parts_of
from cyclepref.builder.reward.evaluation.bootstrap import intervals
from cyclepref.builder.run.audit import RESULT_FILE, SKIP, TIE, Answer, read_answers, read_audited, verdicts
from cyclepref.builder.run.store import Store
from cyclepref.schemas.run_files import RunJson

RESAMPLES = 1_000


def result(store: Store) -> dict[str, Any]:
    """What the answers so far say, written to audit.json:

    - `pairs` asked about, `answered` by somebody, `annotators` (name -> answers, ties, skips)
    - `people`: `alpha`, Krippendorff's for nominal data, with its 95% interval, over pairs that two answered, and
      `kappa`, Cohen's, for each two annotators with the pairs that both answered; null where nobody shares a pair
    - `scorers`: for each metric in the run, and for length, the share of the pairs in which people prefer one candidate
      and the scorer prefers the same one (its ties count half), with its 95% interval by input, and `by_margin`

    Raises:
        StoreError: if the run or its audit is damaged.
    """
    audited, answers = read_audited(store), read_answers(store)
    said = verdicts(audited, answers)
    clear = {id_: way for id_, way in said.items() if way}
    found = {
        "run": store.root.rsplit("/", 1)[-1],
        "pairs": audited.num_rows,
        "answered": len(said),
        "clear": len(clear),
        "annotators": _annotators(answers),
        "people": {"alpha": _alpha(audited, answers), "kappa": _kappas(audited, answers)},
        "scorers": _scorers(store, audited, clear),
    }
    store.write_json(RESULT_FILE, found)
    return found


def _annotators(answers: list[Answer]) -> dict[str, dict[str, int]]:
    counts = Counter((answer.annotator, answer.answer) for answer in answers)
    names = sorted({name for name, _ in counts})
    return {
        name: {"answers": sum(n for (who, _), n in counts.items() if who == name),
               "ties": counts[name, TIE], "skips": counts[name, SKIP]}
        for name in names
    }  # fmt: skip


def _labels(audited: pa.Table, answers: list[Answer]) -> dict[str, dict[str, int]]:
    """Annotator -> pair -> 1 for the chosen candidate, -1 for the rejected one, 0 for a tie."""
    chosen = dict(zip(audited["audit_id"].to_pylist(), audited["chosen_id"].to_pylist(), strict=True))
    found: dict[str, dict[str, int]] = defaultdict(dict)
    for answer in answers:
        if answer.answer != SKIP and answer.audit_id in chosen:
            way = 0 if answer.better is None else 1 if answer.better == chosen[answer.audit_id] else -1
            found[answer.annotator][answer.audit_id] = way
    return found


def _alpha(audited: pa.Table, answers: list[Answer]) -> dict[str, Any] | None:
    import evalica
    import pandas as pd

    labels = _labels(audited, answers)
    counts = Counter(id_ for mine in labels.values() for id_ in mine)
    shared = sorted(id_ for id_, count in counts.items() if count > 1)
    if not shared:
        return None
    data = pd.DataFrame([[float(mine.get(id_, np.nan)) for id_ in shared] for mine in labels.values()])
    # With one label alone there is nothing that chance could have got wrong.
    if len(set(data.stack())) < 2:
        return {"alpha": None, "low": None, "high": None, "pairs": len(shared)}
    found = evalica.alpha_bootstrap(data, "nominal", n_resamples=RESAMPLES, random_state=0)
    return {"alpha": float(found.alpha), "low": float(found.low), "high": float(found.high), "pairs": len(shared)}


def _kappas(audited: pa.Table, answers: list[Answer]) -> list[dict[str, Any]]:
    from sklearn.metrics import cohen_kappa_score

    rows = []
    for (a, first), (b, second) in combinations(sorted(_labels(audited, answers).items()), 2):
        shared = sorted(first.keys() & second.keys())
        if shared:
            ours = [[of[id_] for id_ in shared] for of in (first, second)]
            known = len({label for side in ours for label in side}) > 1
            kappa = float(cohen_kappa_score(*ours)) if known else None
            rows.append({"annotators": [a, b], "kappa": kappa, "pairs": len(shared)})
    return rows


def _scorers(store: Store, audited: pa.Table, clear: dict[str, int]) -> dict[str, Any]:
    rows = [row for row in audited.to_pylist() if row["audit_id"] in clear]
    if not rows:
        return {}
    owner = np.unique([row["input_id"] for row in rows], return_inverse=True)[1]
    margin = np.array([row["margin"] for row in rows])
    way = np.array([clear[row["audit_id"]] for row in rows])
    found = {}
    for name, scores in _scores(store, rows).items():
        gaps = np.array([scores.get(r["chosen_id"], np.nan) - scores.get(r["rejected_id"], np.nan) for r in rows])
        known = ~np.isnan(gaps)
        if known.any():
            hit = np.where(gaps[known] == 0, 0.5, (np.sign(gaps[known]) == way[known]).astype(float))
            found[name] = _share(margin[known], owner[known], hit)
    return found


def _share(margin: np.ndarray, owner: np.ndarray, hit: np.ndarray) -> dict[str, Any]:
    low, high = intervals({"hit": hit}, owner)["hit"]
    parts = [_plain(part) for part in parts_of(margin, owner, hit)]
    return {"share": float(hit.mean()), "low": low, "high": high, "pairs": len(hit), "by_margin": parts}


def _plain(part: Part) -> dict[str, Any]:
    low, high = part.interval
    row = {"from": part.low, "to": part.high, "share": part.share, "low": low, "high": high}
    return row | {"pairs": part.pairs}


def _scores(store: Store, rows: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Scorer -> candidate -> score, the higher the better."""
    ids = pa.array(sorted({row[side] for row in rows for side in ("chosen_id", "rejected_id")}))
    view = store.read_view("scores")
    view = view.filter(pc.is_in(view["generation_id"], value_set=ids))
    metrics = sorted(set(view["metric"].to_pylist()))
    higher = directions(store, store.read_json("run.json", RunJson) or {}, metrics)
    found: dict[str, dict[str, float]] = {metric: {} for metric in metrics}
    for row in view.to_pylist():
        found[row["metric"]][row["generation_id"]] = row["value"] * (1 if higher[row["metric"]] else -1)
    candidates = store.read_view("candidates")
    candidates = candidates.filter(pc.is_in(candidates["generation_id"], value_set=ids))
    words = {
        row["generation_id"]: float(len(row["text"].split()))
        for row in candidates.to_pylist() if row["text"] is not None
    }  # fmt: skip
    return found | ({LENGTH: words} if words else {})
