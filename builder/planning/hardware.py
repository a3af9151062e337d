"""What a build is planned for: GPUs of a type that the user names, or what this machine has."""

import os
from dataclasses import dataclass, field

from cyclepref.builder.costs import measured
from cyclepref.builder.costs.gpus import Gpu, UnknownGpu, cards_here, gpu_named
from cyclepref.builder.engine.plan import Cluster, Node

GPUS_PER_NODE = 8
# CPU cores for each GPU of a machine that is only named.
CORES_PER_GPU = 12


@dataclass
class Hardware:
    """What a build is to run on: `gpus` of a type, on nodes of eight, each with so many CPU cores; or cores alone."""

    gpu: Gpu | None
    gpus: int
    cpus: int
    cluster: Cluster = field(init=False)

    def __post_init__(self) -> None:
        if not self.gpus:
            self.cluster = Cluster(self.cpus, 0)
            return
        sizes = [min(GPUS_PER_NODE, self.gpus - at) for at in range(0, self.gpus, GPUS_PER_NODE)]
        self.cluster = Cluster.of([Node(max(1, self.cpus * size // self.gpus), size) for size in sizes])

    @property
    def device(self) -> str:
        """As measured costs are kept by."""
        return self.gpu.name if self.gpu else measured.CPU


def hardware(gpus: int | None = None, gpu_type: str | None = None) -> Hardware:
    """What to plan for: `gpus` of a type (1 if only the type is named; 0 for CPU cores alone), or this machine.

    Raises:
        UnknownGpu: for a type whose figures are not known, or a number of GPUs without a type where this machine has
            none.
    """
    cores = os.cpu_count() or 1
    if gpus == 0:
        return Hardware(None, 0, cores)
    if gpu_type:
        count = gpus or 1
        return Hardware(gpu_named(gpu_type), count, CORES_PER_GPU * count)
    cards = cards_here()
    if not cards and gpus:
        raise UnknownGpu(f"{gpus} GPUs of which type? This machine has none: add --gpu-type, such as H100 or L4")
    if not cards:
        return Hardware(None, 0, cores)
    if cards[0].gpu is None:
        raise UnknownGpu(f"the figures of this machine's {cards[0].name} are not known: name a like one by --gpu-type")
    return Hardware(cards[0].gpu, gpus or len(cards), cores if not gpus else CORES_PER_GPU * gpus)
