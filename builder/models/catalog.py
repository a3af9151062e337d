"""The catalog: every captioner, text-to-image pipeline and metric that a recipe can name.

A new model of a family that transformers or diffusers loads needs a row here and no code; any Hub id or local
folder also works directly in a recipe, with its settings given there.
"""

from pathlib import Path

from builder.models.captioner_rows import HUB_CAPTIONERS
from builder.models.painter_rows import HUB_PAINTERS
from schemas.specs import CaptionerSpec, MetricSpec, ModelSpec, PainterSpec

WEIGHTS = Path(__file__).parent.parent / "shapeworld" / "weights"

SHIPPED = {"licence": "MIT", "evidence": "shipped"}
# The only question whose words the embedded LLaVA knows.
SHAPEWORLD_CHAT = {"prompt_style": "chat", "prompt": "describe the picture"}


def _shapeworld_captioner(name: str, about: str, **settings) -> CaptionerSpec:
    """A tiny captioner of the embedded world; the fraction of a GPU says that it shares an actor."""
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
    *HUB_CAPTIONERS,
]  # fmt: skip

PAINTERS = [
    _shapeworld_painter("sd3", "embedded world: flow-matching transformer", max_sequence_length=16),
    _shapeworld_painter("sd", "embedded world: UNet pipeline"),
    _shapeworld_painter("sd-early", "embedded world: an early checkpoint of the UNet"),
    *HUB_PAINTERS,
]  # fmt: skip

METRICS = [
    MetricSpec(
        name="sbert", kind="sbert", modality="text", higher_is_better=True, low=-1, high=1, num_gpus=0.1,
        repo="sentence-transformers/all-MiniLM-L6-v2", batch_size=32,
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
        about="cosine of all-MiniLM-L6-v2 embeddings; offline with the extra [demo]",
    ),
    MetricSpec(
        name="lpips-shapeworld", kind="lpips", modality="image", higher_is_better=False, low=0, high=10,
        num_gpus=0.1, net="alex", repo=str(WEIGHTS / "lpips"), batch_size=32,
        about="LPIPS over AlexNet features of the embedded world",
    ),
    MetricSpec(
        name="lpips-alex", kind="lpips", modality="image", higher_is_better=False, low=0, high=1,
        num_gpus=0.1, net="alex", batch_size=32, about="LPIPS with its own calibrated weights",
    ),
    MetricSpec(
        name="lpips-vgg", kind="lpips", modality="image", higher_is_better=False, low=0, high=1,
        num_gpus=0.1, net="vgg", batch_size=32, about="LPIPS with its own calibrated weights",
    ),
]  # fmt: skip

CATALOG: dict[str, ModelSpec | MetricSpec] = {spec.name: spec for spec in [*CAPTIONERS, *PAINTERS, *METRICS]}
