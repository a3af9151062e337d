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

import math
from collections.abc import Iterable, Mapping

from cyclepref.builder.engine.changes import Changes, Need, horizon_of
from cyclepref.builder.engine.crew_state import Group, Host, Model, Start, Stop, Work
from cyclepref.builder.engine.plan import Cluster, Crew, Room

# A block is at most this part of what each host has left.
PARTS_LEFT = 4
# By what part of the horizon a crew is to be done whose rows others wait for.
RUSH = 0.5


class Schedule:
    """Decides which hosts there are and what they do. `works` are the models of `crews`, by name; times are seconds of
    any one clock.

    All methods but three only tell it what happened. `changes` counts on `host_up` or `host_gone` after each Start and
    Stop; `pick` decides, but takes nothing until `began` is told.
    """

    def __init__(self, crews: Iterable[Crew], works: Mapping[str, Work], cluster: Cluster):
        self.models = {name: Model(name, work) for name, work in works.items()}
        self.groups = {crew.models: Group(crew, [self.models[name] for name in crew.models]) for crew in crews}
        self.hosts: dict[str, Host] = {}
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
        self.hosts[host_id] = group.hosts[host_id] = Host(host_id, group, place, now, now)
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

    def _has(self, host: Host, model: str) -> None:
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
        return Changes(self.hosts.values(), self.room, not self.flying, self._needs(now), now).decide()

    def seconds_left(self, now: float) -> float:
        """About how long all rows that are ready or expected will take from now."""
        return max((need.horizon for need in self._needs(now)), default=0.0)

    def _needs(self, now: float) -> list[Need]:
        needs = [Need(group, self.flying > 0, now) for group in self.groups.values()]
        expecting = sum(need.expects for need in needs)
        for need in needs:
            need.rush = RUSH if expecting > need.expects and not need.expects else 1.0
        for places, share in ((self.cluster.gpus, _gpu_share), (self.cluster.cpus, _core_share)):
            mine = [(need, share(need.crew)) for need in needs if need.work and share(need.crew)]
            horizon = horizon_of(mine, places)
            for need, _ in mine:
                need.horizon = horizon
        return sorted(needs, key=lambda need: (-need.crew.num_gpus, -need.work, need.crew.models))


def _pays(it: Model, host: Host) -> bool:
    """Whether a host should work on a model: it has it loaded, nobody has, or what is left is worth another load."""
    return it.name in host.loaded or not it.loaded_on or it.left * it.row_s / (it.loaded_on + 1) > it.load_s


def _gpu_share(crew: Crew) -> float:
    """GPUs that a host takes: as many small hosts share one as fit."""
    return 1 / math.floor(1 / crew.num_gpus + 1e-9) if 0 < crew.num_gpus < 1 else crew.num_gpus


def _core_share(crew: Crew) -> float:
    """CPU cores that a host takes, if it needs no GPU."""
    return 0 if crew.num_gpus else crew.num_cpus
