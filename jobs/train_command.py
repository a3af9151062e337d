"""The command-line arguments for training; the code is in jobs/train_reward.py, imported when the command runs."""

import argparse
from collections.abc import Callable

from cyclepref.jobs.arguments import folder, positive


def add_train_command(commands, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `train-reward`; `add(commands, name, run, about, examples)` makes a command."""
    train = add(
        commands, "train-reward", _train, "train a reward model on preference pairs; the same command resumes it",
        "examples:\n  cyclepref train-reward runs/i2t2i runs/t2i2t --out runs/reward \\\n"
        "    --recipe shapeworld                                            both cycles at once (Combo)\n"
        "  cyclepref train-reward org/my-pairs --out runs/reward --start Salesforce/blip-itm-large-coco --workers 8\n"
        "  cyclepref train-reward runs/t2i2t --recipe my_reward.yaml --set learning_rate=1e-5 --out runs/reward",
    )  # fmt: skip
    train.add_argument(
        "sources", metavar="SOURCE", nargs="+",
        help="run directory, dataset folder, Hub repository, or a folder or file of rows in a known layout (or "
        "FORMAT:one of these; `cyclepref evaluate --help` lists the formats); one of each cycle",
    )  # fmt: skip
    train.add_argument("--out", type=folder, required=True, help="folder for the model and the state for resuming")
    train.add_argument("--recipe", help="YAML file of settings, or the name of a recipe that comes with CyclePref")
    train.add_argument(
        "--start",
        help="what to start from: a BLIP, CLIP, SigLIP or reward model, by Hub id or folder, or the embedded "
        "shapeworld/blip",
    )
    train.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="replace one setting of the recipe"
    )
    train.add_argument("--workers", type=positive, default=1, help="Ray processes that share each step (default: 1)")
    train.add_argument("--cache", type=folder, help="folder for frozen layers' outputs on images (default: in OUT)")


def _train(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.changes import parse_changes
    from cyclepref.jobs.recipe_names import recipe_path
    from cyclepref.jobs.train_reward import run_train_reward

    changes = parse_changes(arguments.set) | ({"start": arguments.start} if arguments.start else {})
    recipe = recipe_path(arguments.recipe, "reward") if arguments.recipe else None
    run_train_reward(arguments.sources, arguments.out, recipe, changes, arguments.workers, arguments.cache)
    return 0
