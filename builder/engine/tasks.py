"""Work without models, as Ray tasks: any node does it, and what is lost is done again."""

from collections import deque
from collections.abc import Iterator

import pyarrow as pa
import ray

from cyclepref.builder.common.stopping import Interrupted, stop_requests
from cyclepref.builder.engine.answers import Step, believed, ray_errors, through
from cyclepref.builder.engine.plan import Cluster

MAX_RETRIES = 5
# How often the driver looks whether it was asked to stop.
TICK_S = 1.0


def run_tasks(blocks: list[pa.Table], steps: tuple[Step, ...], cluster: Cluster) -> Iterator[pa.Table]:
    """What the last step makes of each block, in any order; as `cyclepref.builder.engine.engine.Engine.run_tasks`."""
    window = max(2, cluster.cpus)
    # They reserve no core, so that on a small machine the models get them all.
    strategy = "SPREAD" if len(cluster.nodes) > 1 else "DEFAULT"
    task = ray.remote(num_cpus=0, max_retries=MAX_RETRIES, scheduling_strategy=strategy)(through)
    put, waiting, running, asked = ray.put(steps), deque(blocks), [], []
    with ray_errors(), stop_requests(lambda: asked.append(True)):
        while running or (waiting and not asked):
            while waiting and len(running) < window and not asked:
                running.append(task.remote(waiting.popleft(), put))
            done, running = ray.wait(running, timeout=TICK_S)
            for answer in ray.get(done):
                yield believed(answer)
    if asked:
        raise Interrupted("stopped as asked")
