"""The only file that imports ray: blocks of rows stream through a cluster and leave receipts.

A block is a small Arrow table of ids. On the cluster it is filled with content (a CPU task), worked on (an actor
whose child process keeps its models loaded, or nothing), and written (a CPU task); what comes back to the driver is a
receipt of counts. Content never passes through the driver, and errors travel as data: Ray has nothing to print.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import psutil
import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from builder.interruption import Gate, Interrupted, stop_requests
from builder.journal import Journal
from builder.launcher import launcher_workers, node_of, waiting_told
from builder.plan import Cluster, Node
from builder.progress import silent_stderr
from builder.supervisor import Supervised, is_trouble, trouble
from schemas.errors import CyclePrefError
from schemas.specs import Spec

log = logging.getLogger("cyclepref.engine")

# Ray Data replaces a dead actor and tries its block again, for ever by default. A model's death is not an actor's (see
# builder/supervisor.py): these are for actors that are killed themselves, or lost with their node.
# A lost node is noticed after some 30 seconds, and a retry comes every two.
MAX_TASK_RETRIES = 30
# On a busy machine parts of Ray wait too briefly for one another, and a second start finds them in the
# disk's cache.
STARTS = 3
# How long after a stop Ray may go on telling of it.
LAST_WORDS_S = 0.5
# An output block above this is split, and so written as several parts.
MAX_BLOCK_BYTES = 256 * 2**20

Step = Callable[[pa.Table], pa.Table]


class EngineError(CyclePrefError, RuntimeError):
    """A worker could not start, or went on dying; the message ends with its own error, and `kind` is its class."""

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


@dataclass(frozen=True)
class Lane:
    """Blocks for one pool of actors: `worker(**kwargs)` makes a `builder.supervisor.Worker`.

    `specs` are the settings of its models by name, `key` is the column of the rows' ids.
    """

    blocks: list[pa.Table]
    worker: type
    specs: dict[str, Spec]
    key: str
    journal: Journal
    kwargs: dict[str, Any] = field(default_factory=dict)
    actors: int = 1
    num_cpus: int = 1
    num_gpus: float = 0


class Engine:
    """A connection to a Ray cluster, made when it is first needed: a finished run never starts one.

    It joins the cluster that RAY_ADDRESS or a Ray job names, or starts one on this machine and stops it at the end.
    """

    def __init__(self) -> None:
        self._started = False
        self._streams = 0

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:
            ray.shutdown()

    @cached_property
    def cluster(self) -> Cluster:
        """What there is to run on; starts or joins the cluster.

        Raises:
            EngineError: if there is none to join, or none can be started.
        """
        if not ray.is_initialized():
            _connect(os.environ.get("RAY_ADDRESS"))
            self._started = True
        found = Cluster.of(_nodes())
        if not found.gpus:
            log.warning("no GPU on this cluster: models run on %d CPU cores", found.cpus)
        return found

    def run_tasks(self, blocks: list[pa.Table], *steps: Step) -> Iterator[pa.Table]:
        """Run blocks through CPU tasks alone; yields what the last step returns, receipts or a row for each row, in
        any order.

        Raises:
            EngineError: if a step raises; the message is the error's own.
            Interrupted: if the build was asked to stop and has finished what was in flight.
        """
        if blocks and self.cluster:  # Ray Data would start a cluster of its own
            stream = self._stream()
            first, *others = steps
            admitted = partial(_admitted, stream=stream, step=first)
            yield from _results(self._mapped(ray.data.from_arrow(blocks), admitted, *others), stream)

    def run_pools(self, lanes: list[Lane], before: Step, after: Step) -> Iterator[pa.Table]:
        """Run every lane's blocks through `before`, its pool of actors and `after`, all lanes at once.

        Yields the receipts that `after` returns, in any order. A block whose actor dies is tried again on a new one,
        at most MAX_TASK_RETRIES times.

        Raises:
            EngineError: if a step, or a worker's constructor, raises; the message is the error's own.
            Interrupted: if the build was asked to stop and has finished what was in flight.
        """
        lanes = [lane for lane in lanes if lane.blocks]
        if lanes and self.cluster:
            stream = self._stream()
            pools = [self._pooled(lane, partial(_while_open, stream=stream, step=before), stream) for lane in lanes]
            merged = pools[0].union(*pools[1:]) if len(pools) > 1 else pools[0]
            try:
                with waiting_told(partial(_missing, lanes)):
                    yield from _results(self._mapped(merged, after), stream)
            except BaseException as end:
                if not isinstance(end.__cause__, ray.exceptions.RayError):
                    lanes[0].journal.forgive()  # what is in flight now was ended on purpose
                raise

    @cached_property
    def _gate(self) -> Any:
        """The gate of all streams, beside the driver, so that no other node's end takes it along."""
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=True)
        return ray.remote(num_cpus=0, max_restarts=-1, max_task_retries=-1, scheduling_strategy=here)(Gate).remote()

    def _stream(self) -> "Stream":
        self._streams += 1
        return Stream(self._gate, self._streams)

    def _pooled(self, lane: Lane, before: Step, stream: "Stream") -> ray.data.Dataset:
        pool = ray.data.ActorPoolStrategy(size=min(lane.actors, len(lane.blocks)), max_tasks_in_flight_per_actor=2)
        supervised = {name: getattr(lane, name) for name in ("worker", "kwargs", "specs", "key", "journal")}
        # With GPUs `map_batches` wants a batch size, by which it would join blocks of different models. (This is a
        # developer API; pyproject.toml keeps Ray below the version that drops extra arguments like the last.)
        return self._mapped(ray.data.from_arrow(lane.blocks), before).map_batches_internal(
            Gated,
            fn_constructor_kwargs={"stream": stream, **supervised},
            batch_size=None,
            batch_format="pyarrow",
            compute=pool,
            # Declared, since Ray gives an actor without num_cpus one thread.
            num_cpus=lane.num_cpus,
            num_gpus=lane.num_gpus,
            max_task_retries=MAX_TASK_RETRIES,
        )

    def _mapped(self, dataset: ray.data.Dataset, *steps: Step) -> ray.data.Dataset:
        """CPU steps, a task per block. They reserve no core, so that on a small machine the models get them all."""
        tasks = ray.data.TaskPoolStrategy(size=max(1, self.cluster.cpus // 2))
        for step in steps:
            guarded = partial(_guarded, step=step)
            dataset = dataset.map_batches(guarded, batch_size=None, batch_format="pyarrow", compute=tasks, num_cpus=0)
        return dataset


# ---- steps on the cluster: errors as data, and a way to stop ---------------------------------------------------


def _guarded(block: pa.Table, step: Step) -> pa.Table:
    """A step that turns an exception into a table of trouble, and hands on what is no block of rows."""
    if not block.num_rows or is_trouble(block):
        return block
    try:
        return step(block)
    except Exception as error:
        return trouble(error)


def _admitted(block: pa.Table, stream: "Stream", step: Step) -> pa.Table:
    """A step that is all the work there is: once the gate is closed, what has not begun passes as nothing."""
    first = str(block.slice(0, 1).to_pylist())
    return step(block) if stream.admit(first, block.num_rows) else block.slice(0, 0)


def _while_open(block: pa.Table, stream: "Stream", step: Step) -> pa.Table:
    """A step before the work. It runs far ahead of the models, so what it has done is not yet in flight."""
    return step(block) if stream.is_open() else block.slice(0, 0)


class Gated(Supervised):
    """A supervised worker that asks at the gate before it begins a block."""

    def __init__(self, stream: "Stream", **supervised: Any):
        self.stream = stream
        super().__init__(**supervised)

    def __call__(self, block: pa.Table) -> pa.Table:
        """As of `Supervised`; a block that comes too late passes as nothing, and a journal that cannot be kept (a full
        disk, an object store that is away) is trouble."""
        if not block.num_rows or is_trouble(block):
            return block
        if not self.stream.admit(block[self.key][0].as_py(), block.num_rows):
            return block.slice(0, 0)
        try:
            return super().__call__(block)
        except Exception as error:
            return trouble(error)


@dataclass(frozen=True)
class Stream:
    """One of an engine's streams at the gate."""

    gate: Any
    number: int

    def is_open(self) -> bool:
        """Whether anything may begin."""
        return ray.get(self.gate.is_open.remote(self.number))

    def admit(self, block: str, rows: int) -> bool:
        """Whether a block, named by its first row, may begin."""
        return ray.get(self.gate.admit.remote(self.number, block, rows))

    def close(self) -> int:
        """Let no more blocks begin; returns how many rows have."""
        return ray.get(self.gate.close.remote(self.number))


def _connect(address: str | None) -> None:
    """Join the cluster at an address, or start one on this machine."""
    local = {} if address else {"include_dashboard": False, "log_to_driver": False}
    # Its C++ core would put advice about actor arguments on our screen; worker logs keep their own level.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    what = f"cannot join the Ray cluster at {address}" if address else "cannot start Ray on this machine"
    ours = set(psutil.Process().children(recursive=True))
    try:
        for tries_left in reversed(range(STARTS)):
            try:
                with silent_stderr():
                    # Without an address Ray would join any cluster that was started on this machine.
                    ray.init(address=address or "local", logging_level=logging.ERROR, **local)
                break
            except (Exception, SystemExit) as error:
                _end(set(psutil.Process().children(recursive=True)) - ours)
                if not tries_left:
                    raise EngineError(f"{what}: {_last_line(error)}") from error
                log.info("%s, trying again: %s", what, _last_line(error))
    finally:
        if threading.current_thread() is threading.main_thread():
            # Ray has one for SIGTERM, which would end the build at once.
            for number, handler in handlers.items():
                signal.signal(number, handler)


def _end(processes: set[psutil.Process]) -> None:
    """End what a start of Ray that failed has left behind: it would compete with the next one."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(processes, timeout=10)


def _nodes() -> list[Node]:
    """The nodes that are up; on an autoscaling cluster those that may be, since workers start when actors ask."""
    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    heads = [node_of(resources) for resources in up if "node:__internal_head__" in resources]
    workers = launcher_workers() if os.environ.get("RAY_ADDRESS") else []
    return max([node_of(resources) for resources in up], heads + workers, key=_size)


def _missing(lanes: list[Lane]) -> str:
    """What lanes need of one node and none that is up has; empty, if there is room for all."""
    up = [node_of(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    for lane in lanes:
        if not any(node.gpus >= lane.num_gpus and node.cpus >= lane.num_cpus for node in up):
            return f"{lane.num_gpus:g} GPUs and {lane.num_cpus} CPU cores for {', '.join(lane.specs)}"
    return ""


def _size(nodes: list[Node]) -> tuple[float, int]:
    """GPUs and CPU cores of all of them."""
    return sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)


def _results(dataset: ray.data.Dataset, stream: Stream) -> Iterator[pa.Table]:
    """The receipts of a stream, until it ends or, after a request to stop, all that has begun is done."""
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = MAX_BLOCK_BYTES
    # What goes wrong is raised below; Ray Data would print the same trace twice before.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    begun: list[int] = []
    receipts = iter(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0))
    done = 0
    try:
        with stop_requests(lambda: begun.append(stream.close())):
            for receipt in receipts:
                if is_trouble(receipt):
                    log.info("%s", receipt["trace"][0])
                    raise EngineError(f"a worker failed: {receipt['trouble'][0]}", str(receipt["kind"][0]))
                if receipt.num_rows:
                    done += _rows_done(receipt)
                    yield receipt
                if begun and done >= begun[0]:
                    break
        if begun:
            with silent_stderr():  # Ray tells of every task that waited before a model
                receipts.close()
                time.sleep(LAST_WORDS_S)
            raise Interrupted("stopped as asked")
    except ray.exceptions.RayActorError as error:
        log.info("the cause, as Ray tells it:", exc_info=error)
        raise EngineError(
            f"a worker or its node was lost and did not come back ({type(error).__name__}): what was finished is "
            "saved; run the same command again"
        ) from error
    except ray.exceptions.RayError as error:
        log.info("the cause, as Ray tells it:", exc_info=error)
        raise EngineError(f"a worker failed: {_last_line(error)}") from error


def _rows_done(result: pa.Table) -> int:
    """How many rows a stream's result stands for: a receipt says so, other tables have a row for each."""
    return sum(result["done"].to_pylist()) if "done" in result.column_names else result.num_rows


def _last_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
