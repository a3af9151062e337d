"""Several metrics -> one score in [0, 1], higher better, that decides pairs: the metrics' weighted mean.

What brings a metric to [0, 1] is known of the metric (its declared range) or of the input (ranks), never of the run:
statistics of the run would move every pair when inputs are added. Pure: no model, no files.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from cyclepref.builder.pairing.pair import Direction, distinct_outputs, same_output
from cyclepref.builder.pairing.scores import SAMPLE, cycle_scores, of_metric, score_view
from cyclepref.schemas import records
from cyclepref.schemas.cycle import Modality
from cyclepref.schemas.ids import fingerprint
from cyclepref.schemas.recipe import MIX, Pairing
from cyclepref.schemas.resolved import Resolved


@dataclass(frozen=True)
class Mix:
    """Metrics and their weights, which add up to 1; `scale` as in `cyclepref.schemas.recipe.Pairing`."""

    metrics: tuple[Resolved, ...]
    weights: tuple[float, ...]
    scale: str

    @property
    def fingerprint(self) -> str:
        """Id of everything that changes the mix: metrics, weights, scale and the metrics' ranges."""
        parts = {
            metric.fingerprint: [weight, metric.spec.low, metric.spec.high]
            for metric, weight in zip(self.metrics, self.weights, strict=True)
        }
        return fingerprint({"mix": parts, "scale": self.scale})


def mix_of(rule: Pairing, metrics: list[Resolved]) -> Mix | None:
    """The mix that a recipe asks for, or None where one metric decides."""
    if rule.mix is None:
        return None
    by_name = {metric.name: metric for metric in metrics}
    names = sorted(rule.mix)
    return Mix(tuple(by_name[name] for name in names), tuple(rule.mix[name] for name in names), str(rule.scale))


def add_mix(
    mix: Mix, samples: pa.Table, scored: pa.Table, candidates: pa.Table, modality: Modality
) -> tuple[pa.Table, pa.Table]:
    """Samples and Score view with the mix's rows added. A candidate that one of the metrics could not score has none.

    By constants every reconstruction is mixed, and the score is their mean. By rank the metrics' mean cycle_scores are.
    """
    if mix.scale == "constants":
        mixed = mix_by_constants(mix, samples)
        added = cycle_scores(mixed)
        samples = pa.concat_tables([samples, mixed])
    else:
        added = mix_by_rank(mix, scored, candidates, modality)
    return samples, score_view(pa.concat_tables([scored, added]))


def mix_by_constants(mix: Mix, samples: pa.Table) -> pa.Table:
    """The mix of each reconstruction that all of its metrics scored, as rows of SAMPLE. What a metric says of a
    candidate itself holds with each of its reconstructions; with nothing but such metrics the mix is sample 0."""
    keys = ("generation_id", "input_id", "sample_index")
    found: dict[str, dict[tuple, float]] = {}
    for metric in mix.metrics:
        direction, spec = direction_of(metric), metric.spec
        rows = zip(*_lists(of_metric(samples, metric.name), *keys, "value"), strict=True)
        found[metric.name] = {tuple(key): direction.place(value, spec.low, spec.high) for *key, value in rows}
    back = [metric.name for metric in mix.metrics if metric.spec.compares == "reconstruction"]
    everywhere = dict.fromkeys(key for name in back or found for key in found[name])
    rows = []
    for key in everywhere:
        at = [found[m.name].get(key if m.name in back else (*key[:2], 0)) for m in mix.metrics]
        if None not in at:
            rows.append((*key, MIX, mix.fingerprint, float(np.dot(mix.weights, at))))
    return pa.Table.from_pylist([dict(zip(SAMPLE.names, row, strict=True)) for row in rows], schema=SAMPLE)


def mix_by_rank(mix: Mix, scored: pa.Table, candidates: pa.Table, modality: Modality) -> pa.Table:
    """The weighted mean of each candidate's ranks, as rows of the Score view."""
    found = [
        {row["generation_id"]: row for row in of_metric(scored, metric.name).to_pylist()} for metric in mix.metrics
    ]
    everywhere = set.intersection(*(set(rows) for rows in found))
    wanted = candidates.filter(
        pa.array([id_ in everywhere for id_ in candidates["generation_id"].to_pylist()], pa.bool_())
    )
    total = dict.fromkeys(wanted["generation_id"].to_pylist(), 0.0)
    for metric, weight, rows in zip(mix.metrics, mix.weights, found, strict=True):
        values = [rows[id_]["value"] for id_ in wanted["generation_id"].to_pylist()]
        ranks = rank(wanted.append_column("value", pa.array(values, pa.float64())), modality, direction_of(metric))
        for id_, place in ranks.items():
            total[id_] += weight * place
    print_ = mix.fingerprint
    rows = [
        {
            "generation_id": id_, "input_id": input_, "metric": MIX, "fingerprint": print_, "value": total[id_],
            "spread": None, "n": min(rows[id_]["n"] for rows in found),
        }
        for id_, input_ in zip(*_lists(wanted, "generation_id", "input_id"), strict=True)
    ]  # fmt: skip
    return score_view(pa.Table.from_pylist(rows, schema=records.SCORE))


def rank(scored: pa.Table, modality: Modality, direction: Direction) -> dict[str, float]:
    """The share in [0, 1] of the other distinct outputs of its input that each candidate beats, by generation_id.

    `scored` as for `cyclepref.builder.pairing.pair.distinct_outputs`. Scores equal to 1e-6 count half; alone, a
    candidate gets 0.5.
    """
    distinct = distinct_outputs(scored, modality)
    firsts = set(distinct["generation_id"].to_pylist())
    ids, inputs, values = _lists(scored, "generation_id", "input_id", "value")
    same = same_output(scored, modality).to_pylist()
    units = direction.oriented(np.array(values, dtype=np.float64)).tolist()
    rivals: dict[str, list[tuple[str, int]]] = {}
    for id_, input_, output, unit in zip(ids, inputs, same, units, strict=True):
        if id_ in firsts:
            rivals.setdefault(input_, []).append((output, unit))
    ranks = {}
    for id_, input_, output, unit in zip(ids, inputs, same, units, strict=True):
        others = [other for name, other in rivals[input_] if name != output]
        beaten = sum((unit > other) + 0.5 * (unit == other) for other in others)
        ranks[id_] = beaten / len(others) if others else 0.5
    return ranks


def direction_of(metric: Resolved) -> Direction:
    """A metric's direction, for cycle_scores by it alone."""
    return Direction(metric.name, metric.fingerprint, metric.spec.higher_is_better)


def _lists(rows: pa.Table, *names: str) -> list[list]:
    return [rows[name].to_pylist() for name in names]
