"""The command-line arguments for reward models; their code is in jobs/reward.py, imported when a command runs."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cyclepref.builder.reward.errors import ImageNotFound
from cyclepref.builder.reward.given import check_text, pair_count
from cyclepref.jobs.arguments import positive
from cyclepref.jobs.evaluate_command import add_evaluate
from cyclepref.schemas.errors import CyclePrefError

KINDS = ("cyclereward-combo", "cyclereward-i2t", "cyclereward-t2i", "imagereward")


class UsageError(CyclePrefError, ValueError):
    """Arguments that do not go together."""


def add_reward_commands(commands, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `score`, `rank`, `best-of-n`, `convert-reward`, `evaluate`; `add(commands, name, run, about, examples)` makes
    one."""
    score = add(
        commands, "score", _score, "score how well images and texts match, with a reward model",
        "examples:\n  cyclepref score --model runs/demo/reward --image a.png --text 'two red circles'\n"
        "  cyclepref score --model M --image a.png b.png --text 'first caption' 'second caption' --json",
    )  # fmt: skip
    _model(score)
    score.add_argument("--image", nargs="+", required=True, metavar="FILE", help="one, or as many as texts")
    score.add_argument("--text", nargs="+", required=True, metavar="TEXT", help="one, or as many as images")

    rank = add(
        commands, "rank", _rank, "put images in order for a prompt, or captions for an image",
        "examples:\n  cyclepref rank --model M --prompt 'two red circles' --images a.png b.png c.png\n"
        "  cyclepref rank --model M --image a.png --texts 'two red circles' 'a blue star'",
    )  # fmt: skip
    _model(rank)
    rank.add_argument("--prompt", metavar="TEXT", help="the text that images are ranked for")
    rank.add_argument("--images", nargs="+", metavar="FILE", help="the images to rank")
    rank.add_argument("--image", metavar="FILE", help="the image that captions are ranked for")
    rank.add_argument("--texts", nargs="+", metavar="TEXT", help="the captions to rank")

    best = add(
        commands, "best-of-n", _best, "keep the best k candidates of every input of a run, or prompt of a folder",
        "examples:\n  cyclepref best-of-n --model M runs/mine -k 1\n"
        "  cyclepref best-of-n --model M pictures -k 4 --out best        pictures and metadata.jsonl\n"
        "  cyclepref best-of-n --model M pictures -k 4 --json > best.jsonl\n\n"
        "a folder holds pictures; their prompts are in metadata.jsonl (file_name, prompt) or in a .txt beside each",
    )  # fmt: skip
    _model(best)
    best.add_argument("directory", metavar="DIR", type=Path, help="run directory, or folder of pictures with prompts")
    best.add_argument("--out", type=Path, help="new folder for the kept candidates: pictures, and a line for each")
    best.add_argument("-k", type=positive, required=True, help="how many to keep for each input")

    convert = add(
        commands, "convert-reward", _convert, "convert a published reward model's checkpoint",
        "examples:\n  cyclepref convert-reward CycleReward-Combo.pth --kind cyclereward-combo --out models/combo\n"
        "  cyclepref convert-reward ImageReward.pt --kind imagereward --out models/imagereward",
    )  # fmt: skip
    convert.add_argument("checkpoint", type=Path, help=".safetensors, .pt, .pth or .bin, in the released layout")
    convert.add_argument("--kind", required=True, choices=KINDS, help="which model it is")
    convert.add_argument("--out", type=Path, required=True, help="folder to write the model into")
    convert.add_argument(
        "--tokenizer", default="bert-base-uncased", help="Hub id or folder of its tokenizer (default: %(default)s)"
    )
    add_evaluate(commands, add)


def _model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder or Hub id of a reward model")
    parser.add_argument("--device", help="cpu, cuda, cuda:1... (default: the GPU, if there is one)")
    parser.add_argument("--batch-size", type=positive, default=64, help="pairs at a time (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print JSON")


def _score(arguments: argparse.Namespace) -> int:
    pair_count(len(arguments.image), len(arguments.text))
    _look_at(arguments.image, arguments.text)
    from cyclepref.jobs.reward import run_score

    run_score(arguments.image, arguments.text, _opened(arguments), arguments.batch_size, arguments.json)
    return 0


def _rank(arguments: argparse.Namespace) -> int:
    images = arguments.prompt is not None and arguments.images and arguments.image is None and not arguments.texts
    texts = arguments.image is not None and arguments.texts and arguments.prompt is None and not arguments.images
    if not images and not texts:
        raise UsageError("rank takes --prompt with --images, or --image with --texts, and not parts of both")
    _look_at(arguments.images or [arguments.image], arguments.texts or [arguments.prompt])
    from cyclepref.jobs.reward import run_rank

    one, many = (arguments.prompt, arguments.images) if images else (arguments.image, arguments.texts)
    run_rank("image" if images else "text", one, many, _opened(arguments), arguments.json)
    return 0


def _best(arguments: argparse.Namespace) -> int:
    from cyclepref.builder.reward.best_of_n import open_groups
    from cyclepref.builder.reward.kept import new_folder
    from cyclepref.jobs.reward import run_best_of_n

    open_groups(arguments.directory)
    if arguments.out is not None:
        new_folder(arguments.out)
    run_best_of_n(
        arguments.directory, arguments.k, _opened(arguments), arguments.batch_size, arguments.json, arguments.out
    )
    return 0


def _convert(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.reward import run_convert

    run_convert(arguments.checkpoint, arguments.kind, arguments.out, arguments.tokenizer)
    return 0


def _look_at(images: list[str], texts: list[str]) -> None:
    """Refuse wrong arguments before a model is loaded."""
    for text in texts:
        check_text(text)
    for image in images:
        if not Path(image).exists():
            raise ImageNotFound(f"no such image: {image}")


def _opened(arguments: argparse.Namespace):
    from cyclepref.jobs.reward import open_model

    return open_model(arguments.model, arguments.device)
