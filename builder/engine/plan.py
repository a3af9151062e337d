"""Who lives with whom on a host, and where a host has its place. Pure: it plans for clusters that we do not have."""

import copy
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.specs import Spec

SHARED_BELOW = 0.5


class PlanError(CyclePrefError, ValueError):
    """Work that a cluster of this size cannot do."""


@dataclass(frozen=True)
class Node:
    """One machine. A host lies on one node, and on one GPU if it needs less than a whole one."""

    cpus: int
    gpus: float


@dataclass(frozen=True)
class Cluster:
    """What there is to run on: CPU cores and GPUs in all, and by node (one node of everything, if not said)."""

    cpus: int
    gpus: float
    nodes: tuple[Node, ...] = ()

    def __post_init__(self) -> None:
        if not self.nodes:
            object.__setattr__(self, "nodes", (Node(self.cpus, self.gpus),))

    @classmethod
    def of(cls, nodes: Iterable[Node]) -> "Cluster":
        """The cluster of these nodes."""
        nodes = tuple(nodes)
        return cls(max(1, sum(node.cpus for node in nodes)), sum(node.gpus for node in nodes), nodes)


@dataclass(frozen=True)
class Crew:
    """The models that live together on one host, and what that host needs; `most` hosts of it at a time, if said."""

    models: tuple[str, ...]
    num_cpus: int
    num_gpus: float
    most: int | None = None


class Place(NamedTuple):
    """What a host takes: cores of a node, and a share of each of some of its GPUs."""

    node: int
    cpus: int
    gpus: tuple[int, ...]
    share: float


def crews(specs: Mapping[str, Spec], cluster: Cluster) -> list[Crew]:
    """Who lives with whom. A big model has a host to itself. Small ones, of whatever stage, share one as long as they
    fit on one GPU together, since a process that has imported torch, transformers and diffusers costs more than their
    weights; without GPUs, all of them share. The models of one server share a host that never gets a second, since
    what it asks at a time is all that the server is to get.

    Raises:
        PlanError: if one model needs more GPUs than the largest node has.
    """
    local = {name: spec for name, spec in sorted(specs.items()) if spec.server is None}
    small = {name: spec for name, spec in local.items() if spec.num_gpus < SHARED_BELOW}
    found = [Crew((name,), spec.num_cpus, spec.num_gpus) for name, spec in local.items() if name not in small]
    for server in sorted({spec.server for spec in specs.values() if spec.server is not None}):
        served = sorted(name for name, spec in specs.items() if spec.server == server)
        found.append(Crew(tuple(served), max(specs[name].num_cpus for name in served), 0, most=1))
    for together in _sharing({name: spec.num_gpus if cluster.gpus else 0 for name, spec in small.items()}):
        cpus = max(small[name].num_cpus for name in together)
        gpus = round(sum(small[name].num_gpus for name in together), 6) if cluster.gpus else 0
        found.append(Crew(tuple(together), cpus, gpus))
    return [_fit(crew, cluster) for crew in found]


def _sharing(needed: Mapping[str, float]) -> list[list[str]]:
    """Names in groups that need one GPU together at most: each joins the first group that has room for it."""
    groups: list[list[str]] = []
    for name, gpus in needed.items():
        for group in groups:
            if sum(needed[other] for other in group) + gpus <= 1 + 1e-9:
                group.append(name)
                break
        else:
            groups.append([name])
    return groups


class Room:
    """What is still free on a cluster, by node and GPU: a host goes where it fits most tightly."""

    def __init__(self, cluster: Cluster):
        # The smallest nodes first, so that what needs no GPU leaves the cores of GPU nodes to what does.
        nodes = sorted(cluster.nodes, key=lambda node: (node.gpus, node.cpus))
        self.cpus = [node.cpus for node in nodes]
        self.gpus = [[min(1.0, node.gpus - at) for at in range(math.ceil(node.gpus))] for node in nodes]

        self.free = [sum(gpus) for gpus in self.gpus]

    def take(self, needed: Crew, also: "Room | None" = None) -> Place | None:
        """Take a place for one host, `also` from another picture of the same cluster; None, with nothing taken, if no
        node has room for it."""
        for node in range(len(self.cpus)):
            if place := self.place_on(node, needed):
                other = also.place_on(node, needed) if also else None
                if also and not other:
                    continue
                if also and other:
                    also.give(other, -1)
                self.give(place, -1)
                return place
        return None

    def place_on(self, node: int, needed: Crew) -> Place | None:
        """Where on a node a host would go, which takes nothing; None if it has no room."""
        if self.cpus[node] < needed.num_cpus or self.free[node] < needed.num_gpus - 1e-9:
            return None
        chosen = _gpus_for(needed.num_gpus, self.gpus[node])
        return None if chosen is None else Place(node, needed.num_cpus, tuple(chosen), min(1.0, needed.num_gpus))

    def give(self, place: Place, sign: int = 1) -> None:
        """Give a place back (or take it, with `sign` -1)."""
        self.cpus[place.node] += sign * place.cpus
        self.free[place.node] += sign * place.share * len(place.gpus)
        for gpu in place.gpus:
            self.gpus[place.node][gpu] += sign * place.share

    def copy(self) -> "Room":
        """The same room, to try something in."""
        other = copy.copy(self)
        other.cpus, other.free, other.gpus = self.cpus[:], self.free[:], [gpus[:] for gpus in self.gpus]
        return other


def _gpus_for(needed: float, free: list[float]) -> list[int] | None:
    """Which of a node's GPUs a host gets: whole ones, or the fullest that has its fraction left (Ray's own rule:
    fractions of several GPUs cannot be joined). None if the node has not enough."""
    share = min(1.0, needed)
    fitting = [gpu for gpu in sorted(range(len(free)), key=lambda gpu: free[gpu]) if free[gpu] >= share - 1e-9]
    count = math.ceil(needed)
    return fitting[:count] if len(fitting) >= count else None


def _fit(crew: Crew, cluster: Cluster) -> Crew:
    """The crew on this cluster: without GPUs it runs on its CPU cores, and on no more than a node of its size has."""
    num_gpus = crew.num_gpus if cluster.gpus else 0
    able = [node for node in cluster.nodes if node.gpus >= num_gpus - 1e-9]
    if not able:
        nodes = f"{len(cluster.nodes)} node{'s' if len(cluster.nodes) > 1 else ''}"
        raise PlanError(
            f"{', '.join(crew.models)} needs {num_gpus:g} GPUs on one node for one host, and the largest node has "
            f"{max(node.gpus for node in cluster.nodes):g} (the cluster has {cluster.gpus:g} on {nodes}): "
            "add nodes with more GPUs, or lower num_gpus in its settings"
        )
    return replace(crew, num_cpus=min(crew.num_cpus, max(node.cpus for node in able)), num_gpus=num_gpus)
