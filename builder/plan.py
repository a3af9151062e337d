"""Models x rows x GPUs -> pools and waves. Pure: it plans for clusters that we do not have.

A pool is a set of equal actors on their own share of a GPU (or of CPU cores where there is no GPU). A big model
gets a pool of its own; models that need less than half a GPU share the actors of one pool, since a process that
has imported torch, transformers and diffusers costs more than their weights. A server's models share one actor
and never get a second, since the requests that it makes at a time are all that the server is to get. Pools that fit
on the cluster together form a wave.
"""

from dataclasses import dataclass, replace

from schemas.errors import CyclePrefError
from schemas.specs import Spec

SHARED_BELOW = 0.5


class PlanError(CyclePrefError, ValueError):
    """Work that a cluster of this size cannot do."""


@dataclass(frozen=True)
class Cluster:
    """What there is to run on."""

    cpus: int
    gpus: float


@dataclass(frozen=True)
class Pool:
    """`actors` equal actors, each with the same models and resources; `grows`: there may be more of them."""

    models: tuple[str, ...]
    actors: int
    num_cpus: int
    num_gpus: float
    grows: bool = True


def plan(specs: dict[str, Spec], rows: dict[str, int], cluster: Cluster) -> list[list[Pool]]:
    """Waves of pools that together serve every model with rows to do, the largest pools first.

    Raises:
        PlanError: if one model needs more than the whole cluster has.
    """
    groups = _groups({name: specs[name] for name, count in rows.items() if count > 0})
    waves: list[list[Pool]] = []
    open_wave: list[Pool] = []
    for group in sorted(groups, key=lambda pool: (-_share(pool, cluster), pool.models)):
        one = _fit(group, cluster)
        if open_wave and sum(_share(pool, cluster) for pool in [*open_wave, one]) > 1:
            waves.append(open_wave)
            open_wave = []
        open_wave = [*open_wave, one]
    return [_grow(wave, rows, cluster) for wave in [*waves, open_wave] if wave]


def _groups(specs: dict[str, Spec]) -> list[Pool]:
    """One pool of one actor for each big model, one for each server, and one for all small models."""
    local = {name: spec for name, spec in specs.items() if spec.server is None}
    small = {name: spec for name, spec in local.items() if spec.num_gpus < SHARED_BELOW}
    pools = [Pool((name,), 1, spec.num_cpus, spec.num_gpus) for name, spec in local.items() if name not in small]
    for server in sorted({spec.server for spec in specs.values() if spec.server is not None}):
        served = {name: spec for name, spec in specs.items() if spec.server == server}
        cpus = max(spec.num_cpus for spec in served.values())
        pools.append(Pool(tuple(sorted(served)), 1, cpus, 0, grows=False))
    if small:
        cpus = max(spec.num_cpus for spec in small.values())
        pools.append(Pool(tuple(sorted(small)), 1, cpus, min(1.0, sum(spec.num_gpus for spec in small.values()))))
    return pools


def _fit(pool: Pool, cluster: Cluster) -> Pool:
    """The pool on this cluster: without GPUs it runs on its CPU cores."""
    pool = replace(pool, num_cpus=min(pool.num_cpus, cluster.cpus), num_gpus=pool.num_gpus if cluster.gpus else 0)
    if pool.num_gpus > cluster.gpus:
        raise PlanError(
            f"{', '.join(pool.models)} needs {pool.num_gpus:g} GPUs for one actor and the cluster has "
            f"{cluster.gpus:g}: add GPU nodes or lower num_gpus in its settings"
        )
    return pool


def _share(pool: Pool, cluster: Cluster) -> float:
    """The part of the cluster that one actor of a pool takes."""
    return max(pool.num_gpus / cluster.gpus if cluster.gpus else 0, min(pool.num_cpus / cluster.cpus, 1))


def _grow(wave: list[Pool], rows: dict[str, int], cluster: Cluster) -> list[Pool]:
    """Hand the rest of the cluster out, one actor at a time, to the pool with the most rows per actor."""
    actors = {pool.models: 1 for pool in wave}
    load = {pool.models: sum(rows[name] for name in pool.models) for pool in wave}

    def used() -> float:
        return sum(actors[pool.models] * _share(pool, cluster) for pool in wave)

    growing = {pool.models: pool for pool in wave if pool.grows}
    while growing:
        busiest = max(growing, key=lambda models: (load[models] / actors[models], models))
        fits = used() + _share(growing[busiest], cluster) <= 1 + 1e-9
        if fits and actors[busiest] < load[busiest]:
            actors[busiest] += 1
        else:
            del growing[busiest]
    return [replace(pool, actors=actors[pool.models]) for pool in wave]
