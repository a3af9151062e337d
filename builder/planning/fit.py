"""Whether models fit the GPUs that they are to run on: by an estimate from their parameters, before they are read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cyclepref.builder.costs.gpus import Gpu
from cyclepref.builder.engine.plan import Cluster, PlanError, crews
from cyclepref.schemas.direct_specs import DirectSpec
from cyclepref.schemas.specs import CaptionerSpec, ModelSpec

LESS = "lower its dtype or batch_size, use a smaller model"


@dataclass(frozen=True)
class Fit:
    """The memory that a model needs of each of its GPUs in GB, None where its size is not known; what there is; and
    what is wrong, as a line with the way out, or None."""

    needed_gb: float | None
    there_gb: float
    wrong: str | None


def fit(spec: Any, gpu: Gpu) -> Fit:
    """Whether a model fits a type of GPU. `spec.parameters` should be filled in where it can be known."""
    if isinstance(spec, DirectSpec) and spec.model is not None:
        return fit(spec.model.model_copy(update={"num_gpus": spec.num_gpus}), gpu)
    if not isinstance(spec, ModelSpec) or spec.num_gpus == 0:
        return Fit(None, gpu.memory_gb, None)
    # Captioners are spread over whole GPUs by their layers; a pipeline sits on one.
    spread = spec.num_gpus if isinstance(spec, CaptionerSpec) and spec.num_gpus > 1 else 1
    share = min(1.0, spec.num_gpus)
    there = gpu.memory_gb * share
    if spec.dtype == "bfloat16" and not gpu.bfloat16:
        return Fit(spec.memory_gb, there, f"the {gpu.name} has no bfloat16: set dtype to float16 in its settings")
    if spec.memory_gb is None:
        return Fit(None, there, None)
    each = round(spec.memory_gb / spread, 1)
    if each <= there or getattr(spec, "cpu_offload", None):
        return Fit(each, there, None)
    place = f"one {gpu.name} has {gpu.memory_gb:g}" if share == 1 else f"{share:g} of a {gpu.name} is {there:g}"
    if share < 1:
        way_out = "raise num_gpus in its settings"
    elif isinstance(spec, CaptionerSpec):
        count = _gpus_for(spec.memory_gb, gpu.memory_gb)
        way_out = f"give it {count} (num_gpus: {count} in its settings), {LESS} or a larger GPU"
    else:
        way_out = f"set cpu_offload: model in its settings, {LESS} or a larger GPU"
    return Fit(
        each, there, f"needs about {each:g} GB of each GPU in {spec.dtype} (an estimate), and {place}: {way_out}"
    )


def _gpus_for(needed: float, each: float) -> int:
    return max(2, -(-int(needed * 10) // int(each * 10)))


def misfits(specs: Iterable[Any], gpu: Gpu | None) -> list[str]:
    """What does not fit, a line each with the model's name."""
    if gpu is None:
        return []
    return [f"{spec.name}: {wrong}" for spec in specs if (wrong := fit(spec, gpu).wrong)]


def places(specs: Mapping[str, Any], cluster: Cluster) -> list[str]:
    """Models that need more GPUs than a node has, a line each."""
    found = []
    for name, spec in specs.items():
        try:
            crews({name: spec}, cluster)
        except PlanError as error:
            found.append(str(error))
    return found
