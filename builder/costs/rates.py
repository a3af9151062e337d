"""Seconds that a row takes and a model needs to load, assumed from what is known of it before it has run.

Nothing here was measured on a GPU; each figure comes with how far it may be off (`factor`: so many times more or less).

Painting is counted in operations: steps x the operations of a step (`PainterSpec.step_tflop`, a megapixel at a time),
and a few for the text encoders and the autoencoder, at UTILISATION of what the GPU can do. A captioner reads image and
prompt in one pass, 2 operations a parameter and token, and then says `max_new_tokens` tokens, each of which costs its
batch one reading of all weights, or what transformers needs to launch a step where that is more. Metrics are small:
what they cost is mostly reading pictures.
"""

from dataclasses import dataclass
from typing import Any

from cyclepref.builder.costs.gpus import Gpu, gpu_named
from cyclepref.schemas.direct_specs import DenoisingSpec, DirectSpec
from cyclepref.schemas.specs import CaptionerSpec, EndpointSpec, MetricSpec, PainterSpec, SafetySpec

# What a row takes in seconds on a GPU, by kind, where nothing is known but that.
BY_KIND = {"text-to-image": 3.0, "captioner": 0.3, "metric": 0.02, "safety": 0.02}
# The share of a GPU's operations, and of its memory's bandwidth, that such models reach in PyTorch.
UTILISATION, BANDWIDTH_REACHED = 0.3, 0.6
# float32 runs on other units, at about this share of half precision's speed.
FLOAT32 = 1 / 15
# Tokens of an image and its question: 576 to 3,300 in the catalog, by family and picture.
IMAGE_TOKENS = 1500
# Captioners of so few parameters, as the embedded world's, see pictures of so few tokens.
SMALL, SMALL_TOKENS = 50_000_000, 64
# The least seconds of one step of transformers' generate, which Python needs to launch it.
STEP_S = 0.025
# Operations (1e12) for the text encoders of one prompt and for decoding a megapixel.
ENCODE_TFLOP, DECODE_TFLOP = 3.0, 3.0
# Imports take this long, and weights are read at so many bytes a second.
IMPORTS_S, READ_BYTES_S = 15.0, 1e9
# Operations a second of one CPU core in float32, as PyTorch reaches them.
CORE_TFLOPS = 0.03
# A metric's seconds for one comparison on a GPU, by kind: most of it is reading and decoding its pictures.
METRIC_S = {"sbert": 0.002, "lpips": 0.01, "embedding": 0.02, "dreamsim": 0.04}
MEGAPIXEL = 1024 * 1024


@dataclass(frozen=True)
class Rate:
    """Seconds that a row takes on one host and that its model takes to load; how that is known, and how many times
    more or less it may be."""

    row_s: float
    load_s: float
    why: str
    factor: float


def kind_of(spec: Any) -> str:
    """The kind of a model as BY_KIND names it."""
    return "metric" if isinstance(spec, MetricSpec) else str(spec.kind)


def by_kind(spec: Any) -> float:
    """Seconds a row on a GPU, by a model's kind alone: right enough to tell which models need more hosts."""
    return BY_KIND.get(getattr(spec, "kind", "") if not isinstance(spec, MetricSpec) else "metric", 1.0)


