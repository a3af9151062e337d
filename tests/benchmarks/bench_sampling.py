"""What it costs to sample a token, beside noise on every word of the vocabulary, which the first version drew.

    python tests/benchmarks/bench_sampling.py [--rows 16] [--words 152000]

Logits are random with a spread like a language model's. Both ways run in turn, and the medians are compared: noise on
every word (an exponential number a word from each row's generator on the CPU), and one number a row. Without and with
a nucleus of 0.9, for which the first version sorted the vocabulary. Runs on the GPU if there is one. Exits with 1 if
sampling costs more than a tenth of the noise.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable

import torch
from transformers.generation import TopPLogitsWarper

from cyclepref.builder.models.sampling import Sampling

LIMIT = 0.1


def noise(rows: int, top_p: float) -> Callable[[torch.Tensor], torch.Tensor]:
    """The first version: the argmax of logits plus Gumbel noise."""
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in range(rows)]
    warp = TopPLogitsWarper(top_p) if top_p < 1 else lambda _, scores: scores

    def step(scores: torch.Tensor) -> torch.Tensor:
        scores = warp(None, scores / 1.0)
        draws = torch.stack([torch.empty(scores.shape[1]).exponential_(generator=g) for g in generators])
        return scores - draws.log().to(scores.device)

    return step


def one_number(rows: int, top_p: float, steps: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """Sampling as it is now."""
    sampler = Sampling(list(range(rows)), steps, 1.0, top_p)
    return lambda scores: sampler(None, scores)


def seconds(step: Callable[[torch.Tensor], torch.Tensor], logits: torch.Tensor) -> float:
    """How long one step takes."""
    scores = logits.clone()
    _wait()
    begin = time.perf_counter()
    step(scores)
    _wait()
    return time.perf_counter() - begin


def _wait() -> None:
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def compare(rows: int, words: int, top_p: float, repeats: int) -> dict[str, float]:
    """Medians of both ways, in turn, in milliseconds a token."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    logits = (torch.randn(rows, words, generator=torch.Generator().manual_seed(0)) * 6).to(device)
    ways = {"noise": noise(rows, top_p), "one number": one_number(rows, top_p, repeats + 1)}
    for step in ways.values():  # what is slow the first time
        seconds(step, logits)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, step in ways.items():
            times[name].append(seconds(step, logits))
    return {name: 1000 * statistics.median(values) for name, values in times.items()}


def main() -> None:
    """Measure, print a table and a JSON, and fail above the limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16, help="rows of a batch (default: %(default)s)")
    parser.add_argument("--words", type=int, default=152_000, help="words of the vocabulary (default: %(default)s)")
    parser.add_argument("--repeats", type=int, default=15, help="tokens of each way (default: %(default)s)")
    arguments = parser.parse_args()
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"CPU, {torch.get_num_threads()} threads"
    print(f"a token of {arguments.rows} rows, {arguments.words:,} words, on {device}, in ms")
    print(f"{'top_p':>5} {'noise':>8} {'one number':>11} {'ratio':>6}")
    ratios = {}
    for top_p in (1.0, 0.9):
        found = compare(arguments.rows, arguments.words, top_p, arguments.repeats)
        ratios[top_p] = found["one number"] / found["noise"]
        print(f"{top_p:5} {found['noise']:8.1f} {found['one number']:11.1f} {ratios[top_p]:6.3f}")
    print(json.dumps({"rows": arguments.rows, "words": arguments.words, "ratios": ratios}))
    if max(ratios.values()) > LIMIT:
        sys.exit(f"sampling costs more than {LIMIT} of the noise on every word")


if __name__ == "__main__":
    main()
