"""Nodes that are not there (yet): what the cluster launcher may start, and waiting for one that is missing."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import yaml

from cyclepref.builder.common.progress import console, plain
from cyclepref.builder.engine.plan import Node

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
