"""A whole build on paper: the engine's own schedule with a clock of its own, hosts that load and rows that take the
seconds that are assumed or were measured. Which models have hosts when, and how long all of it takes.

Rows are counted, not named: the reconstructions of the first inputs are ready when every forward model has done its
candidates of them, and scores when their reconstructions are. Large builds are reckoned in coarser blocks.
"""

import heapq
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count

from cyclepref.builder.costs.rates import Rate
from cyclepref.builder.engine.crew_state import Start, Work
from cyclepref.builder.engine.plan import Cluster, Crew, crews
from cyclepref.builder.engine.schedule import Schedule
from cyclepref.builder.planning.rows import Part

# Blocks of the engine that a simulation has at most; a larger build is reckoned in larger blocks.
MOST_BLOCKS = 10_000
BATCHES_PER_BLOCK = {"scores": 8, "safety": 8}
SLOTS = 2


@dataclass
class Pool:
    """The hosts of models that live together: GPUs of each, the most at a time, how often a model was loaded, and from
    when to when in seconds of the build there were any."""

    models: tuple[str, ...]
    num_gpus: float
    num_cpus: int
    hosts: int = 0
    loads: int = 0
    begins: float = math.inf
    ends: float = 0.0


@dataclass
class Waves:
    """What came of it: seconds in all and until each stage was done, and the pools in the order in which they began."""

    seconds: float = 0.0
    ended: dict[str, float] = field(default_factory=dict)
    pools: list[Pool] = field(default_factory=list)


def waves(parts: Sequence[Part], rates: Mapping[str, Rate], cluster: Cluster) -> Waves:
    """Simulate what is left of `parts`; `rates` by model.

    Raises:
        PlanError: if a model needs more GPUs than the largest node has.
    """
    left = [part for part in parts if part.left]
    return _Simulation(left, rates, cluster).run() if left else Waves()


@dataclass
class _Host:
    crew: Crew
    loaded: set[str] = field(default_factory=set)
    in_flight: int = 0
    free_at: float = 0.0


class _Simulation:
    def __init__(self, parts: Sequence[Part], rates: Mapping[str, Rate], cluster: Cluster):
        self.parts, self.rates = {part.model: part for part in parts}, rates
        blocks = sum(part.left / (part.spec.batch_size * BATCHES_PER_BLOCK.get(part.stage, 4)) for part in parts)
        coarse = max(1, math.ceil(blocks / MOST_BLOCKS))
        works = {
            part.model: Work(
                min(part.spec.batch_size * coarse, part.left),
                part.spec.batch_size * coarse * BATCHES_PER_BLOCK.get(part.stage, 4),
                rates[part.model].row_s,
                rates[part.model].load_s,
            )
            for part in parts
        }
        found = crews({part.model: part.spec for part in parts}, cluster)
        self.schedule = Schedule(found, works, cluster)
        self.pools = {crew.models: Pool(crew.models, crew.num_gpus, crew.num_cpus) for crew in found}
        self.done = dict.fromkeys(self.parts, 0)
        self.offered = dict.fromkeys(self.parts, 0)
        self.hosts: dict[str, _Host] = {}
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order, self.names, self.now = count(), count(), 0.0
        work = sum(part.left * rates[part.model].row_s * max(part.spec.num_gpus, 0.1) for part in parts)
        self.looks_s = max(5.0, work / max(1, cluster.gpus) / 1000)
        self.result = Waves()

    def run(self) -> Waves:
        for name, part in self.parts.items():
            self.schedule.expect(name, part.left)
        self._offer()
        self._look()
        while any(self.done[name] < part.left for name, part in self.parts.items()):
            self.now, _, event = heapq.heappop(self.queue)
            event()
        self.result.seconds = self.now
        for host in self.hosts.values():
            pool = self.pools[host.crew.models]
            pool.ends = max(pool.ends, min(self.now, host.free_at))
        self.result.pools = sorted((pool for pool in self.pools.values() if pool.hosts), key=lambda pool: pool.begins)
        return self.result

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (when, next(self.order), event))

    # ---- rows --------------------------------------------------------------------------------------------------

    def _share_done(self, stage: str) -> float:
        """The share of a stage's inputs that all of its models have done."""
        mine = [name for name, part in self.parts.items() if part.stage == stage]
        return min((self.done[name] / self.parts[name].left for name in mine), default=1.0)

    def _offer(self) -> None:
        """Offer the rows that are ready by now."""
        made = (
            "reconstructions" if any(part.stage == "reconstructions" for part in self.parts.values()) else "candidates"
        )
        shares = {
            "candidates": 1.0,
            "reconstructions": self._share_done("candidates"),
            "scores": self._share_done(made),
            "safety": float(self._share_done("scores") == 1),
        }
        for name, part in self.parts.items():
            more = math.floor(part.left * shares[part.stage] + 1e-9) - self.offered[name]
            if more > 0:
                self.offered[name] += more
                self.schedule.offer(name, more)

    # ---- hosts -------------------------------------------------------------------------------------------------

    def _look(self) -> None:
        """Start and stop hosts, and look again a little later."""
        self._decide()
        self._at(self.now + self.looks_s, self._look)

    def _decide(self) -> None:
        for change in self.schedule.changes(self.now):
            if isinstance(change, Start):
                self._start(change.crew)
            else:
                host = self.hosts.pop(change.host_id)
                self.schedule.host_gone(change.host_id)
                self.pools[host.crew.models].ends = max(self.pools[host.crew.models].ends, host.free_at)
        for name in list(self.hosts):
            self._fill(name)

    def _start(self, crew: Crew) -> None:
        name = f"host-{next(self.names)}"
        self.hosts[name] = _Host(crew, free_at=self.now)
        self.schedule.host_up(name, crew, self.now)
        pool = self.pools[crew.models]
        pool.begins = min(pool.begins, self.now)
        pool.hosts = max(pool.hosts, sum(host.crew.models == crew.models for host in self.hosts.values()))

    def _fill(self, name: str) -> None:
        host = self.hosts[name]
        while host.in_flight < SLOTS and (picked := self.schedule.pick(name, self.now)):
            model, rows = picked
            self.schedule.began(name, model, rows, self.now)
            host.in_flight += 1
            begins = max(host.free_at, self.now)
            if model not in host.loaded:
                host.loaded.add(model)
                self.pools[host.crew.models].loads += 1
                begins += self.rates[model].load_s
                self._at(begins, lambda model=model: self._loaded(name, model))
            batch = self.parts[model].spec.batch_size
            seconds = math.ceil(rows / batch) * batch * self.rates[model].row_s
            host.free_at = begins + seconds
            self._at(host.free_at, lambda model=model, rows=rows, s=seconds: self._done(name, model, rows, s))

    def _loaded(self, name: str, model: str) -> None:
        if name in self.hosts:
            self.schedule.loaded(name, model, self.rates[model].load_s)

    def _done(self, name: str, model: str, rows: int, seconds: float) -> None:
        self.hosts[name].in_flight -= 1
        self.schedule.done(name, model, rows, seconds, self.now)
        self.done[model] += rows
        self.result.ended[self.parts[model].stage] = self.now
        self._offer()
        self._fill(name)
        idle = [other for other, host in self.hosts.items() if not host.in_flight]
        for other in idle:
            self._fill(other)
        if idle:
            self._decide()
