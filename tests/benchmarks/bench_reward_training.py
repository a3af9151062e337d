"""What a training step costs as CyclePref takes it, against the form of the reference: the two gains apart.

    python tests/benchmarks/bench_reward_training.py [--inputs 2] [--candidates 6] [--steps 1] [--layers 12]

A model of BLIP-base's size with random weights (ViT-B/16 at 224 px, BERT-base with cross-attention, [CLS] -> MLP),
fix_rate 0.7, single precision on the CPU (or the GPU, if there is one). A step is forward, backward and AdamW over all
pairs of some inputs, of both kinds: an image with captions, a prompt with images. Four ways to take it, in one run:

    reference      for every pair both images are encoded and both texts read with them, padded to 128 tokens, as in the
                   released code of CycleReward
    cached         the same, the frozen half of the image tower from memory
    grouped        each distinct image encoded and each candidate scored once, texts padded to the longest
    both           grouped, and the frozen half from memory

All must give one loss and one gradient. Prints seconds a step (the best of `--steps`; on the CPU the processor's, of
all threads together), pairs a second and the ratios; exits with 1 if `both` is not 3 times as fast as the reference. On
2 CPU cores the defaults take some ten minutes.
"""

import argparse
import sys
import time
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[2]))

from cyclepref.builder.reward.model import RewardConfig, RewardModel
from cyclepref.builder.reward.training import losses
from cyclepref.builder.reward.training.frozen_layers import begin_images, frozen_half
from cyclepref.builder.reward.training.step import TrainingView

AT_LEAST = 3.0
REFERENCE_LENGTH = 128
VOCABULARY = 30_524  # of BLIP: BERT's words, [DEC] and [ENC]

Batch = dict[str, torch.Tensor]


def make_model(layers: int, device: torch.device) -> RewardModel:
    """BLIP-base's size with random weights, 70% frozen; no dropout, so that all ways compute one thing."""
    torch.manual_seed(0)
    text = {"vocab_size": VOCABULARY, "num_hidden_layers": layers}
    vision = {"image_size": 224, "patch_size": 16, "num_hidden_layers": layers}
    model = RewardModel(RewardConfig(text_config=text, vision_config=vision))
    model.freeze(0.7)
    return model.to(device).train()


def make_step(inputs: int, candidates: int, device: torch.device) -> Batch:
    """A step as `Collate` makes it: half of the inputs an image with captions, half a prompt with images."""
    random = torch.Generator().manual_seed(1)
    images, texts, rows, pairs = 0, 0, [], []
    for number in range(inputs):
        first = len(rows)
        of_text = number % 2 == 0
        rows += [(images + (0 if of_text else at), texts + (at if of_text else 0)) for at in range(candidates)]
        images, texts = images + (1 if of_text else candidates), texts + (candidates if of_text else 1)
        pairs += [(first + one, first + other) for one in range(candidates) for other in range(one + 1, candidates)]
    lengths = torch.randint(20, 61, (texts, 1), generator=random)  # captions of 20 to 60 tokens
    mask = (torch.arange(int(lengths.max())) < lengths).long()
    ids = torch.randint(1000, VOCABULARY, mask.shape, generator=random) * mask
    image_index, text_index = torch.tensor(rows).unbind(1)
    chosen, rejected = torch.tensor(pairs).unbind(1)
    batch = {
        "pixel_values": torch.randn(images, 3, 224, 224, generator=random), "input_ids": ids, "attention_mask": mask,
        "image_index": image_index, "text_index": text_index, "chosen": chosen, "rejected": rejected,
    }  # fmt: skip
    return {name: value.to(device) for name, value in batch.items()}


def grouped(reader: TrainingView, batch: Batch, prefix: torch.Tensor | None) -> list[torch.Tensor]:
    """The loss in one piece: every candidate's reward once."""
    images = {"pixel_values": batch["pixel_values"]} if prefix is None else {"image_prefix": prefix}
    names = ("input_ids", "attention_mask", "image_index", "text_index")
    rewards = reader(**images, **{name: batch[name] for name in names})
    return [losses.bradley_terry(rewards[batch["chosen"]], rewards[batch["rejected"]]).mean()]


