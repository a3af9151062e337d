"""Whole builds through the real Schedule, with a clock of our own: hosts that load, blocks that take their time with
noise, reconstructions that become ready as the candidates of an input are done, measures as reconstructions are, and
nodes that come late or go. It does what the engine does, minus the models; every row is given an identity, so that one
that is given twice or forgotten is seen."""

import heapq
import math
import random
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count

from paper_builds import Build, Model

from cyclepref.builder.engine.crew_state import Start, Stop, Work
from cyclepref.builder.engine.plan import Cluster, Crew, crews
from cyclepref.builder.engine.schedule import Schedule
from cyclepref.schemas.specs import CaptionerSpec

# How often at least the driver looks whether hosts should come or go: in seconds, and in parts of the whole build.
LOOKS_S, LOOKS = 5.0, 1000


@dataclass
class Host:
    """A host with its slots: the block that it works on, and one that it has read."""

    crew: Crew
    speed: float
    gpus: float
    born: float = 0.0
    free_at: float = 0.0
    loaded: set[str] = field(default_factory=set)
    blocks: list[tuple[str, list[int]]] = field(default_factory=list)
    ready: bool = False


@dataclass
class Outcome:
    """What came of a build."""

    seconds: float
    loads: Counter
    starts: int
    stops: int
    ended: dict[str, float]
    decisions: int = 0


