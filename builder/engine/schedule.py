"""Which hosts there are, and what each works on next: decided while a build runs, by what its work has cost so far.

Pure: it is told what happens (`offer`, `host_up`, `done`...) and asked what to do (`changes`, `pick`); the engine obeys,
and tests drive it with a clock of their own through clusters that we do not have.

**Horizon.** The work of a crew (see `cyclepref.builder.engine.plan.crews`) is the rows that its models have left, those
that are only expected included, times the seconds a row that they have taken so far. The horizon is the earliest end
that all crews together can reach: the smallest T with work + further loads <= T x GPUs, where a new host works for T
less its load. It says how many hosts each crew needs. Crews on CPU cores have a horizon of their own.

**Hosts.** Free places go first to crews without a host whose rows wait, largest first; then, one by one, to the crew
with the most work a host, up to what it needs, be its rows there or only expected (so that loads overlap with the work
that makes them); what then is left goes to crews that will need a host later. A crew with so little work that it would
keep half a host busy waits until its rows are worth a load.

**Stops.** A host that has a row to do is never stopped, with one exception: where a crew without a host needs a larger
place than any host has, the hosts on one node finish what they have begun and make way together. An idle host is
stopped only for a crew that needs its place: at once if its own rows are done; otherwise after it has been idle for as
long as it would take to load again, and only if its crew has more than it needs and the other one less, each by a tenth
(so that nothing flaps), or if the other one has no host at all.

**Blocks.** A host stays with the models that it has loaded while they have rows, those with the most work first. A block
is at most a model's `rows_per_part`, and a quarter of what each host of the crew has left, so that blocks shrink to a
batch and all hosts end together. The first block of a model is one batch, which measures. A batch is given out short
only if no more rows are to come. Rows should be offered in one order of inputs, since an input's reconstructions wait for
all of its candidates.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from cyclepref.builder.engine.plan import Cluster, Crew, Place, Room
from cyclepref.builder.engine.plan import crews as crews

# Until a model's first block is done and its first load is over, it is taken to need these.
ROW_S, LOAD_S = 1.0, 30.0
# What is measured fades: a block counts as much as all before the last twenty.
FADING = 0.95
# Part of what each host has left that a block may be, at most.
BLOCKS_LEFT = 4
# How far needs must be apart before a loaded host gives way; how much a free place must gain before it is taken.
HYSTERESIS, GAIN = 0.1, 0.02
# A crew that keeps less than half a host busy waits for work of so many loads.
WORTH_LOADS = 5


class Start(NamedTuple):
    """Start a host for this crew; answer with `host_up` once it has its place."""

    crew: Crew


class Stop(NamedTuple):
    """Stop this host, which is idle; answer with `host_gone`."""

    host_id: str


@dataclass(frozen=True)
class Work:
    """What is known of a model before it runs. `row_s` and `load_s` are guesses in seconds, until measured."""

    batch_size: int
    rows_per_part: int
    row_s: float = ROW_S
    load_s: float = LOAD_S


class _Model:
    """The rows of a model, and what they and its loads have taken."""

    def __init__(self, name: str, work: Work):
        self.name, self.work = name, work
        self.ready = self.expected = self.flying = 0
        self.row_s, self.load_s = work.row_s, work.load_s
        self._rows = self._seconds = 0.0

    @property
    def left(self) -> int:
        """Rows that nobody has begun."""
        return self.ready + self.expected

    @property
    def measured(self) -> bool:
        return self._rows > 0

    def usable(self, more_comes: bool) -> int:
        """Rows that may be begun: full batches, and the rest if no more come."""
        short = 0 if self.expected and more_comes else self.ready
        return max(self.ready - self.ready % self.work.batch_size, short)

    def took(self, rows: int, seconds: float) -> None:
        self._rows, self._seconds = self._rows * FADING + rows, self._seconds * FADING + seconds
        self.row_s = self._seconds / self._rows


@dataclass(eq=False)
class _Host:
    id: str
    group: "_Group"
    place: Place | None
    since: float  # when it last had nothing to do
    loaded: set[str] = field(default_factory=set)
    blocks: list[tuple[str, int, float]] = field(default_factory=list)  # model, rows, when it began
    stopping: bool = False
    making_way: bool = False


class _Group:
    """A crew with its hosts and models."""

    def __init__(self, crew: Crew, models: list[_Model]):
        self.crew, self.models = crew, models
        self.hosts: dict[str, _Host] = {}
        self.asked: list[Place] = []


class Schedule:
    """Decides which hosts there are and what they do; `works` are the models of `crews` by name.

    Its methods take times in seconds of any one clock. They are events, but for `changes` and `pick`, which decide:
    `changes` counts on every Start being answered by `host_up`, and every Stop by `host_gone`; `pick` takes nothing
    until `began` says so.
    """

    def __init__(self, crews: Iterable[Crew], works: Mapping[str, Work], cluster: Cluster):
        self.models = {name: _Model(name, work) for name, work in works.items()}
        self.groups = {crew.models: _Group(crew, [self.models[name] for name in crew.models]) for crew in crews}
        self.hosts: dict[str, _Host] = {}
        self.flying = 0
        self.resize(cluster)

    # ---- what happens ------------------------------------------------------------------------------------------

    def offer(self, model: str, rows: int) -> None:
        """So many more rows of a model may be begun; they are no longer expected."""
        it = self.models[model]
        it.ready += rows
        it.expected = max(0, it.expected - rows)

    def expect(self, model: str, rows: int) -> None:
        """So many rows of a model, besides those offered, will probably come. It replaces what was said before: say 0
        when no more will."""
        self.models[model].expected = rows

    def returned(self, model: str, rows: int) -> None:
        """Rows of a lost host may be begun again."""
        self.models[model].ready += rows

    def host_up(self, host_id: str, crew: Crew, now: float = 0.0) -> None:
        """A host has its place, and can be loaded."""
        group = self.groups[crew.models]
        place = group.asked.pop() if group.asked else self.room.take(crew)
        host = _Host(host_id, group, place, now)
        self.hosts[host_id] = group.hosts[host_id] = host

    def host_gone(self, host_id: str) -> None:
        """A host has ended, as asked or not. What it had begun is nobody's until `returned` says that it is ready."""
        host = self.hosts.pop(host_id)
        del host.group.hosts[host_id]
        if host.place:
            self.room.give(host.place)
        for model, rows, _ in host.blocks:
            self.models[model].flying -= rows
            self.flying -= rows

    def loaded(self, host_id: str, model: str, seconds: float) -> None:
        """A host has a model loaded, which took so long."""
        self.hosts[host_id].loaded.add(model)
        self.models[model].load_s = seconds

    def began(self, host_id: str, model: str, rows: int, now: float) -> None:
        """A host has been given rows of a model."""
        self.hosts[host_id].blocks.append((model, rows, now))
        self.models[model].ready -= rows
        self.models[model].flying += rows
        self.flying += rows

    def done(self, host_id: str, model: str, rows: int, seconds: float, now: float) -> None:
        """A host has done its oldest block of a model, which took so long."""
        host, it = self.hosts[host_id], self.models[model]
        host.blocks.remove(next(block for block in host.blocks if block[:2] == (model, rows)))
        host.loaded.add(model)
        host.since = now
        it.flying -= rows
        self.flying -= rows
        it.took(rows, seconds)

    def resize(self, cluster: Cluster) -> None:
        """Nodes came or went."""
        self.cluster, self.room = cluster, Room(cluster)
        for host in sorted(self.hosts.values(), key=lambda host: -host.group.crew.num_gpus):
            host.place = self.room.take(host.group.crew)
        for group in self.groups.values():
            group.asked = [place for _ in group.asked if (place := self.room.take(group.crew))]

    # ---- what to do --------------------------------------------------------------------------------------------

    def pick(self, host_id: str, now: float) -> tuple[str, int] | None:
        """What a host with an idle slot works on next: a model and how many of its rows; None for nothing."""
        host = self.hosts[host_id]
        usable = {it.name: n for it in host.group.models if (n := it.usable(self.flying > 0))}
        if host.stopping or host.making_way or not usable:
            return None
        name = max(
            usable, key=lambda name: (name in host.loaded, self.models[name].left * self.models[name].row_s, name)
        )
        it, hosts = self.models[name], len(host.group.hosts)
        size = it.work.batch_size
        if host.blocks and usable[name] < 2 * hosts * size:
            return None  # the last batches go to whoever is idle first
        most = size if not it.measured else min(it.work.rows_per_part, it.left / (BLOCKS_LEFT * hosts))
        return name, min(usable[name], max(size, int(most) // size * size))

    def changes(self, now: float) -> list[Start | Stop]:
        """Which hosts to start and which idle ones to stop."""
        found: list[Start | Stop] = []
        for group in sorted(self.groups.values(), key=lambda group: (-group.crew.num_gpus, group.crew.models)):
            if any(it.ready for it in group.models) and not group.hosts and not group.asked:
                if place := self.room.take(group.crew):
                    group.asked.append(place)
                    found.append(Start(group.crew))
                elif not any(host.stopping for host in self.hosts.values()):
                    for host in self.hosts.values():
                        if not host.blocks and not any(it.usable(self.flying > 0) for it in host.group.models):
                            host.stopping = True
                            found.append(Stop(host.id))
                            break
        return found
