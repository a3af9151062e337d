"""The catalog's captioners with weights on the Hub.

Licences are short forms of those in the models' cards; parameters count all weights that are loaded. A family with a
chat template needs only a row here and no code.
"""

from cyclepref.schemas.specs import QUESTION, CaptionerSpec

PAPER = "captioner of CyclePrefDB; greedy, 77 new tokens"


def _row(name: str, repo: str, billions: float, licence: str, **settings) -> CaptionerSpec:
    """One captioner in bfloat16; `billions` of parameters."""
    return CaptionerSpec(
        name=name, repo=repo, parameters=int(billions * 1e9), licence=licence,
        **{"dtype": "bfloat16", "evidence": "tested", **settings},
    )  # fmt: skip


def _continued(name: str, repo: str, billions: float, licence: str, prompt: str, **settings) -> CaptionerSpec:
    """A captioner without a chat template; its prompt is plain text."""
    return _row(name, repo, billions, licence, prompt_style="prefix", prompt=prompt, **settings)


HUB_CAPTIONERS = [
    # ---- image alone, or the beginning of a caption
    _row("blip-base", "Salesforce/blip-image-captioning-base", 0.247, "BSD-3-Clause", prompt_style="none",
         dtype="float32", batch_size=32, about="runs on a CPU too"),
    _row("blip-large", "Salesforce/blip-image-captioning-large", 0.470, "BSD-3-Clause", prompt_style="none",
         dtype="float32", batch_size=32, about="runs on a CPU too"),
    _row("git-large-coco", "microsoft/git-large-coco", 0.394, "MIT", prompt_style="none", dtype="float32",
         batch_size=32, about="runs on a CPU too"),
    _row("blip2-opt-2.7b", "Salesforce/blip2-opt-2.7b", 3.74, "MIT", prompt_style="none"),
    _continued("blip2-flan-t5-xl", "Salesforce/blip2-flan-t5-xl", 3.94, "MIT", QUESTION),
    _continued("blip2-flan-t5-xxl", "Salesforce/blip2-flan-t5-xxl", 12.2, "MIT", QUESTION, about=PAPER),
    _continued("instructblip-flan-t5-xl", "Salesforce/instructblip-flan-t5-xl", 4.02, "MIT", QUESTION),
    _continued("instructblip-vicuna-7b", "Salesforce/instructblip-vicuna-7b", 7.91, "LLaMA (non-commercial)", QUESTION),
    _continued("paligemma-3b", "google/paligemma-3b-mix-448", 2.92, "Gemma; gated", "caption en"),
    _continued("paligemma2-3b", "google/paligemma2-3b-mix-448", 3.03, "Gemma; gated", "caption en"),
    # The port that needs no remote code; task tokens are its prompts.
    _continued("florence-2-large", "florence-community/Florence-2-large", 0.82, "MIT", "<MORE_DETAILED_CAPTION>",
               about="other tasks: <CAPTION>, <DETAILED_CAPTION>"),
    # ---- LLaVA
    _row("llava-1.5-7b", "llava-hf/llava-1.5-7b-hf", 7.06, "Llama 2", about=PAPER),
    _row("llava-1.5-13b", "llava-hf/llava-1.5-13b-hf", 13.35, "Llama 2", about=PAPER + "; its backward captioner"),
    _row("llava-1.6-mistral-7b", "llava-hf/llava-v1.6-mistral-7b-hf", 7.57, "Apache-2.0", batch_size=8, about=PAPER),
    _row("llava-1.6-vicuna-7b", "llava-hf/llava-v1.6-vicuna-7b-hf", 7.06, "Llama 2", batch_size=8),
    _row("llava-1.6-34b", "llava-hf/llava-v1.6-34b-hf", 34.75, "Apache-2.0", batch_size=8, num_gpus=2, about=PAPER),
    _row("llava-onevision-0.5b", "llava-hf/llava-onevision-qwen2-0.5b-ov-hf", 0.89, "Apache-2.0", about=PAPER),
    _row("llava-onevision-7b", "llava-hf/llava-onevision-qwen2-7b-ov-hf", 8.03, "Apache-2.0", about=PAPER),
    # ---- InternVL: the ports in transformers; the paper's InternVL2 needs remote code
    _row("internvl3-2b", "OpenGVLab/InternVL3-2B-hf", 2.09, "see card (MIT and Qwen)"),
    _row("internvl3-8b", "OpenGVLab/InternVL3-8B-hf", 7.94, "see card (MIT and Qwen)"),
    _row("internvl3-14b", "OpenGVLab/InternVL3-14B-hf", 15.1, "see card (MIT and Qwen)", batch_size=8),
    _row("internvl3-38b", "OpenGVLab/InternVL3-38B-hf", 38.4, "see card (MIT and Qwen)", batch_size=8, num_gpus=2),
    # ---- Qwen
    _row("qwen2-vl-2b", "Qwen/Qwen2-VL-2B-Instruct", 2.21, "Apache-2.0"),
    _row("qwen2-vl-7b", "Qwen/Qwen2-VL-7B-Instruct", 8.29, "Apache-2.0"),
    _row("qwen2.5-vl-3b", "Qwen/Qwen2.5-VL-3B-Instruct", 3.75, "Qwen Research"),
    _row("qwen2.5-vl-7b", "Qwen/Qwen2.5-VL-7B-Instruct", 8.29, "Apache-2.0"),
    _row("qwen2.5-vl-32b", "Qwen/Qwen2.5-VL-32B-Instruct", 33.5, "Apache-2.0", batch_size=8, num_gpus=2),
    _row("qwen3-vl-2b", "Qwen/Qwen3-VL-2B-Instruct", 2.13, "Apache-2.0"),
    _row("qwen3-vl-4b", "Qwen/Qwen3-VL-4B-Instruct", 4.44, "Apache-2.0"),
    _row("qwen3-vl-8b", "Qwen/Qwen3-VL-8B-Instruct", 8.77, "Apache-2.0"),
    _row("qwen3-vl-32b", "Qwen/Qwen3-VL-32B-Instruct", 33.4, "Apache-2.0", batch_size=8, num_gpus=2),
    # ---- Idefics, SmolVLM, Gemma
    _row("idefics3-8b", "HuggingFaceM4/Idefics3-8B-Llama3", 8.46, "Apache-2.0", batch_size=8),
    _row("smolvlm", "HuggingFaceTB/SmolVLM-Instruct", 2.25, "Apache-2.0", about="of the architecture of Idefics3"),
    _row("smolvlm2-2.2b", "HuggingFaceTB/SmolVLM2-2.2B-Instruct", 2.25, "Apache-2.0", evidence="untested",
         about="its processor needs the package num2words"),
    _row("gemma-3-4b", "google/gemma-3-4b-it", 4.30, "Gemma; gated"),
    _row("gemma-3-12b", "google/gemma-3-12b-it", 12.2, "Gemma; gated"),
    _row("gemma-3-27b", "google/gemma-3-27b-it", 27.4, "Gemma; gated", batch_size=8),
]  # fmt: skip
