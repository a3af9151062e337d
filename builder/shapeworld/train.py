"""Make every model of the embedded world from nothing: python -m cyclepref.builder.shapeworld.train

Each job trains on fresh renders, resumes from its last checkpoint, and writes its folder under
builder/shapeworld/weights as soon as a model can be loaded from it. The autoencoder must be trained before the
others, and the captioner that reads unclear pictures after the Llava and the weak pipelines.
"""

from __future__ import annotations

import argparse
import functools
from pathlib import Path

import torch

from cyclepref.builder.shapeworld import models
from cyclepref.builder.shapeworld.training import autoencoder, captioners, features, painters, recogniser
from cyclepref.builder.shapeworld.training.loop import Run

JOBS = {
    "autoencoder": autoencoder.train,
    "lpips": features.train,
    "oracle": recogniser.train,
    "blip": functools.partial(captioners.train, "blip"),
    "llava": functools.partial(captioners.train, "llava"),
    **{name: functools.partial(painters.train, name) for name in painters.STEPS},
    captioners.READER: captioners.train_reader,
}


def main(argv: list[str] | None = None) -> None:
    """Run the jobs named on the command line, all of them by default, in the order above."""
    options = _parser().parse_args(argv)
    if options.threads:
        torch.set_num_threads(options.threads)
    device = options.device
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    run = Run(options.out, options.work, torch.device(device), options.steps_scale)
    models.quiet()
    run.work.mkdir(parents=True, exist_ok=True)
    (run.work / ".gitignore").write_text("*\n")
    for name in JOBS:
        if name in (options.only or JOBS):
            print(f"{name}: on {device}, weights to {run.out}, checkpoints in {run.work}", flush=True)
            JOBS[name](run)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m cyclepref.builder.shapeworld.train",
        description="Train the tiny models of the embedded world. Resumes; about two hours of one CPU thread in all.",
        epilog="example:\n  python -m cyclepref.builder.shapeworld.train --only sd3 --steps-scale 0.1 --out weights",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--only", nargs="+", choices=JOBS, metavar="NAME", help=f"some of: {', '.join(JOBS)}")
    parser.add_argument(
        "--out", type=Path, default=models.WEIGHTS, help="folder of the weights (default: the shipped ones)"
    )
    parser.add_argument("--work", type=Path, default=Path(".shapeworld"), help="folder of checkpoints (%(default)s)")
    parser.add_argument("--steps-scale", type=float, default=1.0, help="factor on all step counts (%(default)s)")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--threads", type=int, help="CPU threads; one per process is fastest for such small models")
    return parser


if __name__ == "__main__":
    main()
