"""Nodes: those that are up, those that the cluster launcher may start, and waiting for one that is missing."""

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import ray
import yaml

from cyclepref.builder.common.progress import console, plain
from cyclepref.builder.engine.plan import Crew, Node
from cyclepref.builder.engine.task import name_of

LAUNCHER_CONFIG = Path("~/ray_bootstrap_config.yaml").expanduser()


def node_of(resources: dict[str, float]) -> Node:
    """A node by what Ray says it has."""
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
    nodes = [node_of(kind["resources"]) for kind in types for _ in range(kind.get("max_workers", 0))]
    return sorted(nodes, key=lambda node: (-node.gpus, -node.cpus))[: content.get("max_workers")]


@contextmanager
def waiting_told(missing: Callable[[], str], every_s: float = 60) -> Iterator[None]:
    """Say now and then what a cluster lacks, as long as `missing()` names something: Ray waits for it in silence."""
    ended = threading.Event()

    def tell() -> None:
        while not ended.wait(every_s):
            with suppress(Exception):  # of a cluster that is gone the build itself tells
                if what := missing():
                    console.print(plain(f"waiting: no node that is up has {what}"), soft_wrap=True)

    threading.Thread(target=tell, daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def nodes_up() -> list[Node]:
    """The nodes that are up; on an autoscaling cluster those that may be, since workers start when actors ask."""
    up = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    heads = [node_of(resources) for resources in up if "node:__internal_head__" in resources]
    workers = launcher_workers() if os.environ.get("RAY_ADDRESS") else []
    return max([node_of(resources) for resources in up], heads + workers, key=size_of)


def gpus_up() -> float:
    """The GPUs that are there now."""
    return sum(node["Resources"].get("GPU", 0.0) for node in ray.nodes() if node["Alive"])


def missing_on_nodes(wanted: list[Crew]) -> str:
    """What hosts need of one node and none that is up has; empty, if there is room for all."""
    up = [node_of(node["Resources"]) for node in ray.nodes() if node["Alive"]]
    for crew in wanted:
        if not any(node.gpus >= crew.num_gpus and node.cpus >= crew.num_cpus for node in up):
            return f"{crew.num_gpus:g} GPUs and {crew.num_cpus} CPU cores for {', '.join(map(name_of, crew.models))}"
    return ""


def size_of(nodes: Sequence[Node]) -> tuple[float, int]:
    """GPUs and CPU cores of all of them."""
    return sum(node.gpus for node in nodes), sum(node.cpus for node in nodes)
