"""The catalog: every captioner, text-to-image pipeline and metric that a recipe can name.

A new model of a family that transformers or diffusers loads needs a row here and no code; any Hub id or local
folder also works directly in a recipe, with its settings given there.
"""

from pathlib import Path

from schemas.specs import CaptionerSpec, EndpointSpec, GeneratorSpec, MetricSpec, PainterSpec

WEIGHTS = Path(__file__).parent.parent / "shapeworld" / "weights"

# The question that CyclePrefDB asked its captioners (CycleReward, arXiv 2506.02095).
QUESTION = "Write a detailed description of the given image."
# The only question whose words the embedded LLaVA knows.
SHAPEWORLD_CHAT = {"prompt_style": "chat", "prompt": "describe the picture"}


def _shapeworld_captioner(name: str, about: str, **settings) -> CaptionerSpec:
    """A tiny captioner of the embedded world; the fraction of a GPU says that it shares an actor."""
    return CaptionerSpec(
        name=f"shapeworld-{name}", repo=str(WEIGHTS / name), num_gpus=0.05, batch_size=32, about=about,
        **{"prompt_style": "none", "max_new_tokens": 16, **settings},
    )  # fmt: skip


def _shapeworld_painter(name: str, about: str, **settings) -> PainterSpec:
    """A tiny text-to-image pipeline of the embedded world."""
    return PainterSpec(
        name=f"shapeworld-{name}", repo=str(WEIGHTS / name), num_gpus=0.05, batch_size=16, about=about,
        **{"steps": 8, "guidance": 1.0, "width": 64, "height": 64, **settings},
    )  # fmt: skip


def _llava(name: str, repo: str, num_gpus: float = 1) -> CaptionerSpec:
    return CaptionerSpec(
        name=name, repo=repo, dtype="bfloat16", prompt=QUESTION, batch_size=16, num_gpus=num_gpus,
        about="captioner of CyclePrefDB; greedy, 77 new tokens",
    )  # fmt: skip


CAPTIONERS = [
    _shapeworld_captioner("blip", "embedded world: the stronger BLIP"),
    _shapeworld_captioner("blip-early", "embedded world: an early checkpoint of the BLIP"),
    _shapeworld_captioner("llava", "embedded world: the stronger LLaVA", **SHAPEWORLD_CHAT),
    _shapeworld_captioner("llava-early", "embedded world: an early LLaVA", **SHAPEWORLD_CHAT),
    CaptionerSpec(
        name="blip-large", repo="Salesforce/blip-image-captioning-large", prompt_style="none", batch_size=32,
        about="BLIP, 470M parameters; runs on a CPU too",
    ),
    _llava("llava-1.5-7b", "llava-hf/llava-1.5-7b-hf"),
    _llava("llava-1.5-13b", "llava-hf/llava-1.5-13b-hf"),
    _llava("llava-onevision-0.5b", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf"),
    _llava("llava-onevision-7b", "llava-hf/llava-onevision-qwen2-7b-ov-hf"),
    EndpointSpec(
        name="openai-endpoint", prompt=QUESTION,
        about="any OpenAI-compatible server: set base_url and served_model; needs the extra [endpoint]",
    ),
]  # fmt: skip

PAINTERS = [
    _shapeworld_painter("sd3", "embedded world: flow-matching transformer", max_sequence_length=16),
    _shapeworld_painter("sd", "embedded world: UNet pipeline"),
    _shapeworld_painter("sd-early", "embedded world: an early checkpoint of the UNet"),
    PainterSpec(
        name="sd-1.5", repo="stable-diffusion-v1-5/stable-diffusion-v1-5", dtype="float16",
        steps=50, guidance=7.5, width=512, height=512, about="pipeline of CyclePrefDB",
    ),
    PainterSpec(
        name="sdxl", repo="stabilityai/stable-diffusion-xl-base-1.0", dtype="float16", batch_size=8,
        steps=50, guidance=7.5, width=1024, height=1024, about="pipeline of CyclePrefDB",
    ),
    PainterSpec(
        name="sd3-medium", repo="stabilityai/stable-diffusion-3-medium-diffusers", dtype="bfloat16", batch_size=8,
        steps=50, guidance=7.5, width=1024, height=1024, about="pipeline and decoder of CyclePrefDB; gated",
    ),
    PainterSpec(
        name="flux-schnell", repo="black-forest-labs/FLUX.1-schnell", dtype="bfloat16", batch_size=4,
        steps=4, guidance=0, width=1024, height=1024, about="pipeline of CyclePrefDB",
    ),
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

CATALOG: dict[str, GeneratorSpec | MetricSpec] = {spec.name: spec for spec in [*CAPTIONERS, *PAINTERS, *METRICS]}
