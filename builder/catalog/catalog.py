"""The catalog: every captioner, text-to-image pipeline and metric that a recipe can name.

A new model of a family that transformers or diffusers loads needs only a row here and no code. Any Hub id or local
folder also works directly in a recipe, with its settings given there.
"""

from pathlib import Path

from cyclepref.builder.catalog.captioners import HUB_CAPTIONERS
from cyclepref.builder.catalog.metrics import METRICS
from cyclepref.builder.catalog.painters import HUB_PAINTERS
from cyclepref.schemas.specs import QUESTION, CaptionerSpec, EndpointSpec, GeneratorSpec, MetricSpec, PainterSpec

WEIGHTS = Path(__file__).parent.parent / "shapeworld" / "weights"

SHIPPED = {"licence": "MIT", "evidence": "shipped"}
# The only question that the embedded LLaVA was trained on.
SHAPEWORLD_CHAT = {"prompt_style": "chat", "prompt": "describe the picture"}


def _shapeworld_captioner(name: str, about: str, **settings) -> CaptionerSpec:
    """A tiny captioner of the embedded world; the fraction of a GPU lets several share one."""
    return CaptionerSpec(
        name=f"shapeworld-{name}", repo=str(WEIGHTS / name), num_gpus=0.05, batch_size=32, about=about, **SHIPPED,
        **{"prompt_style": "none", "max_new_tokens": 16, **settings},
    )  # fmt: skip


def _shapeworld_painter(name: str, about: str, **settings) -> PainterSpec:
    """A tiny text-to-image pipeline of the embedded world."""
    return PainterSpec(
        name=f"shapeworld-{name}", repo=str(WEIGHTS / name), num_gpus=0.05, batch_size=16, about=about, **SHIPPED,
        **{"steps": 8, "guidance": 1.0, "width": 64, "height": 64, **settings},
    )  # fmt: skip


CAPTIONERS = [
    _shapeworld_captioner("blip", "embedded world: the stronger BLIP"),
    _shapeworld_captioner("blip-early", "embedded world: an early checkpoint of the BLIP"),
    _shapeworld_captioner("llava", "embedded world: the stronger LLaVA", **SHAPEWORLD_CHAT),
    _shapeworld_captioner("llava-early", "embedded world: an early LLaVA", **SHAPEWORLD_CHAT),
    _shapeworld_captioner("llava-reader", "embedded world: the LLaVA, trained on unclear pictures too",
                          **SHAPEWORLD_CHAT),
    *HUB_CAPTIONERS,
    EndpointSpec(
        name="openai-endpoint", prompt=QUESTION,
        about="any OpenAI-compatible server: set base_url and served_model",
    ),
]  # fmt: skip

PAINTERS = [
    _shapeworld_painter("sd3", "embedded world: flow-matching transformer", max_sequence_length=16),
    _shapeworld_painter("sd", "embedded world: UNet pipeline"),
    _shapeworld_painter("sd3-early", "embedded world: an early checkpoint of the transformer", max_sequence_length=16),
    _shapeworld_painter("sd-early", "embedded world: an early checkpoint of the UNet"),
    *HUB_PAINTERS,
]  # fmt: skip

CATALOG: dict[str, GeneratorSpec | MetricSpec] = {spec.name: spec for spec in [*CAPTIONERS, *PAINTERS, *METRICS]}
