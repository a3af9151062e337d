"""The shipped models, loaded as a user would load them: plain `from_pretrained` on a folder of weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

WEIGHTS = Path(__file__).parent / "weights"
CAPTIONERS = ("blip", "blip-early", "llava", "llava-early", "llava-reader")
PIPELINES = ("sd3", "sd", "sd3-early", "sd-early")
QUESTION = "describe the picture"
NEW_TOKENS = 16
# The sampling settings with which the quality of each pipeline was measured.
SAMPLING = {
    "sd3": {"num_inference_steps": 8, "guidance_scale": 2.0, "max_sequence_length": 16},
    "sd3-early": {"num_inference_steps": 8, "guidance_scale": 2.0, "max_sequence_length": 16},
    "sd": {"num_inference_steps": 10, "guidance_scale": 2.0},
    "sd-early": {"num_inference_steps": 10, "guidance_scale": 2.0},
}


def quiet() -> None:
    """Silence the libraries' progress bars and their warnings about unusual but intended configurations."""
    import diffusers
    import transformers

    for library in (diffusers, transformers):
        library.utils.logging.set_verbosity_error()
        library.utils.logging.disable_progress_bar()


def captioner(name: str, weights: Path = WEIGHTS):
    """A function from pictures to greedy captions, `list[PIL] -> list[str]`, in batches of 16."""
    from transformers import AutoModelForImageTextToText, AutoProcessor

    model = AutoModelForImageTextToText.from_pretrained(weights / name, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(weights / name)
    text = None
    if processor.chat_template:
        ask = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": QUESTION}]}]
        text = processor.apply_chat_template(ask, add_generation_prompt=True)

    @torch.inference_mode()
    def caption(images: Sequence[Image.Image]) -> list[str]:
        captions = []
        for start in range(0, len(images), 16):
            batch = list(images[start : start + 16])
            prompt = {} if text is None else {"text": [text] * len(batch)}
            inputs = processor(images=batch, return_tensors="pt", **prompt)
            out = model.generate(**inputs, max_new_tokens=NEW_TOKENS, do_sample=False)
            if text is not None:
                out = out[:, inputs["input_ids"].shape[1] :]
            captions += [said.strip() for said in processor.batch_decode(out, skip_special_tokens=True)]
        return captions

    return caption


def painter(name: str, weights: Path = WEIGHTS, **sampling):
    """A function from prompts and seeds to pictures, `(list[str], list[int]) -> list[PIL]`, in batches of 16.

    `sampling` overrides the pipeline's settings in SAMPLING.
    """
    from diffusers import DiffusionPipeline

    pipeline = DiffusionPipeline.from_pretrained(weights / name, dtype=torch.bfloat16)
    pipeline.set_progress_bar_config(disable=True)
    settings = SAMPLING[name] | sampling

    def paint(prompts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
        images = []
        for start in range(0, len(prompts), 16):
            generators = [torch.Generator().manual_seed(seed) for seed in seeds[start : start + 16]]
            images += pipeline(list(prompts[start : start + 16]), generator=generators, **settings).images
        return images

    return paint