def assumed(spec: Any, gpu: Gpu | None, cores: int = 1) -> Rate:
    """What a model's row probably takes on a type of GPU, or on `cores` CPU cores.

    `spec.parameters` and `step_tflop` should be filled in where they are known.
    """
    load_s = IMPORTS_S + (getattr(spec, "weight_gb", None) or 1.0) * 1e9 / READ_BYTES_S
    stated = getattr(spec, "rows_a_second", {})
    if gpu and gpu.name in stated:
        return Rate(1 / stated[gpu.name], load_s, f"stated for a {gpu.name}", 1.3)
    if gpu and stated:
        other, rows = next(iter(stated.items()))
        scaled = gpu_named(other).tflops / gpu.tflops / rows
        return Rate(scaled, load_s, f"stated for a {other}, by the operations of both", 1.7)
    if isinstance(spec, EndpointSpec):
        return Rate(BY_KIND["captioner"], IMPORTS_S, "by kind: a server's speed is not known", 5)
    if isinstance(spec, DirectSpec) and spec.model is not None and spec.model.parameters:
        return _direct(spec, gpu, cores)
    if isinstance(spec, MetricSpec | SafetySpec):
        row_s = METRIC_S.get(spec.kind, BY_KIND["safety"])
        return Rate(row_s * (1 if gpu else 5), load_s, "by kind", 3)
    if isinstance(spec, PainterSpec):
        return _painter(spec, gpu, cores, load_s)
    return _captioner(spec, gpu, cores, load_s)


def _painter(spec: PainterSpec, gpu: Gpu | None, cores: int, load_s: float) -> Rate:
    pixels = spec.width * spec.height / MEGAPIXEL
    if spec.step_tflop is not None:
        step, why, factor = spec.step_tflop * pixels, "operations of its architecture", 2.0
    elif spec.parameters:
        # Half of a pipeline's weights are its denoiser's; a token for each 16 x 16 pixels; two passes with guidance.
        tokens = spec.width * spec.height / 256
        step = (2 if spec.guidance > 1 else 1) * 2 * spec.parameters / 2 * tokens / 1e12
        why, factor = "its parameters", 4.0
    else:
        return Rate(BY_KIND["text-to-image"] * (1 if gpu else 10), load_s, "by kind: its size is not known", 6)
    small = (spec.parameters or 1e9) / 1e9
    tflop = spec.steps * step + min(1.0, small) * (ENCODE_TFLOP + DECODE_TFLOP * pixels)
    return Rate(tflop / _tflops(spec, gpu, cores), load_s, why, factor)


def _captioner(spec: CaptionerSpec, gpu: Gpu | None, cores: int, load_s: float) -> Rate:
    if not spec.parameters:
        return Rate(BY_KIND["captioner"] * (1 if gpu else 10), load_s, "by kind: its size is not known", 6)
    tokens = IMAGE_TOKENS if spec.parameters > SMALL else SMALL_TOKENS
    reading = 2 * spec.parameters * tokens / 1e12 / _tflops(spec, gpu, cores)
    said = 2 * spec.parameters / 1e12 / _tflops(spec, gpu, cores)
    bandwidth = gpu.tbytes * 1e12 * BANDWIDTH_REACHED if gpu else cores * 5e9
    step = max(STEP_S if gpu else 0.005, (spec.weight_gb or 0) * 1e9 / bandwidth + said * spec.batch_size)
    return Rate(reading + spec.max_new_tokens * step / spec.batch_size, load_s, "its parameters and tokens", 2.0)


def _direct(spec: DirectSpec, gpu: Gpu | None, cores: int) -> Rate:
    """A metric that reads candidates by a model: one pass over a picture and its text, or one step for each draw."""
    model = spec.model
    load_s = IMPORTS_S + (model.weight_gb or 1.0) * 1e9 / READ_BYTES_S
    if isinstance(spec, DenoisingSpec):
        # A draw is one pass of the denoiser; `step_tflop` may count guidance's second one.
        once = model.model_copy(update={"steps": spec.draws, "guidance": 0.0})
        return _painter(once, gpu, cores, load_s)
    tokens = IMAGE_TOKENS if model.parameters > SMALL else SMALL_TOKENS
    row_s = 2 * model.parameters * tokens / 1e12 / _tflops(model, gpu, cores)
    return Rate(row_s, load_s, "its parameters and tokens", 2.0)


def _tflops(spec: Any, gpu: Gpu | None, cores: int) -> float:
    """1e12 operations a second that a model reaches."""
    if gpu is None:
        return cores * CORE_TFLOPS
    return gpu.tflops * UTILISATION * (FLOAT32 if spec.dtype == "float32" else 1)