class Simulation:
    """One build. `given` is how often each row was begun and not lost; `resizes` are (when, cluster); `deaths`
    are when a busy host dies. Models are guessed to take `guess(model)` seconds a row before they are measured."""

    def __init__(
        self,
        build: Build,
        cluster: Cluster,
        seed: int = 0,
        guess: Callable[[Model], float] = lambda model: 1.0,
        noise: float = 0.1,
        resizes: tuple[tuple[float, Cluster], ...] = (),
        deaths: tuple[float, ...] = (),
    ):
        self.build, self.cluster, self.noise = build, cluster, noise
        self.random = random.Random(seed)
        specs = {it.name: CaptionerSpec(name=it.name, repo="org/x", num_gpus=it.gpus) for it in build.models}
        self.crews = crews(specs, cluster)
        works = {it.name: Work(it.batch, it.batch * it.batches_per_part, guess(it)) for it in build.models}
        self.schedule = Schedule(self.crews, works, cluster)
        self.model = {it.name: it for it in build.models}
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order, self.names = count(), count()
        self.now = 0.0
        self.hosts: dict[str, Host] = {}
        self.waiting: dict[str, list[int]] = defaultdict(list)  # rows that are ready, in order
        self.given: dict[str, Counter] = defaultdict(Counter)
        self.done: dict[str, set[int]] = defaultdict(set)
        self.left_of = [sum(it.samples for it in build.forward)] * build.inputs
        self.outcome = Outcome(0, Counter(), 0, 0, {})
        self.looked = -math.inf
        work = sum(build.rows(it) * it.row_s * it.gpus for it in build.models)
        self.looks_s = max(LOOKS_S, work / max(1, cluster.gpus) / LOOKS)
        for at, changed in resizes:
            self._at(at, lambda changed=changed: self._resize(changed))
        for at in deaths:
            self._at(at, self._die)

    def run(self) -> Outcome:
        """Until all rows are done."""
        for model in self.build.forward:
            self._offer(model.name, range(self.build.rows(model)))
        for model in (self.build.backward, self.build.metric):
            self.schedule.expect(model.name, self.build.rows(model))
        self._look()
        while not self.finished:
            assert self.queue, f"nothing happens any more, with {self.left} left"
            self.now, _, event = heapq.heappop(self.queue)
            event()
            if self.now - self.looked >= self.looks_s / 5:
                self._look()
        self.outcome.seconds = self.now
        return self.outcome

    @property
    def left(self) -> dict[str, int]:
        """Rows that are not done, by model."""
        return {it.name: left for it in self.build.models if (left := self.build.rows(it) - len(self.done[it.name]))}

    @property
    def finished(self) -> bool:
        """Whether all rows are done."""
        return len(self.done[self.build.metric.name]) == self.build.rows(self.build.metric)

    # ---- what the driver does ----

    def _at(self, when: float, event: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (when, next(self.order), event))

    def _look(self) -> None:
        """Ask which hosts should come and go; and again a little later."""
        if self.now - self.looked >= self.looks_s / 5:
            self._at(self.now + self.looks_s, lambda: None)
        self.looked = self.now
        for change in self.schedule.changes(self.now):
            if isinstance(change, Start):
                self._start(change.crew)
            else:
                self._stop(change)

    def _start(self, crew: Crew) -> None:
        name = f"host-{next(self.names)}"
        self.hosts[name] = Host(
            crew, self.random.uniform(1 - self.noise / 2, 1 + self.noise / 2), crew.num_gpus, self.now
        )
        self.schedule.host_up(name, crew, self.now)
        assert sum(host.gpus for host in self.hosts.values()) <= max(self.cluster.gpus, 0) + 1e-6
        self.outcome.starts += 1
        if len(crew.models) > 1:
            self.hosts[name].ready = True
            self._fill(name)
        else:
            (model,) = crew.models
            self._load(name, model, lambda: self._fill(name))

    def _load(self, name: str, model: str, then: Callable[[], None]) -> None:
        """Load a model, which takes its time."""
        host, seconds = self.hosts[name], self.model[model].load_s * self._noise()
        self.outcome.loads[model] += 1
        host.free_at = max(host.free_at, self.now) + seconds

        def over() -> None:
            if name in self.hosts:
                host.ready = True
                host.loaded.add(model)
                self.schedule.loaded(name, model, seconds)
                then()

        self._at(host.free_at, over)

    def _stop(self, change: Stop) -> None:
        assert not self.hosts[change.host_id].blocks, "only an idle host is stopped"
        self.outcome.stops += 1
        del self.hosts[change.host_id]
        self.schedule.host_gone(change.host_id)
        self.looked = -math.inf  # somebody waits for the place

    def _fill(self, name: str) -> None:
        """Give a host work until both of its slots have some."""
        host = self.hosts[name]
        while host.ready and len(host.blocks) < 2 and (picked := self.schedule.pick(name, self.now)):
            model, rows = picked
            assert 0 < rows <= len(self.waiting[model])
            assert rows <= self.model[model].batch * self.model[model].batches_per_part
            mine, self.waiting[model] = self.waiting[model][:rows], self.waiting[model][rows:]
            self.given[model].update(mine)
            host.blocks.append((model, mine))
            self.schedule.began(name, model, rows, self.now)
            if model not in host.loaded and len(host.crew.models) > 1:
                self._load(name, model, lambda: None)
            batches = math.ceil(rows / self.model[model].batch)
            seconds = batches * self.model[model].batch_s * host.speed * self._noise()
            host.free_at = max(host.free_at, self.now) + seconds
            self._at(
                host.free_at, lambda model=model, mine=mine, seconds=seconds: self._done(name, model, mine, seconds)
            )

    def _done(self, name: str, model: str, rows: list[int], seconds: float) -> None:
        host = self.hosts.get(name)
        if host is None or (model, rows) not in host.blocks:
            return  # it died before
        host.blocks.remove((model, rows))
        self.schedule.done(name, model, len(rows), seconds, self.now)
        assert not self.done[model] & set(rows)
        self.done[model].update(rows)
        self.outcome.ended[model] = self.now
        self._made(self.model[model], rows)
        self._fill(name)

    def _made(self, model: Model, rows: list[int]) -> None:
        """What rows that are done make ready."""
        if model in self.build.forward:
            inputs = []
            for row in rows:
                self.left_of[row // model.samples] -= 1
                if not self.left_of[row // model.samples]:
                    inputs.append(row // model.samples)
            each = sum(it.samples for it in self.build.forward)
            self._offer(self.build.backward.name, [i * each + at for i in inputs for at in range(each)])
        elif model is self.build.backward:
            self._offer(self.build.metric.name, rows)

    def _offer(self, model: str, rows) -> None:
        if not rows:
            return
        self.waiting[model].extend(rows)
        self.schedule.offer(model, len(rows))
        for name, host in list(self.hosts.items()):
            if model in host.crew.models and host.ready and not host.blocks:
                self._fill(name)
                if not host.blocks and len(host.crew.models) == 1:
                    break  # nothing for the others either

    def _noise(self) -> float:
        return max(0.2, self.random.gauss(1, self.noise))

    # ---- what goes wrong ----

    def _resize(self, cluster: Cluster) -> None:
        """Nodes came, or as many hosts as are too many die with theirs."""
        self.cluster = cluster
        while sum(host.gpus for host in self.hosts.values()) > cluster.gpus:
            self._lose(self.random.choice(sorted(self.hosts)))
        self.schedule.resize(cluster)
        self._look()

    def _die(self) -> None:
        if busy := sorted(name for name, host in self.hosts.items() if host.blocks):
            self._lose(self.random.choice(busy))
            self._look()

    def _lose(self, name: str) -> None:
        host = self.hosts.pop(name)
        self.schedule.host_gone(name)
        for model, rows in host.blocks:
            self.given[model].subtract(rows)
            self.waiting[model] = [*rows, *self.waiting[model]]
            self.schedule.returned(model, len(rows))


def spread(build: Build, seed: int) -> Build:
    """The build with models whose rates differ by 50 times, whatever they do: each up to 7 times faster or slower."""
    chance = random.Random(seed)
    return build.changed(lambda it: replace(it, row_s=it.row_s * 50 ** chance.uniform(-0.5, 0.5)))


def by_kind(model: Model) -> float:
    """A guess that knows a model's kind alone: an image costs more than a caption, that more than a measure."""
    return 0.02 if model.gpus < 0.5 else 3.0 if model.name.startswith(("sd", "flux")) else 0.3
