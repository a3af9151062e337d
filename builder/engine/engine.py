"""Blocks of rows stream through a Ray cluster and leave receipts.

A block is a small Arrow table of ids. On the cluster it is filled with content (a CPU task), worked on (an actor
whose child process keeps its models loaded, or nothing), and written (a CPU task); what comes back to the driver is a
receipt of counts. Content never passes through the driver, and errors travel as data: Ray has nothing to print.
"""

import logging
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from cyclepref.builder.common.progress import silent_stderr
from cyclepref.builder.common.stopping import Gate, Interrupted, stop_requests
from cyclepref.builder.engine.cluster import EngineError, connected, last_line
from cyclepref.builder.engine.gated import Gated, Step, admitted, guarded, while_open
from cyclepref.builder.engine.nodes import launcher_workers, node_of, waiting_told
from cyclepref.builder.engine.plan import Cluster, Node
from cyclepref.builder.engine.supervisor import is_trouble
from cyclepref.builder.engine.watch import Watch
from cyclepref.builder.run.in_flight import Journal
from cyclepref.schemas.specs import Spec

log = logging.getLogger("cyclepref.engine")

# Ray Data replaces a dead actor and tries its block again, for ever by default. A model's death is not an actor's (see
# builder/engine/supervisor.py): these are for actors that are killed themselves, or lost with their node.
# A lost node is noticed after some 30 seconds, and a retry comes every two.
MAX_TASK_RETRIES = 30
# How long after a stop Ray may go on telling of it.
LAST_WORDS_S = 0.5
# An output block above this is split, and so written as several parts.
MAX_BLOCK_BYTES = 256 * 2**20


@dataclass(frozen=True)
class Lane:
    """Blocks for one pool of actors: `worker(**kwargs)` makes a `cyclepref.builder.engine.supervisor.Worker`.

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
    One that it starts listens on loopback alone and has a token of its own. While it is connected, the death of Ray's
    gcs_server or of this node's raylet ends this process with a message and exit status 1 (see
    builder/engine/watch.py).
    """

    def __init__(self) -> None:
        self._connection = ExitStack()
        self._watch: Watch | None = None
        self._streams = 0

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    @cached_property
    def cluster(self) -> Cluster:
        """What there is to run on; starts or joins the cluster.

        Raises:
            EngineError: if there is none to join, or none can be started.
        """
        if not ray.is_initialized():
            self._watch = self._connection.enter_context(connected(os.environ.get("RAY_ADDRESS")))
        found = Cluster.of(_nodes())
        if not found.gpus:
            log.warning("no GPU on this cluster: models run on %d CPU cores", found.cpus)
        return found

    @property
    def on_loopback(self) -> bool:
        """Whether the cluster is one that this engine started: on this machine, and no other reaches it."""
        return self._watch is not None and bool(self._watch.ours)

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
            steps = (partial(admitted, stream=stream, step=first), *others)
            yield from _results(self._mapped(ray.data.from_arrow(blocks), *steps), stream)

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
            pools = [self._pooled(lane, partial(while_open, stream=stream, step=before), stream) for lane in lanes]
            merged = pools[0].union(*pools[1:]) if len(pools) > 1 else pools[0]
            if self._watch:
                self._watch.before_end = lanes[0].journal.forgive
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
            safe = partial(guarded, step=step)
            dataset = dataset.map_batches(safe, batch_size=None, batch_format="pyarrow", compute=tasks, num_cpus=0)
        return dataset


@dataclass(frozen=True)
class Stream:
    """One of an engine's streams at the gate; a `cyclepref.builder.engine.gated.Door`."""

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
    done, exhausted = 0, False
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
            else:
                exhausted = True
        if begun:
            raise Interrupted("stopped as asked")
    except ray.exceptions.RayActorError as error:
        log.info("the cause, as Ray tells it:", exc_info=error)
        raise EngineError(
            f"a worker or its node was lost and did not come back ({type(error).__name__}): what was finished is "
            "saved; run the same command again"
        ) from error
    except ray.exceptions.RayError as error:
        log.info("the cause, as Ray tells it:", exc_info=error)
        raise EngineError(f"a worker failed: {last_line(error)}") from error
    finally:
        if not exhausted:
            with silent_stderr():  # Ray prints a line for every task that waited before a model
                receipts.close()
                time.sleep(LAST_WORDS_S)


def _rows_done(result: pa.Table) -> int:
    """How many rows a stream's result stands for: a receipt says so, other tables have a row for each."""
    return sum(result["done"].to_pylist()) if "done" in result.column_names else result.num_rows
