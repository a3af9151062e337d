"""The command-line arguments for datasets; a command's code is imported when it runs."""

import argparse
from collections.abc import Callable

from cyclepref.jobs.arguments import number, number_or_none, path, place, positive


def add_dataset_commands(commands, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `stats`, `publish` and `export`; `add(commands, name, run, about, examples)` makes one."""
    stats = add(
        commands, "stats", _stats, "describe a dataset before anyone trains on it: margins, biases, duplicates",
        "examples:\n  cyclepref stats runs/mine\n  cyclepref stats runs/mine/dataset --json",
    )  # fmt: skip
    stats.add_argument("directory", metavar="DIR", type=place, help="run directory, or a folder with a dataset")
    stats.add_argument("--json", action="store_true", help="print it as JSON")

    publish = add(
        commands, "publish", _publish, "upload a run's dataset to the Hugging Face Hub; safe to repeat",
        "examples:\n  cyclepref publish runs/mine --repo org/name --dry-run    what would be sent\n"
        "  cyclepref publish runs/mine --repo org/name --private",
    )  # fmt: skip
    publish.add_argument("directory", metavar="DIR", type=place, help="run directory, or a folder with a dataset")
    publish.add_argument("--repo", metavar="ORG/NAME", required=True, help="dataset repository, new or of yours")
    publish.add_argument("--private", action="store_true", help="make it private if it is new")
    publish.add_argument("--revision", metavar="BRANCH", help="branch, created if it does not exist (default: main)")
    publish.add_argument("--dry-run", action="store_true", help="list files and sizes without using the network")
    publish.add_argument("--partial", action="store_true", help="publish an unfinished run's dataset")

    export = add(
        commands, "export", _export, "write a dataset's pairs in a layout that a trainer reads",
        "examples:\n  cyclepref export runs/i2t2i --format trl-dpo-vision --out exports/dpo\n"
        "  cyclepref export runs/t2i2t --format diffusion-dpo --out exports/sd --min-margin 0.05 --balance-by-model\n\n"
        "formats:\n  text candidates (i2t2i):  trl-dpo-vision, trl-kto, trl-kto-vision, trl-reward, cycleprefdb\n"
        "  image candidates (t2i2t): diffusion-dpo, imagereward, hpdv3, cycleprefdb",
    )  # fmt: skip
    export.add_argument(
        "place", metavar="DIR", type=_place_or_id, help="run directory, dataset folder, or org/name on the Hub"
    )
    export.add_argument("--format", dest="format_name", metavar="F", required=True, help="one of the formats below")
    export.add_argument("--out", metavar="DIR2", type=path, required=True, help="folder, new or empty")
    export.add_argument("--split", help="only this split (default: all splits that have pairs)")
    export.add_argument("--min-margin", type=number, metavar="M", help="leave out pairs with a smaller margin")
    export.add_argument("--max-margin", type=number, metavar="M", help="leave out pairs with a larger margin")
    export.add_argument(
        "--poor-chosen", type=number_or_none, metavar="S",
        help="drop pairs whose chosen candidate scores worse than this; none keeps all (default: as built)",
    )  # fmt: skip
    export.add_argument("--top-vs-bottom", action="store_true", help="keep only each input's best against its worst")
    export.add_argument("--max-pairs-per-input", type=positive, metavar="N", help="keep at most N, chosen by hash")
    export.add_argument(
        "--balance-by-model", action="store_true", help="keep equally many wins of both models of every two"
    )
    export.add_argument("--prompt", help="what captions answer to in TRL's layouts (default: CyclePrefDB's question)")
    export.add_argument("--seed", type=int, default=0, help="decides sides in diffusion-dpo (default: %(default)s)")
    export.add_argument(
        "--margin", choices=("none", "raw", "standardised"),
        help="margin column for trl-reward's trainer: none, raw (in the cycle score's units) or standardised (in its "
        "standard deviations) (default: raw)",
    )  # fmt: skip
    export.add_argument("--revision", help="branch, tag or commit of a repository on the Hub")


def _place_or_id(value: str) -> str:
    path(value)
    return value


def _stats(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.publish import print_statistics

    print_statistics(arguments.directory, arguments.json)
    return 0


def _publish(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.publish import run_publish

    run_publish(
        arguments.directory, arguments.repo, arguments.private, arguments.revision, arguments.dry_run, arguments.partial
    )
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.export import run_export

    names = ("min_margin", "max_margin", "top_vs_bottom", "max_pairs_per_input", "balance_by_model")
    filters = {name: getattr(arguments, name) for name in names}
    options = {name: getattr(arguments, name) for name in ("split", "poor_chosen", "seed", "revision", "margin")}
    if arguments.prompt is not None:
        options["prompt"] = arguments.prompt
    run_export(arguments.place, arguments.format_name, str(arguments.out), filters, **options)
    return 0
