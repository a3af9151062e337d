"""Work on a Ray cluster: rows go out as ids, and receipts of counts come back.

Rows that need models go to hosts, which live as long as the build (builder/engine/hosts.py); which host does what next
is decided while the work runs (builder/engine/schedule.py). Work without models runs as Ray tasks. Content never passes
through the driver, and errors travel as data: Ray has nothing to print.
"""

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import ray
import ray.exceptions

from cyclepref.builder.common.stopping import Interrupted, stop_requests
from cyclepref.builder.costs.measured import Kept, Measured, measured_of, rate_anywhere
from cyclepref.builder.costs.rates import by_kind
from cyclepref.builder.costs.spent import Meter
from cyclepref.builder.engine.answers import Step, believed, ray_errors
from cyclepref.builder.engine.cluster import connected, last_line
from cyclepref.builder.engine.crew_state import LOAD_S, ROW_S, Start, Work
from cyclepref.builder.engine.flow import AheadLooks, Block, Flow, Lane
from cyclepref.builder.engine.hosts import IMPORTS, SLOTS, Seat
from cyclepref.builder.engine.nodes import gpus_up, missing_on_nodes, nodes_up, size_of, waiting_told
from cyclepref.builder.engine.plan import Cluster, Crew, crews
from cyclepref.builder.engine.schedule import Schedule
from cyclepref.builder.engine.tally import Tally
from cyclepref.builder.engine.task import Ahead, Done, Dropped, Task, key_of
from cyclepref.builder.engine.tasks import run_tasks
from cyclepref.builder.engine.watch import Watch
from cyclepref.schemas.resolved import Resolved
from cyclepref.schemas.specs import Spec

log = logging.getLogger("cyclepref.engine")

# A model's death is not a host's (see builder/engine/supervisor.py): these are for hosts that are killed themselves, or
# lost with their node. So often in a row, with nothing done between, it is no accident.
MAX_LOST = 10
# How often the driver looks whether there is something to decide; and whether nodes have come.
TICK_S, NODES_EVERY_S = 1.0, 10.0


