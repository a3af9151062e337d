"""Which hosts there are, and what each works on next: decided while a build runs, by what its work has cost so far.

Pure: it is told what happens (`offer`, `host_up`, `done`...) and asked what to do (`changes`, `pick`). The engine
obeys; tests drive it with a clock of their own through clusters that we do not have.

**Need.** A crew's work (see `cyclepref.builder.engine.plan.crews`) is the rows that its models have left, be they ready
or only expected, times the seconds that a row has taken so far. The horizon is the earliest end that all crews could
reach together: the smallest T with work + further loads <= T x GPUs, where a new host works for T less its load. A crew
needs as many hosts as end its work by then; one whose rows others wait for, by RUSH of then, since those that wait
start late. (Crews that run on CPU cores have a horizon of their own.)

**Starts.** A free place, or that of an idle host whose crew has no rows left, goes to a crew without a host whose rows
are ready, the largest crew first. Those that are left go, one by one, to the crew with the most work a host, up to what
it needs, even if its rows are only expected: so a load overlaps with the work that makes them. A crew that would keep
its host less than half busy waits until its ready rows are worth several loads, or all of them are ready.

**Stops.** A host with a row to do is not stopped. (One exception: if a crew of several GPUs waits without a host, hosts
on one node finish what they have begun and make way together.) An idle host is stopped only if a crew needs its place:
at once if its own crew has no rows left; otherwise after it was idle for as long as its load takes (at once, if rows
trickle in that keep it less than half busy), and if the other crew has no host at all, or too few while others wait for
its rows, or too few where this one has too many, each by a tenth, so that nothing flaps.

**Blocks.** A host keeps to the models that it has loaded while they have rows, the one with the most work first. A
block is at most the model's `rows_per_part`, and at most a quarter of what each host of the crew has left: so blocks
shrink, down to one batch, and all hosts end together. The first block of a model is one batch, which measures. A batch
is given out short only if no more rows are to come. Offer the rows of all models in one order of inputs, since the
reconstructions of an input wait for all of its candidates.
"""

import heapq
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cyclepref.builder.engine.plan import Cluster, Crew, Place, Room
from cyclepref.builder.engine.plan import crews as crews

# What a row and a load of a model take in seconds, until its first ones are measured and if nobody knows better.
ROW_S, LOAD_S = 1.0, 30.0
# Measurements fade: what came before the last twenty blocks counts for a third.
FADING = 0.95
# A block is at most this part of what each host has left.
PARTS_LEFT = 4
# How far needs must be from the hosts there are before a loaded host is stopped, or a free place is taken.
HYSTERESIS, GAIN = 0.10, 0.02
# A crew that keeps its host less than half busy waits for ready work of so many loads.
WORTH_LOADS = 5
# By what part of the horizon a crew is to be done whose rows others wait for.
RUSH = 0.5
# A host that was asked for this long ago finds no place: idle hosts may hold it, on other nodes than we think.
STUCK_S = 120.0


class Start(NamedTuple):
    """Ask for a host of this crew; say `host_up` when it has its place."""

    crew: Crew


class Stop(NamedTuple):
    """End this host, which is idle; say `host_gone` when it has given its place back."""

    host_id: str


@dataclass(frozen=True)
class Work:
    """What is known of a model before it runs. `row_s` and `load_s` are guesses in seconds, used until measured; only
    the ratio between models matters for `row_s` of models that start together."""

    batch_size: int
    rows_per_part: int
    row_s: float = ROW_S
    load_s: float = LOAD_S


class _Model:
    """The rows of a model, and what they take."""

    def __init__(self, name: str, work: Work):
        self.name, self.batch, self.most = name, work.batch_size, max(work.batch_size, work.rows_per_part)
        self.ready = self.expected = self.flying = 0
        self.row_s, self.load_s = work.row_s, work.load_s
        self.loaded_on = 0  # hosts
        self._rows = self._seconds = 0.0

    @property
    def left(self) -> int:
        """Rows that nobody has begun."""
        return self.ready + self.expected

    @property
    def measured(self) -> bool:
        """Whether a block has been done."""
        return self._rows > 0

    def usable(self, more_come: bool) -> int:
        """Rows that may be begun: whole batches, and a short one if no more rows come."""
        return self.ready - self.ready % self.batch if self.expected and more_come else self.ready

    def took(self, rows: int, seconds: float) -> None:
        """A block took so long."""
        self._rows, self._seconds = self._rows * FADING + rows, self._seconds * FADING + seconds
        self.row_s = self._seconds / self._rows


