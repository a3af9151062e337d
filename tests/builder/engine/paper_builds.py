"""What is simulated: the two recipes of the paper as models with their true costs, clusters, and a lower bound."""

import math
from collections.abc import Callable
from dataclasses import dataclass

from cyclepref.builder.engine.plan import Cluster, Node

GPUS_PER_NODE = 8


@dataclass(frozen=True)
class Model:
    """A model as it truly is: seconds a row on its host, seconds to load, and the share of a GPU that it needs."""

    name: str
    row_s: float
    load_s: float
    batch: int = 16
    gpus: float = 1.0
    samples: int = 1
    batches_per_part: int = 4

    @property
    def batch_s(self) -> float:
        """Seconds of a batch, whole or short (a short one is padded)."""
        return self.row_s * self.batch


@dataclass(frozen=True)
class Build:
    """Inputs x forward models -> candidates -> reconstructions -> measures."""

    inputs: int
    forward: tuple[Model, ...]
    backward: Model
    metric: Model

    @property
    def models(self) -> tuple[Model, ...]:
        """All of them, in order of the data's flow."""
        return (*self.forward, self.backward, self.metric)

    def rows(self, model: Model) -> int:
        """Rows of a model in the whole build."""
        candidates = self.inputs * sum(it.samples for it in self.forward)
        return self.inputs * model.samples if model in self.forward else candidates

    def changed(self, change: Callable[[Model], Model]) -> "Build":
        """The build with every model changed."""
        return Build(self.inputs, tuple(map(change, self.forward)), change(self.backward), change(self.metric))


def captioner(name: str, billions: float, row_s: float, batch: int = 16, gpus: float = 1) -> Model:
    """Loads in 15 s of imports and a second for each of its GB in bf16."""
    return Model(name, row_s, 15 + 2 * billions, batch, gpus)


# Costs on an H100 as they were guessed by hand once (`cyclepref plan` reckons otherwise, which changes no test here);
# batches and shares of a GPU are the catalog's and the recipes'. The captioners' 0.1 to 0.6 s go by their sizes.
I2T = Build(
    7600,
    (
        captioner("blip2-xxl", 12.2, 0.3), captioner("llava-7b", 7.1, 0.2), captioner("llava-13b", 13.4, 0.3),
        captioner("llava-1.6-7b", 7.6, 0.3), captioner("llava-1.6-34b", 34.8, 0.6, batch=2),
        captioner("onevision-0.5b", 0.9, 0.1), captioner("onevision-7b", 8.0, 0.2), captioner("internvl-2b", 2.1, 0.1),
        captioner("internvl-8b", 7.9, 0.2), captioner("internvl-14b", 15.1, 0.3),
        captioner("internvl-38b", 38.4, 0.6, batch=2),
    ),
    Model("sd3", 5.2, 30, batch=8),
    Model("dreamsim", 3600 / 91_200, 20, batch=32, gpus=0.25, batches_per_part=16),
)  # fmt: skip
T2I = Build(
    7600,
    (
        Model("sd15", 0.5, 17, batch=16, samples=3), Model("sdxl", 3.5, 22, batch=8, samples=3),
        Model("sd3", 5.2, 30, batch=8, samples=3), Model("flux", 1.2, 49, batch=4, samples=3),
    ),
    captioner("llava-13b", 13.4, 0.25),
    Model("sbert", 0.002, 16, batch=32, gpus=0.1, batches_per_part=16),
)  # fmt: skip


def cluster_of(gpus: int) -> Cluster:
    """Nodes of eight GPUs, or one of fewer."""
    nodes = [min(GPUS_PER_NODE, gpus - at) for at in range(0, gpus, GPUS_PER_NODE)]
    return Cluster.of([Node(12 * each, each) for each in nodes])


# ---- the lower bound -------------------------------------------------------------------------------------------


def lower_bound(build: Build, gpu_seconds: Callable[[float], float]) -> float:
    """Seconds that no schedule can beat, were it told all costs beforehand: the smallest T for which all hold.

    1. Critical path: the first input's candidates are there once every forward model has been loaded and has done a
       batch, `first`; then come one batch of the backward model and one of the metric. So T >= first + both.
    2. The backward model's and the metric's work fits on the GPUs after `first`, when its first row is ready.
    3. Work and necessary loads fit on the GPUs: sum of share x (work + loads x load_s) over all models <= the GPU
       seconds there are until T. A model's work is its rows x seconds a row. What its host can work in T is less:
       it loads first, or waits for the first row to be ready if that takes longer; and after its last row there must be
       time for a batch of each model downstream. So a model must be loaded at least ceil(work / (that time)) times,
       and at least once.

    Not in it, though no schedule can avoid them: that hosts of a model end up to one batch apart, that a short batch
    costs a whole one, and that the rows ready at any moment may be too few. `gpu_seconds(T)` are the GPUs' seconds up
    to T: T x GPUs, if no node comes or goes.
    """
    first = max(model.load_s + model.batch_s for model in build.forward)
    after = build.backward.batch_s + build.metric.batch_s

    def times(model: Model) -> tuple[float, float]:
        """When a host of the model can begin at best, and how long before the end it must be done."""
        if model in build.forward:
            return model.load_s, after
        if model is build.backward:
            return max(model.load_s, first), build.metric.batch_s
        return max(model.load_s, first + build.backward.batch_s), 0.0

    def possible(end: float) -> bool:
        if end < first + after:
            return False
        needed = 0.0
        for model in build.models:
            begin, rest = times(model)
            work = build.rows(model) * model.row_s
            if end - begin - rest <= 0:
                return False
            loads = max(1, math.ceil(work / (end - begin - rest)))
            needed += model.gpus * (work + loads * model.load_s)
        later = sum(it.gpus * build.rows(it) * it.row_s for it in (build.backward, build.metric))
        return needed <= gpu_seconds(end) and later <= gpu_seconds(end) - gpu_seconds(first)

    high = 1.0
    while not possible(high):
        high *= 2
    low = high / 2
    while high - low > high / 10_000:
        middle = (low + high) / 2
        low, high = (low, middle) if possible(middle) else (middle, high)
    return high


# ---- the simulation --------------------------------------------------------------------------------------------