class Engine:
    """A connection to a Ray cluster, made when it is first needed: a finished run never starts one.

    It joins the cluster that RAY_ADDRESS or a Ray job names, or starts one on this machine and stops it at the end.
    One that it starts listens on loopback alone and has a token of its own. While it is connected, the death of Ray's
    gcs_server or of this node's raylet ends this process with a message and exit status 1 (see
    builder/engine/watch.py).
    """

    def __init__(self) -> None:
        self._connection = ExitStack()
        self._watch: Watch | None = None
        self._specs: dict[str, Spec] = {}
        self._seats: dict[str, Seat] = {}
        self._started = 0
        self._costs: dict[str, tuple[float, float]] = {}  # of a model: seconds a row, seconds to load
        self._tally = Tally()
        self.meter = Meter()
        # Asked from time to time: work that need not go on is stopped as a signal stops it.
        self.enough: Callable[[], bool] = lambda: False

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop_all()
        self._connection.close()

    @cached_property
    def cluster(self) -> Cluster:
        """What there is to run on; starts or joins the cluster.

        Raises:
            EngineError: if there is none to join, or none can be started.
        """
        if not ray.is_initialized():
            self._watch = self._connection.enter_context(connected(os.environ.get("RAY_ADDRESS")))
        found = Cluster.of(nodes_up())
        self.meter.tick(gpus_up())
        if not found.gpus:
            log.warning("no GPU on this cluster: models run on %d CPU cores", found.cpus)
        return found

    @property
    def on_loopback(self) -> bool:
        """Whether the cluster is one that this engine started: on this machine, and no other reaches it."""
        return self._watch is not None and bool(self._watch.ours)

    def expect(self, specs: Iterable[Spec]) -> None:
        """Name the models that rows will come for, so that small ones share hosts from the start."""
        self._specs.update((key_of(spec), spec) for spec in specs)

    def know(self, models: Iterable[Resolved], kept: Kept) -> None:
        """What rows of models took in earlier builds of the run: used until they are measured here."""
        for model in models:
            if rate := rate_anywhere(kept, model):
                self._costs.setdefault(key_of(model.spec), (rate.row_s, rate.load_s))

    def measured(self, models: Iterable[Resolved]) -> list[Measured]:
        """What rows of these models took since this was last asked."""
        found = ((model, self._tally.take(key_of(model.spec))) for model in models)
        return [measured_of(model, told) for model, told in found if told]

    def run_tasks(self, blocks: list[pa.Table], *steps: Step) -> Iterator[pa.Table]:
        """Run blocks through Ray tasks; yields what the last step returns, receipts or a row for each row, in any
        order.

        Raises:
            EngineError: if a step raises; the message is the error's own.
            Interrupted: if the build was asked to stop and has finished what was in flight.
        """
        if not blocks:
            return
        self._warm()
        yield from run_tasks(blocks, steps, self.cluster)

    def run(self, work: Iterable[tuple[Task, pa.Table]], ahead: Ahead | None = None) -> Iterator[pa.Table]:
        """Work on the rows of each task, all tasks at once; yields receipts, in any order. Rows whose host is lost are
        tried again on another one. Hosts that have nothing left to do begin what is `ahead`, until all rows of `work`
        are done.

        Raises:
            EngineError: if a model cannot be loaded, or what is written cannot be; the message is the error's own.
            Interrupted: if the build was asked to stop and has finished what was in flight.
        """
        lanes = [Lane(task, rows) for task, rows in work if rows.num_rows]
        for answer in self._flow(lanes, ahead):
            # Seconds of all of the block's rows, by which the time that is left is told.
            seconds = pa.array([answer.seconds, *[0.0] * (answer.receipts.num_rows - 1)])
            yield answer.receipts.append_column("seconds", seconds)

    def load(self, tasks: Iterable[Task]) -> Iterator[float]:
        """Load each task's model on a host, which keeps it; yields the seconds that each took, 0 if it was there.

        Raises:
            EngineError, Interrupted: as `run` does.
        """
        yield from self._flow([Lane(task, None) for task in tasks])

    # ---- the work, until nothing is left -------------------------------------------------------------------------

    def _flow(self, lanes: list[Lane], ahead: Ahead | None = None) -> Iterator[Any]:
        """Give out the rows of lanes until all are done; yields the hosts' answers."""
        if not lanes:
            return
        self.expect(lane.task.spec for lane in lanes)
        flow = Flow(lanes)
        schedule = self._scheduled(flow)
        for model, rows in ahead.expected.items() if ahead else ():
            schedule.expect(model, rows)
        looks = AheadLooks(ahead)
        asked: list[bool] = []

        def stop() -> None:
            asked.append(True)
            for seat in list(self._seats.values()):
                seat.drop()

        if self._watch:
            self._watch.before_end = flow.forgive
        try:
            wanted = [crew for crew in self._crews() if flow.offered().keys() & set(crew.models)]
            missing = partial(missing_on_nodes, wanted)
            with ray_errors(), waiting_told(missing), stop_requests(stop):
                while self._in_flight() or (flow.left() and not asked):
                    if flow.left() and not asked and self.enough():
                        stop()
                    if flow.left() and not asked:
                        self._decide(schedule, flow)
                        if self._idle() and looks.due():
                            looks.look(schedule, flow)
                            self._give_out(schedule, flow)
                    yield from looks.waited_for(self._answers(schedule, flow))
            if asked:
                raise Interrupted("stopped as asked")
        except BaseException as end:
            self._stop_all()
            if not isinstance(end.__cause__, ray.exceptions.RayError):
                flow.forgive()  # what is in flight now was ended on purpose
            raise

    def _crews(self) -> list[Crew]:
        return crews(self._specs, self.cluster)

    def _scheduled(self, flow: Flow) -> Schedule:
        """A schedule for this work. Hosts that are there go on; what was measured before is known to it."""
        works = {}
        for model, spec in self._specs.items():
            # Without GPUs nothing is known of kinds: an embedded model paints faster than a large one looks.
            guess = by_kind(spec) if self.cluster.gpus else ROW_S
            row_s, load_s = self._costs.get(model, (guess, LOAD_S))
            works[model] = Work(spec.batch_size, flow.rows_per_part(model) or spec.batch_size, row_s, load_s)
        planned = self._crews()
        schedule = Schedule(planned, works, self.cluster)
        for seat in list(self._seats.values()):
            crew = next((crew for crew in planned if _fits(seat.crew, crew)), None)
            if crew is None:
                self._stop(seat)
                continue
            seat.crew = crew
            schedule.host_up(seat.id, crew, time.monotonic())
            for model in seat.loaded:
                schedule.loaded(seat.id, model, works[model].load_s)
        for model, rows in flow.offered().items():
            schedule.offer(model, rows)
        return schedule

    def _decide(self, schedule: Schedule, flow: Flow) -> None:
        """Start and stop hosts, and fill the free slots of those that are up."""
        now = time.monotonic()
        if now - flow.looked >= NODES_EVERY_S:
            flow.looked = now
            nodes = nodes_up()
            self.meter.tick(gpus_up())
            # Nodes that went may come back: until then hosts wait for their place.
            if size_of(nodes) > size_of(schedule.cluster.nodes):
                schedule.resize(Cluster.of(nodes))
        for change in schedule.changes(now):
            if isinstance(change, Start):
                self._start(change.crew)
            else:
                self._stop(self._seats[change.host_id])
                schedule.host_gone(change.host_id)
        self._give_out(schedule, flow)

    def _give_out(self, schedule: Schedule, flow: Flow) -> None:
        """Fill the free slots of the hosts that are up."""
        now = time.monotonic()
        for seat in self._seats.values():
            while seat.starting is None and len(seat.in_flight) < SLOTS:
                picked = schedule.pick(seat.id, now)
                if picked is None:
                    break
                block = flow.take(*picked)
                seat.give(block)
                schedule.began(seat.id, block.model, block.size, now)

    def _in_flight(self) -> bool:
        return any(seat.in_flight for seat in self._seats.values())

    def _idle(self) -> bool:
        """Whether a host is up and has nothing to do."""
        return any(seat.starting is None and not seat.in_flight for seat in self._seats.values())

    def _answers(self, schedule: Schedule, flow: Flow) -> Iterator[tuple[Block, Any]]:
        """Blocks that hosts have answered by now, with their answers; waits a moment for one that does."""
        of = {ref: seat for seat in self._seats.values() for ref in seat.awaited()}
        if not of:
            time.sleep(TICK_S)
            return
        ready, _ = ray.wait(list(of), num_returns=1, timeout=TICK_S)
        if ready and len(of) > 1:
            ready, _ = ray.wait(list(of), num_returns=len(of), timeout=0)
        for ref in ready:
            seat = of[ref]
            if self._seats.get(seat.id) is not seat:
                continue  # lost a moment ago
            try:
                answer = ray.get(ref)
            except ray.exceptions.RayActorError as error:
                self._lost(seat, schedule, flow, error)
                continue
            if ref == seat.starting:
                seat.starting = None
                if seat.id not in schedule.hosts:
                    schedule.host_up(seat.id, seat.crew, time.monotonic())
            else:
                yield from self._settled(seat, seat.in_flight.pop(ref), believed(answer), schedule, flow)

    def _settled(
        self, seat: Seat, block: Block, answer: Any, schedule: Schedule, flow: Flow
    ) -> Iterator[tuple[Block, Any]]:
        """Take note of a host's answer; yields the block and it, if something was done."""
        if isinstance(answer, Dropped):
            return
        if isinstance(answer, Done):
            rows, loading_s, seconds = answer.rows, answer.loading_s, answer.seconds
        else:
            rows, loading_s, seconds = 1, answer, ROW_S  # only its model was loaded
        flow.settled(block, rows)
        if loading_s:
            schedule.loaded(seat.id, block.model, loading_s)
            self._tally.loaded(block.model, loading_s)
        seat.loaded.add(block.model)
        schedule.done(seat.id, block.model, block.size, seconds, time.monotonic())
        if isinstance(answer, Done):
            self._tally.took(seat.id, block.model, self._specs[block.model].batch_size, answer)
            it = schedule.models[block.model]
            self._costs[block.model] = (it.row_s, it.load_s)
        yield block, answer

    def _lost(self, seat: Seat, schedule: Schedule, flow: Flow, error: ray.exceptions.RayActorError) -> None:
        """A host is gone, with its node or alone: its blocks wait again."""
        log.info("%s was lost: %s", seat.id, last_line(error))
        if flow.count_loss() > MAX_LOST:
            raise error
        del self._seats[seat.id]
        if seat.id not in schedule.hosts:
            schedule.host_up(seat.id, seat.crew, time.monotonic())
        schedule.host_gone(seat.id)
        for block in seat.in_flight.values():
            flow.back(block)
            schedule.returned(block.model, block.size)

    def _start(self, crew: Crew) -> None:
        """Ask for a host."""
        local = any(self._specs[model].server is None for model in crew.models)
        self._started += 1
        seat = Seat.start(f"host-{self._started}", crew, IMPORTS if local else ())
        self._seats[seat.id] = seat

    def _warm(self) -> None:
        """Ask for the first hosts while there is work without models: those that small models of all stages share."""
        for crew in self._crews() if not self._seats else ():
            if len(crew.models) > 1 and crew.most is None:
                self._start(crew)

    def _stop(self, seat: Seat) -> None:
        del self._seats[seat.id]
        seat.stop()

    def _stop_all(self) -> None:
        """End every host; what they have in flight is not waited for."""
        for seat in list(self._seats.values()) if ray.is_initialized() else ():
            self._stop(seat)
        self._seats.clear()


def _fits(old: Crew, new: Crew) -> bool:
    """Whether a host of one crew can be one of the other."""
    same = (old.num_cpus, old.num_gpus, old.most) == (new.num_cpus, new.num_gpus, new.most)
    return same and set(old.models) <= set(new.models)