@dataclass(eq=False)
class _Host:
    id: str
    group: "_Group"
    place: Place | None
    up: float
    idle_since: float
    loaded: set[str] = field(default_factory=set)
    blocks: list[tuple[str, int, float]] = field(default_factory=list)  # model, rows, when they began
    stopping: bool = False
    makes_way: bool = False


class _Group:
    """A crew with its hosts, and those that were asked for: where, and when."""

    def __init__(self, crew: Crew, models: list[_Model]):
        self.crew, self.models = crew, models
        self.hosts: dict[str, _Host] = {}
        self.asked: list[tuple[Place, float]] = []
        self.idle = 0


class Schedule:
    """Decides which hosts there are and what they do. `works` are the models of `crews`, by name; times are seconds of
    any one clock.

    All methods but three only tell it what happened. `changes` counts on `host_up` or `host_gone` after each Start and
    Stop; `pick` decides, but takes nothing until `began` is told.
    """

    def __init__(self, crews: Iterable[Crew], works: Mapping[str, Work], cluster: Cluster):
        self.models = {name: _Model(name, work) for name, work in works.items()}
        self.groups = {crew.models: _Group(crew, [self.models[name] for name in crew.models]) for crew in crews}
        self.hosts: dict[str, _Host] = {}
        self.flying = 0  # rows that are being worked on, of all models
        self.resize(cluster)

    # ---- what happens ------------------------------------------------------------------------------------------

    def offer(self, model: str, rows: int) -> None:
        """So many more rows of a model are ready, and no longer expected."""
        it = self.models[model]
        it.ready += rows
        it.expected = max(0, it.expected - rows)

    def expect(self, model: str, rows: int) -> None:
        """So many rows of a model will probably be offered. This replaces what was expected before: correct it when
        fewer will come, and say 0 when none will."""
        self.models[model].expected = rows

    def returned(self, model: str, rows: int) -> None:
        """Rows that a lost host had begun are ready again."""
        self.models[model].ready += rows

    def host_up(self, host_id: str, crew: Crew, now: float = 0.0) -> None:
        """A host that was asked for has its place, and is loading or about to."""
        group = self.groups[crew.models]
        place = group.asked.pop(0)[0] if group.asked else self.room.take(crew)
        self.hosts[host_id] = group.hosts[host_id] = _Host(host_id, group, place, now, now)
        group.idle += 1

    def host_gone(self, host_id: str) -> None:
        """A host has ended, as asked or not. What it had begun is left out until it is `returned`."""
        host = self.hosts.pop(host_id)
        del host.group.hosts[host_id]
        host.group.idle -= not host.blocks
        if host.place:
            self.room.give(host.place)
        for model, rows, _ in host.blocks:
            self._landed(model, rows)
        for model in host.loaded:
            self.models[model].loaded_on -= 1

    def loaded(self, host_id: str, model: str, seconds: float) -> None:
        """A host has loaded a model, which took so long."""
        self._has(self.hosts[host_id], model)
        self.models[model].load_s = seconds

    def began(self, host_id: str, model: str, rows: int, now: float) -> None:
        """A host has been given ready rows of a model."""
        host = self.hosts[host_id]
        host.group.idle -= not host.blocks
        host.blocks.append((model, rows, now))
        self.models[model].ready -= rows
        self.models[model].flying += rows
        self.flying += rows

    def done(self, host_id: str, model: str, rows: int, seconds: float, now: float) -> None:
        """A host has done such a block (whatever became of its rows), and worked on it for so long."""
        host = self.hosts[host_id]
        host.blocks.remove(next(block for block in host.blocks if block[:2] == (model, rows)))
        if host.blocks:
            host.blocks[0] = (*host.blocks[0][:2], now)
        host.group.idle += not host.blocks
        host.idle_since = now
        self._has(host, model)
        self._landed(model, rows)
        self.models[model].took(rows, seconds)

    def resize(self, cluster: Cluster) -> None:
        """Nodes have come or gone. (Hosts that went with them are told by `host_gone`.)"""
        self.cluster, self.room = cluster, Room(cluster)
        for host in sorted(self.hosts.values(), key=lambda host: -host.group.crew.num_gpus):
            host.place = self.room.take(host.group.crew)
        for group in self.groups.values():
            places = [(self.room.take(group.crew), since) for _, since in group.asked]
            group.asked = [(place, since) for place, since in places if place]

    def _landed(self, model: str, rows: int) -> None:
        self.models[model].flying -= rows
        self.flying -= rows

    def _has(self, host: _Host, model: str) -> None:
        self.models[model].loaded_on += model not in host.loaded
        host.loaded.add(model)

    # ---- what to do --------------------------------------------------------------------------------------------

    def pick(self, host_id: str, now: float) -> tuple[str, int] | None:
        """What a host's free slot works on next: a model, and how many of its rows. None for nothing, for now."""
        host = self.hosts[host_id]
        if host.stopping or host.makes_way:
            return None
        usable = {it: rows for it in host.group.models if (rows := it.usable(self.flying > 0)) and _pays(it, host)}
        if not usable:
            return None
        it = max(usable, key=lambda it: (it.name in host.loaded, it.left * it.row_s, it.name))
        hosts = len(host.group.hosts)
        if host.blocks and usable[it] < 2 * hosts * it.batch:
            return None  # the last batches go to whoever is idle first
        fair = min(it.left / (PARTS_LEFT * hosts), usable[it] / max(1, host.group.idle))
        rows = min(fair, it.most) if it.measured else it.batch
        return it.name, min(usable[it], max(it.batch, int(rows) // it.batch * it.batch))

    def changes(self, now: float) -> list[Start | Stop]:
        """Which hosts to start and which idle ones to stop, now."""
        return _Changes(self, self._needs(now), now).decide()

    def seconds_left(self, now: float) -> float:
        """About how long all rows that are ready or expected will take from now."""
        return max((need.horizon for need in self._needs(now)), default=0.0)

    def _needs(self, now: float) -> list["_Need"]:
        needs = [_Need(group, self.flying > 0, now) for group in self.groups.values()]
        expecting = sum(need.expects for need in needs)
        for need in needs:
            need.rush = RUSH if expecting > need.expects and not need.expects else 1.0
        for places, share in ((self.cluster.gpus, _gpu_share), (self.cluster.cpus, _core_share)):
            mine = [(need, share(need.crew)) for need in needs if need.work and share(need.crew)]
            horizon = _horizon(mine, places)
            for need, _ in mine:
                need.horizon = horizon
        return sorted(needs, key=lambda need: (-need.crew.num_gpus, -need.work, need.crew.models))


def _pays(it: _Model, host: _Host) -> bool:
    """Whether a host should work on a model: it has it loaded, nobody has, or what is left is worth another load."""
    return it.name in host.loaded or not it.loaded_on or it.left * it.row_s / (it.loaded_on + 1) > it.load_s


def _gpu_share(crew: Crew) -> float:
    """GPUs that a host takes: as many small hosts share one as fit."""
    return 1 / math.floor(1 / crew.num_gpus + 1e-9) if 0 < crew.num_gpus < 1 else crew.num_gpus


def _core_share(crew: Crew) -> float:
    """CPU cores that a host takes, if it needs no GPU."""
    return 0 if crew.num_gpus else crew.num_cpus


class _Need:
    """What a crew has left to do, and how many hosts that takes."""

    def __init__(self, group: _Group, more_come: bool, now: float):
        self.group, self.crew, self.horizon = group, group.crew, 0.0
        active = [it for it in group.models if it.left or it.flying]
        staying = [host for host in group.hosts.values() if not host.stopping and not host.makes_way]
        self.load = sum(it.load_s for it in active)
        self.delay = self.load * len(group.asked)
        self.work = sum(it.left * it.row_s for it in active)
        busy = 0
        rates = {it.name: it.row_s for it in active}
        for host in staying:
            if not host.loaded:
                self.delay += max(0.0, self.load - (now - host.up))
            if host.blocks:
                busy += 1
                spent = now - host.blocks[0][2]
                self.work += max(0.0, sum(rows * rates[name] for name, rows, _ in host.blocks) - spent)
        self.hosts = len(staying) + len(group.asked)
        self.left = sum(it.left for it in active)
        self.expects = any(it.expected for it in active)
        self.usable = any(it.usable(more_come) for it in active)
        self.ready_work = sum(it.ready * it.row_s for it in active)
        batches = sum(math.ceil(it.left / it.batch) for it in active)
        self.most = batches + busy if self.crew.most is None else self.crew.most
        self.more_come = more_come
        self.rush = 1.0

    def by(self, horizon: float) -> float:
        """Hosts that end the work by then (infinitely many if a load takes as long, and those there are do not)."""
        work, horizon = self.work + self.delay, horizon * self.rush
        if not work:
            return 0.0
        if work <= self.hosts * horizon:
            return work / horizon
        if horizon <= self.load:
            return math.inf
        return self.hosts + (work - self.hosts * horizon) / (horizon - self.load)

    @property
    def waits(self) -> bool:
        """Whether it has no host and should have one: rows are ready, and worth its load."""
        if self.hosts or not self.usable:
            return False
        worth = self.ready_work >= WORTH_LOADS * self.load or self.by(self.horizon) >= 0.5
        return worth or not self.expects or not self.more_come

    @property
    def target(self) -> int:
        """Hosts that it should have if there is a place for them."""
        needed = min(self.by(self.horizon * (1 + GAIN)), self.most)
        return math.ceil(needed) if self.usable and (self.hosts or self.waits) else math.floor(needed + 0.5)


def _horizon(needs: list[tuple[_Need, float]], places: float) -> float:
    """The smallest T with work + further loads <= T x places, for needs with the share of a place that a host takes."""

    def fits(horizon: float) -> bool:
        taken = 0.0
        for need, share in needs:
            more = max(min(need.by(horizon), need.most) - need.hosts, 0 if need.hosts else 1)
            taken += share * (need.work + need.delay + need.load * math.ceil(more))
            if taken > horizon * places:
                return False
        return True

    if not needs or not places:
        return math.inf if needs else 0.0
    high = 1.0
    while not fits(high):
        high *= 2
    low = high / 2 if high > 1 else 0.0
    while high - low > high / 500:
        middle = (low + high) / 2
        low, high = (low, middle) if fits(middle) else (middle, high)
    return high


class _Changes:
    """One decision. `room` is what is free; `soon` is what will be when all hosts that are to stop have gone, less what
    was made free for somebody: a host starts where both have a place for it."""

    def __init__(self, schedule: Schedule, needs: list[_Need], now: float):
        self.room, self.needs, self.now = schedule.room, needs, now
        self.quiet = not schedule.flying
        self.need_of = {need.group: need for need in needs}
        self.hosts = [host for host in schedule.hosts.values() if host.place]
        self.soon = self.room.copy()
        for host in self.hosts:
            host.makes_way = False
            if host.stopping:
                self.soon.give(host.place)
        self.found: list[Start | Stop] = []
        # Idle hosts that have nothing to come either: their places are as good as free.
        self.unmissed = [host for need in needs if not need.left for host in self._of(need)]

    def decide(self) -> list[Start | Stop]:
        """First for those that wait, then for whoever has the most work a host, then for whoever will have work."""
        for need in self.needs:
            if need.waits and not self._start(need, 1):
                self._claim(need, [*self.unmissed, *self._idle(need)], drains=need.crew.num_gpus > 1)
        short = self._hand_out()
        for need in self.needs:
            if need.work and not need.hosts:
                self._start(need, 1)
        for need in short:
            idle = self._idle(need)
            for _ in range(int(min(need.by(need.horizon * (1 + HYSTERESIS)), need.most)) - need.hosts):
                if not self._claim(need, idle):
                    break
        self._unstick()
        return self.found

    def _start(self, need: _Need, most: int) -> bool:
        """Ask for one more host; False if there are as many, or there is no place."""
        if need.hosts >= min(most, need.most) or not (place := self.room.take(need.crew, self.soon)):
            return False
        need.group.asked.append((place, self.now))
        need.hosts += 1
        need.delay += need.load
        self.found.append(Start(need.crew))
        return True

    def _hand_out(self) -> list[_Need]:
        """Give free places away one by one; returns who would have more, the ones with the most work a host first."""
        targets = {need.group: need.target for need in self.needs}
        heap = [(-need.work / max(0.5, need.hosts) / need.rush, at) for at, need in enumerate(self.needs) if need.work]
        heapq.heapify(heap)
        short = []
        while heap:
            need = self.needs[at := heapq.heappop(heap)[1]]
            if self._start(need, targets[need.group]):
                heapq.heappush(heap, (-need.work / need.hosts / need.rush, at))
            elif need.hosts < targets[need.group] and self._claim(need, self.unmissed):
                need.hosts += 1
                heapq.heappush(heap, (-need.work / need.hosts / need.rush, at))
            elif need.usable and need.hosts:
                short.append(need)
        return short

    def _idle(self, other: _Need) -> list[_Host]:
        """Hosts that are idle for now, and may be stopped for another crew."""
        found: list[_Host] = []
        for need in self.needs:
            if need is other or not need.left or need.usable:
                continue
            fewest = need.by(need.horizon * (1 - HYSTERESIS))
            if seldom := fewest < 0.5:  # rows that trickle in: it may come back when they are worth a load
                fewest = 0
            idle = [host for host in self._of(need) if seldom or self.quiet or self.now - host.idle_since >= need.load]
            if other.hosts and other.rush == 1:  # nobody waits for it
                idle = idle[: max(0, int(need.hosts - min(fewest, need.hosts)))]
            found += idle
        return sorted(found, key=lambda host: (host.idle_since, host.id))

    def _of(self, need: _Need) -> list[_Host]:
        """The idle hosts of a crew."""
        return [host for host in need.group.hosts.values() if host.place and not host.blocks and not host.stopping]

    def _claim(self, need: _Need, idle: list[_Host], drains: bool = False) -> bool:
        """Make a place for a host by stopping idle ones, as few as will do; `drains`: busy hosts of smaller crews on
        one node may have to make way too."""
        if self.soon.take(need.crew):
            return True
        idle[:] = [host for host in idle if not host.stopping]
        if idle and self._fits(need, idle[:1]):  # as nearly always
            self._release(idle[:1])
        else:
            smaller = [host for host in self.hosts if drains and host.group.crew.num_gpus < need.crew.num_gpus]
            on_node: dict[int, list[_Host]] = {}
            for host in [*idle, *sorted(smaller, key=lambda host: len(host.blocks))]:
                if not host.stopping and host not in on_node.setdefault(host.place.node, []):
                    on_node[host.place.node].append(host)
            ways = [way for hosts in on_node.values() if (way := self._fits(need, hosts))]
            if not ways:
                return False
            self._release(min(ways, key=lambda way: (sum(bool(host.blocks) for host in way), len(way))))
        return bool(self.soon.take(need.crew))

    def _fits(self, need: _Need, hosts: list[_Host]) -> list[_Host]:
        """The first of some hosts on one node without which there is a place; none, if all of them are too few."""
        node, given = hosts[0].place.node, []
        for host in hosts:
            self.soon.give(host.place)
            given.append(host)
            if place := self.soon.place_on(node, need.crew):
                break
        for host in given:
            self.soon.give(host.place, -1)
        return given if place else []

    def _release(self, hosts: list[_Host]) -> None:
        """Stop hosts, or if some are busy let all of them take nothing more until none is."""
        busy = any(host.blocks for host in hosts)
        for host in hosts:
            self.soon.give(host.place)
            self.need_of[host.group].hosts -= 1
            host.stopping, host.makes_way = not busy, busy
        self.found += [Stop(host.id) for host in hosts if not busy]

    def _unstick(self) -> None:
        """Where a host finds no place, stop the idle ones that nobody will miss; and if nothing runs at all, any."""
        if any(self.now - since > STUCK_S for need in self.needs for _, since in need.group.asked):
            for host in self.hosts:
                need = self.need_of[host.group]
                if not host.stopping and not host.blocks and not need.usable and (self.quiet or not need.left):
                    self._release([host])