def one_by_one(reader: TrainingView, batch: Batch, prefix: torch.Tensor | None, some: int = 8):
    """The loss in pieces of some pairs: both sides of every pair, each with an image and a text of its own."""
    pairs = len(batch["chosen"])
    missing = REFERENCE_LENGTH - batch["input_ids"].shape[1]
    ids, mask = (torch.nn.functional.pad(batch[name], (0, missing)) for name in ("input_ids", "attention_mask"))
    for start in range(0, pairs, some):
        sides = torch.cat([batch[side][start : start + some] for side in ("chosen", "rejected")])
        image, text = batch["image_index"][sides], batch["text_index"][sides]
        images = {"pixel_values": batch["pixel_values"][image]} if prefix is None else {"image_prefix": prefix[image]}
        own = torch.arange(len(sides), device=ids.device)
        rewards = reader(**images, input_ids=ids[text], attention_mask=mask[text], image_index=own, text_index=own)
        yield losses.bradley_terry(*rewards.chunk(2)).sum() / pairs


def step(
    way, reader: TrainingView, batch: Batch, prefix: torch.Tensor | None, optimiser: torch.optim.Optimizer
) -> float:
    """Forward, backward and one update; returns the loss."""
    optimiser.zero_grad()
    total = 0.0
    for loss in way(reader, batch, prefix):
        loss.backward()
        total += loss.item()
    optimiser.step()
    if batch["input_ids"].is_cuda:
        torch.cuda.synchronize()
    return total


def same(one: list[torch.Tensor], other: list[torch.Tensor]) -> float:
    """The largest difference of two gradients, relative to their size."""
    return max(float((a - b).norm() / (b.norm() + 1e-12)) for a, b in zip(one, other, strict=True) if b.norm() > 1e-6)


def main() -> int:
    """Measure and print; 0 if the gain is there."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("inputs", 2), ("candidates", 6), ("steps", 1), ("layers", 12)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = make_model(given.layers, device)
    batch = make_step(given.inputs, given.candidates, device)
    half = frozen_half(model, "image")
    reader = TrainingView(model, half)
    begin = time.perf_counter()
    with torch.no_grad():
        prefix = begin_images(model, half, batch["pixel_values"])
    once = time.perf_counter() - begin
    ways = {
        "reference": (one_by_one, None), "cached": (one_by_one, prefix),
        "grouped": (grouped, None), "both": (grouped, prefix),
    }  # fmt: skip
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    still = torch.optim.AdamW(weights, lr=0.0, weight_decay=0.0)  # every way starts from the same weights
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    still.step()  # the optimiser's own memory is not the first way's to pay for
    # Other work on the machine counts for wall-clock time, and hardly for the processor's.
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds, found, gradients = {}, {}, {}
    for name, (way, known) in ways.items():
        times = []
        for number in range(given.steps):
            begin = clock()
            loss = step(way, reader, batch, known, still)
            times.append(clock() - begin)
            if not number:
                found[name], gradients[name] = loss, [weight.grad.clone() for weight in weights]
        seconds[name] = min(times)
        print(f"{name:<10} {seconds[name]:8.2f} s a step", flush=True)
    report(seconds, found, gradients, batch, prefix, once)
    agree = all(abs(loss - found["reference"]) < 1e-4 for loss in found.values())
    return 0 if agree and seconds["reference"] / seconds["both"] >= AT_LEAST else 1


def report(seconds: dict, found: dict, gradients: dict, batch: Batch, prefix: torch.Tensor, once: float) -> None:
    """Print what was measured."""
    pairs, images = len(batch["chosen"]), len(batch["pixel_values"])
    print(f"{pairs} pairs of {len(batch['image_index'])} candidates, {images} images; {batch['chosen'].device}")
    for name, took in seconds.items():
        gain = seconds["reference"] / took
        off = same(gradients[name], gradients["reference"])
        print(
            f"{name:<10} {took:8.2f} s a step  {pairs / took:8.1f} pairs a second  {gain:6.1f} times the reference  "
            f"loss {found[name]:.6f}  gradient off by {off:.1e}"
        )
    kept = prefix[0].numel() * 2 / 2**20
    print(f"frozen half: {once / images:.3f} s and {kept:.2f} MB (float16) an image, once")
    print(
        f"grouping alone {seconds['reference'] / seconds['grouped']:.1f} times, cache alone "
        f"{seconds['reference'] / seconds['cached']:.1f} times, cache on grouped steps "
        f"{seconds['grouped'] / seconds['both']:.2f} times, both {seconds['reference'] / seconds['both']:.1f} times"
    )


if __name__ == "__main__":
    sys.exit(main())
