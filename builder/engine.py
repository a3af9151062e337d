"""The only file that imports ray: blocks of rows stream through a cluster and leave receipts.

A block is a small Arrow table of ids. On the cluster it is filled with content (a CPU task), worked on (an actor
that keeps its models loaded, or nothing), and written (a CPU task); what comes back to the driver is a receipt of
counts. Content never passes through the driver.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import ray
import ray.data
import ray.exceptions
import yaml

from builder.plan import Cluster, Node
from schemas.errors import CyclePrefError

log = logging.getLogger("cyclepref.engine")

# Ray Data replaces a dead actor and tries its block again, for ever by default.
MAX_TASK_RETRIES = 2
# An output block above this is split, and so written as several parts.
MAX_BLOCK_BYTES = 256 * 2**20

LAUNCHER_CONFIG = Path("~/ray_bootstrap_config.yaml").expanduser()

Step = Callable[[pa.Table], pa.Table]


class EngineError(CyclePrefError, RuntimeError):
    """A worker could not start, or went on dying; the message ends with its own error."""


@dataclass(frozen=True)
class Lane:
    """Blocks for one pool of actors: `worker(**kwargs)` makes a callable from block to block."""

    blocks: list[pa.Table]
    worker: type
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

    def __enter__(self) -> "Engine":
        return self

    def __exit__(self, *_: object) -> None:
        if self._started:
            ray.shutdown()

    @cached_property
    def cluster(self) -> Cluster:
        """What there is to run on; starts or joins the cluster."""
        if not ray.is_initialized():
            address = os.environ.get("RAY_ADDRESS")
            local = {} if address else {"include_dashboard": False, "log_to_driver": False}
            # Its C++ core would put advice about actor arguments on our screen; worker logs keep their own level.
            os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
            with _silent_stderr():
                # Without an address Ray would join any cluster that was started on this machine.
                ray.init(address=address or "local", logging_level=logging.ERROR, **local)
            self._started = True
        found = Cluster.of(_nodes())
        if not found.gpus:
            log.warning("no GPU on this cluster: models run on %d CPU cores", found.cpus)
        return found

    def run_tasks(self, blocks: list[pa.Table], *steps: Step) -> Iterator[pa.Table]:
        """Run blocks through CPU tasks alone; yields what the last step returns, in any order."""
        if blocks and self.cluster:  # Ray Data would start a cluster of its own
            yield from _results(self._mapped(ray.data.from_arrow(blocks), *steps))

    def run_pools(self, lanes: list[Lane], before: Step, after: Step) -> Iterator[pa.Table]:
        """Run every lane's blocks through `before`, its pool of actors and `after`, all lanes at once.

        Yields what `after` returns, in any order. A block whose worker dies is tried again on a new actor, at most
        MAX_TASK_RETRIES times; an exception in a worker's constructor or call ends the run with an EngineError.
        """
        streams = [self._pooled(lane, before) for lane in lanes if lane.blocks and self.cluster]
        if streams:
            merged = streams[0].union(*streams[1:]) if len(streams) > 1 else streams[0]
            yield from _results(self._mapped(merged, after))

    def _pooled(self, lane: Lane, before: Step) -> ray.data.Dataset:
        pool = ray.data.ActorPoolStrategy(size=min(lane.actors, len(lane.blocks)), max_tasks_in_flight_per_actor=2)
        # With GPUs `map_batches` wants a batch size, by which it would join blocks of different models. (This is a
        # developer API; pyproject.toml keeps Ray below the version that drops extra arguments like the last.)
        return self._mapped(ray.data.from_arrow(lane.blocks), before).map_batches_internal(
            lane.worker,
            fn_constructor_kwargs=lane.kwargs,
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
            dataset = dataset.map_batches(step, batch_size=None, batch_format="pyarrow", compute=tasks, num_cpus=0)
        return dataset


def _nodes() -> list[Node]:
    """The nodes that are up; on an autoscaling cluster those that may be, since workers start when actors ask."""
    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    heads = [_node(resources) for resources in up if "node:__internal_head__" in resources]
    workers = launcher_workers() if os.environ.get("RAY_ADDRESS") else []
    return max([_node(resources) for resources in up], heads + workers, key=_size)


def _size(nodes: list[Node]) -> tuple[float, int]:
    """GPUs and CPU cores of all of them."""
    return sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)


def _node(resources: dict[str, float]) -> Node:
    return Node(int(resources.get("CPU", 0)), resources.get("GPU", 0))


def launcher_workers(config: Path = LAUNCHER_CONFIG) -> list[Node]:
    """All the workers that the cluster launcher may start at once, if it started this cluster; those with the most
    GPUs first, up to its `max_workers` in all.

    Ray's autoscaler does not say, so this reads the file that `ray up` leaves on the head, where jobs run.
    """
    if not config.is_file():
        return []
    content = yaml.safe_load(config.read_text(encoding="utf-8"))
    types = [kind for name, kind in content["available_node_types"].items() if name != content["head_node_type"]]
    nodes = [_node(kind["resources"]) for kind in types for _ in range(kind.get("max_workers", 0))]
    return sorted(nodes, key=lambda node: (-node.gpus, -node.cpus))[: content.get("max_workers")]


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """Ray's C++ core announces on file descriptor 2 that its log level was set; what fails still raises."""
    kept, null = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(null, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(null)


def _results(dataset: ray.data.Dataset) -> Iterator[pa.Table]:
    context = dataset.context
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = MAX_BLOCK_BYTES
    # What goes wrong is raised below; Ray Data would print the same trace twice before.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayError as error:
        last_line = str(error).strip().splitlines()[-1]
        raise EngineError(f"a worker failed: {last_line}") from error
