"""Which hosts to start and which to stop, by what each crew has left to do (see builder/engine/schedule.py)."""

import heapq
import math
from collections.abc import Iterable

from cyclepref.builder.engine.crew_state import Group, Host, Start, Stop
from cyclepref.builder.engine.plan import Room

# How far needs must be from the hosts there are before a loaded host is stopped, or a free place is taken.
HYSTERESIS, GAIN = 0.10, 0.02
# A crew that keeps its host less than half busy waits for ready work of so many loads.
WORTH_LOADS = 5
# A host that was asked for this long ago finds no place: idle hosts may hold it, on other nodes than we think.
STUCK_S = 120.0


class Need:
    """What a crew has left to do, and how many hosts that takes."""

    def __init__(self, group: Group, more_come: bool, now: float):
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


def horizon_of(needs: list[tuple[Need, float]], places: float) -> float:
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


class Changes:
    """One decision. `room` is what is free; `soon` is what will be when all hosts that are to stop have gone, less what
    was made free for somebody: a host starts where both have a place for it."""

    def __init__(self, hosts: Iterable[Host], room: Room, quiet: bool, needs: list[Need], now: float):
        self.room, self.needs, self.now, self.quiet = room, needs, now, quiet
        self.need_of = {need.group: need for need in needs}
        self.hosts = [host for host in hosts if host.place]
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

    def _start(self, need: Need, most: int) -> bool:
        """Ask for one more host; False if there are as many, or there is no place."""
        if need.hosts >= min(most, need.most) or not (place := self.room.take(need.crew, self.soon)):
            return False
        need.group.asked.append((place, self.now))
        need.hosts += 1
        need.delay += need.load
        self.found.append(Start(need.crew))
        return True

    def _hand_out(self) -> list[Need]:
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

    def _idle(self, other: Need) -> list[Host]:
        """Hosts that are idle for now, and may be stopped for another crew."""
        found: list[Host] = []
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

    def _of(self, need: Need) -> list[Host]:
        """The idle hosts of a crew."""
        return [host for host in need.group.hosts.values() if host.place and not host.blocks and not host.stopping]

    def _claim(self, need: Need, idle: list[Host], drains: bool = False) -> bool:
        """Make a place for a host by stopping idle ones, as few as will do; `drains`: busy hosts of smaller crews on
        one node may have to make way too."""
        if self.soon.take(need.crew):
            return True
        idle[:] = [host for host in idle if not host.stopping]
        if idle and self._fits(need, idle[:1]):  # as nearly always
            self._release(idle[:1])
        else:
            smaller = [host for host in self.hosts if drains and host.group.crew.num_gpus < need.crew.num_gpus]
            on_node: dict[int, list[Host]] = {}
            for host in [*idle, *sorted(smaller, key=lambda host: len(host.blocks))]:
                if not host.stopping and host not in on_node.setdefault(host.place.node, []):
                    on_node[host.place.node].append(host)
            ways = [way for hosts in on_node.values() if (way := self._fits(need, hosts))]
            if not ways:
                return False
            self._release(min(ways, key=lambda way: (sum(bool(host.blocks) for host in way), len(way))))
        return bool(self.soon.take(need.crew))

    def _fits(self, need: Need, hosts: list[Host]) -> list[Host]:
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

    def _release(self, hosts: list[Host]) -> None:
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
