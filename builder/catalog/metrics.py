"""The catalog's metrics. `low` and `high` bound every value that a metric can return, not its usual values."""

from pathlib import Path
from typing import Any

from cyclepref.schemas.direct_specs import DenoisingSpec, LikelihoodSpec
from cyclepref.schemas.specs import MetricSpec

SHAPEWORLD_LPIPS = Path(__file__).parent.parent / "shapeworld" / "weights" / "lpips"

# LPIPS sums over layers the weighted squared distance of two unit vectors without negative entries, which is at most
# twice the layer's largest weight. These are the sums for the package's calibrated weights, v0.1, rounded up.
LPIPS_HIGH = {"alex": 8.1, "vgg": 6.7, "squeeze": 11.4}
# A backbone from a folder has no calibration: every layer's weights are 1.
LPIPS_OWN_HIGH = {"alex": 10, "vgg": 10, "squeeze": 14}


def _text(name: str, repo: str, about: str, **settings: Any) -> MetricSpec:
    """Cosine of a sentence-transformers model; also the default settings for a model that a recipe names by id or
    folder."""
    return MetricSpec(
        name=name, kind="sbert", modality="text", higher_is_better=True, low=-1, high=1, repo=repo, about=about,
        **{"num_gpus": 0.1, "batch_size": 32, **settings},
    )  # fmt: skip


def _lpips(net: str) -> MetricSpec:
    return MetricSpec(
        name=f"lpips-{net}", kind="lpips", modality="image", higher_is_better=False, low=0, high=LPIPS_HIGH[net],
        num_gpus=0.1, net=net, batch_size=32, about="LPIPS with its own calibrated weights; mostly below 1",
    )  # fmt: skip


def _dreamsim(name: str, branch: str, about: str) -> MetricSpec:
    return MetricSpec(
        name=name, kind="dreamsim", modality="image", higher_is_better=False, low=0, high=2, branch=branch,
        num_gpus=0.25, batch_size=32, about=f"DreamSim, {about}; mostly below 1; needs the extra [dreamsim]",
    )  # fmt: skip


def _image(name: str, repo: str, about: str, **settings: Any) -> MetricSpec:
    """Cosine of a vision backbone; also the default settings for a backbone that a recipe names by id or folder."""
    return MetricSpec(
        name=name, kind="embedding", modality="image", higher_is_better=True, low=-1, high=1, repo=repo, about=about,
        **{"num_gpus": 0.25, "batch_size": 32, **settings},
    )  # fmt: skip


BY_MODALITY = {"text": _text, "image": _image}

# The worst values of the metrics that have no bound of their own: what is worse is brought to them.
LIKELIHOOD_LOW = -20.0
DENOISING_HIGH = 10.0

METRICS = [
    LikelihoodSpec(
        name="backward-likelihood", modality="text", higher_is_better=True, low=LIKELIHOOD_LOW, high=0,
        about="log-probability of the prompt under a captioner that sees the candidate, the mean over its tokens; the "
        "recipe's backward model, or settings.model; no reconstruction is made for it",
    ),
    LikelihoodSpec(
        name="backward-probability", modality="text", higher_is_better=True, low=0, high=1, logarithm=False,
        about="as backward-likelihood, but the mean of the tokens' probabilities: the share of the prompt that the "
        "captioner would have said next; one token that it finds impossible counts as one, not as all",
    ),
    DenoisingSpec(
        name="denoising-loss", modality="image", higher_is_better=False, low=0, high=DENOISING_HIGH,
        about="loss of a diffusion pipeline that denoises the input told the candidate caption; the recipe's backward "
        "model, or settings.model; UNet pipelines and Stable Diffusion 3",
    ),
    _text(
        "sbert", "sentence-transformers/all-MiniLM-L6-v2",
        "cosine of all-MiniLM-L6-v2 embeddings; offline with the extra [demo]",
        sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    ),
    _text("sbert-mpnet", "sentence-transformers/all-mpnet-base-v2", "cosine of all-mpnet-base-v2 embeddings"),
    MetricSpec(
        name="lpips-shapeworld", kind="lpips", modality="image", higher_is_better=False, low=0,
        high=LPIPS_OWN_HIGH["alex"], num_gpus=0.1, net="alex", repo=str(SHAPEWORLD_LPIPS), batch_size=32,
        about="LPIPS over AlexNet features of the embedded world",
    ),
    *(_lpips(net) for net in LPIPS_HIGH),
    _dreamsim("dreamsim-ensemble", "ensemble", "metric of CyclePrefDB; runs facebookresearch/dino: needs trust"),
    _dreamsim("dreamsim-clip", "clip_vitb32", "one CLIP"),
    _dreamsim("dreamsim-open-clip", "open_clip_vitb32", "one OpenCLIP"),
    _dreamsim("dreamsim-dino", "dino_vitb16", "one DINO; runs facebookresearch/dino: needs trust"),
    _dreamsim("dreamsim-dinov2", "dinov2_vitb14", "one DINOv2; runs facebookresearch/dinov2: needs trust"),
    _image("dinov2-base", "facebook/dinov2-base", "cosine of DINOv2 embeddings (ViT-B/14)"),
    _image("dinov2-large", "facebook/dinov2-large", "cosine of DINOv2 embeddings (ViT-L/14)"),
    _image("clip-b32", "openai/clip-vit-base-patch32", "cosine of CLIP image embeddings (ViT-B/32)"),
    _image("clip-l14", "openai/clip-vit-large-patch14", "cosine of CLIP image embeddings (ViT-L/14)"),
    _image("siglip-base", "google/siglip-base-patch16-224", "cosine of SigLIP image embeddings (ViT-B/16)"),
    _image("siglip-so400m", "google/siglip-so400m-patch14-384", "cosine of SigLIP image embeddings (So400m/14)"),
]  # fmt: skip
