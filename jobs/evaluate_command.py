"""The command-line arguments of `cyclepref evaluate`; its code is in jobs/evaluate.py, imported when it runs."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cyclepref.builder.reward.evaluation.names import DEFAULT, check_names
from cyclepref.jobs.arguments import positive

EXAMPLES = """examples:
  cyclepref evaluate runs/demo/reward runs/demo/i2t2i runs/demo/t2i2t
  cyclepref evaluate runs/demo/reward imagereward:data/ImageReward/test.json hpdv2:data/HPDv2 \\
      --against cycle,length,random,clip:openai/clip-vit-large-patch14 --json evaluation.json --picture evaluation.png

A DATASET is a folder, a file of rows, or a repository on the Hub. It is a run directory, a published dataset or
CyclePrefDB (format cyclepref), or has human labels in the format of imagereward, imagerewarddb, hpdv2, hpdv3, pickapic,
rlhf-v, detailcaps or trl, or is what people said of a run's pairs (audit:runs/mine, or runs/mine/audit). Its files
and columns tell the format, or you name it: FORMAT:DATASET."""


def add_evaluate(commands, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `evaluate`."""
    parser = add(
        commands, "evaluate", _evaluate, "measure a reward model on judged pairs, beside baselines", EXAMPLES
    )  # fmt: skip
    parser.add_argument("model", metavar="MODEL", help="folder or Hub id of a reward model")
    parser.add_argument("datasets", metavar="DATASET", nargs="+", help="what to measure on; see below")
    parser.add_argument(
        "--against", metavar="NAME,...",
        help="what to compare with: cycle (the dataset's own cycle score), length, random, clip:FOLDER_OR_ID, "
        "reward:FOLDER_OR_ID (default: cycle,length,random)",
    )  # fmt: skip
    parser.add_argument("--split", help="of each dataset (default: test, or the only one there is)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all numbers to this file")
    parser.add_argument("--picture", type=Path, metavar="FILE.png", help="draw accuracies, calibration and best-of-n")
    parser.add_argument(
        "--allow-leak", action="store_true", help="go on although the model saw test inputs, and say so"
    )
    parser.add_argument("--device", help="cpu, cuda, cuda:1... (default: the GPU, if there is one)")
    parser.add_argument("--batch-size", type=positive, default=64, help="pairs at a time (default: %(default)s)")


def _evaluate(arguments: argparse.Namespace) -> int:
    given = arguments.against
    against = DEFAULT if given is None else tuple(name for name in given.split(",") if name)
    check_names(against)
    from cyclepref.jobs.evaluate import run_evaluate

    options = {name: getattr(arguments, name) for name in ("split", "allow_leak", "batch_size")}
    run_evaluate(
        arguments.model, arguments.datasets, against, arguments.json, arguments.picture, arguments.device,
        **options,
    )  # fmt: skip
    return 0
