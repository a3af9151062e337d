"""Hosts as the driver sees them: Ray actors on their share of a node, and the blocks that each has in flight.

A host lives until the build ends or its place is needed, and keeps the models that it has loaded. What it is given are
rows of ids, what it gives back receipts: content goes between the host and the store and never through Ray.
"""

from dataclasses import dataclass, field

import pyarrow as pa
import ray
from ray.actor import ActorHandle

from cyclepref.builder.engine.flow import Block
from cyclepref.builder.engine.plan import Crew
from cyclepref.builder.engine.supervisor import Supervised
from cyclepref.builder.engine.task import Done, Dropped, Task, Trouble

# Blocks in flight on one host: one is read, one is worked on, one is written.
SLOTS = 3
# What every model that runs here needs, and what takes longest to import: while inputs are read, nobody waits for it.
IMPORTS = ("torch", "transformers")


class Host:
    """What runs in the actor. It loads no library of a model itself: its child process does."""

    def __init__(self, imports: tuple[str, ...]) -> None:
        self._supervised = Supervised(imports)
        self._tasks: dict[str, Task] = {}

    def up(self) -> None:
        """Answers once the host is there."""

    def work(self, name: str, task: list[ray.ObjectRef], rows: pa.Table | None) -> Done | Dropped | Trouble | float:
        """Work on rows of a task, or, without rows, load its model. Errors are data: Ray has nothing to print."""
        try:
            if name not in self._tasks:
                self._tasks[name] = ray.get(task[0])
            if rows is None:
                return self._supervised.load(name, self._tasks[name])
            return self._supervised.work(name, self._tasks[name], rows)
        except Exception as error:  # a journal that cannot be kept, code that is not on this node
            return Trouble.of(error)

    def drop(self) -> None:
        """Begin nothing more; what has begun is finished."""
        self._supervised.drop()


@dataclass
class Seat:
    """One host, from the driver's side. `starting` is answered once Ray has found a place for it."""

    id: str
    crew: Crew
    actor: ActorHandle
    starting: ray.ObjectRef | None
    loaded: set[str] = field(default_factory=set)
    in_flight: dict[ray.ObjectRef, Block] = field(default_factory=dict)

    @classmethod
    def start(cls, id: str, crew: Crew, imports: tuple[str, ...]) -> "Seat":
        """Ask Ray for a host; where there is no room yet, an autoscaler sees what is asked for."""
        actor = ray.remote(Host).options(
            # Declared, since Ray gives an actor without num_cpus one thread.
            num_cpus=crew.num_cpus,
            num_gpus=crew.num_gpus,
            max_concurrency=SLOTS + 2,
            max_restarts=0,
        ).remote(imports)  # fmt: skip
        return cls(id, crew, actor, actor.up.remote())

    def give(self, block: Block) -> None:
        """Put a block in flight."""
        lane = block.lane
        self.in_flight[self.actor.work.remote(lane.name, [lane.ref], block.rows)] = block

    def awaited(self) -> list[ray.ObjectRef]:
        """What it has not answered yet."""
        return [*self.in_flight, *([] if self.starting is None else [self.starting])]

    def drop(self) -> None:
        """Begin nothing more; what has begun is finished."""
        self.actor.drop.remote()

    def stop(self) -> None:
        """End the host, and with it its child."""
        ray.kill(self.actor)
