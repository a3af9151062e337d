"""The command line. Each command imports what it needs when it runs, so that --help is instant."""

import argparse
import logging
import sys
from pathlib import Path

from builder import __version__
from jobs.reward_commands import add_reward_commands
from schemas.errors import CyclePrefError, visible

EXAMPLES = """examples:
  cyclepref demo                                          both cycles on the embedded world, on any machine
  cyclepref build jobs/recipes/shapeworld_i2t2i.yaml --out runs/i2t2i
  cyclepref status runs/i2t2i                             how it is doing, at any time and from another terminal
  cyclepref export runs/i2t2i --format trl-dpo-vision --out exports/dpo
                                                          its pairs as a trainer reads them
  cyclepref evaluate runs/demo/reward runs/demo/i2t2i     a reward model beside baselines on judged pairs
  cyclepref models                                        every model and metric that a recipe can name
  cyclepref models llava-1.5-7b                           one of them, with all its settings
"""


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 stopped by an error, 2 wrong usage, 130 interrupted."""
    arguments = _parser().parse_args(argv)
    logging.basicConfig(format="%(message)s", level=logging.INFO if arguments.verbose else logging.WARNING)
    try:
        return arguments.run(arguments)
    except KeyboardInterrupt:
        print("\nInterrupted. What was finished is saved; run the same command again to go on.", file=sys.stderr)
        return 130
    except CyclePrefError as error:
        print(visible(f"error: {error}"), file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    about = "Preference data for image-text alignment without human labels, by cycle consistency."
    parser = argparse.ArgumentParser(
        "cyclepref", description=about, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"cyclepref {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    demo = _command(
        commands, "demo", _demo, "run both cycles and train a reward model on the embedded world",
        "examples:\n  cyclepref demo\n  cyclepref demo --out runs/demo --inputs 24      a smaller one",
    )  # fmt: skip
    demo.add_argument("--out", type=_folder, default=Path("runs/demo"), help="run directory (default: %(default)s)")
    demo.add_argument("--inputs", type=_positive, help="inputs per cycle (default: what the recipes say)")

    build = _command(
        commands, "build", _build, "run a recipe; on a directory that has a run, do what is left of it",
        "examples:\n  cyclepref build my_recipe.yaml --out runs/mine\n"
        "  cyclepref build my_recipe.yaml --out runs/mine --retry-failed",
    )  # fmt: skip
    build.add_argument("recipe", type=Path, help="YAML file; see jobs/recipes")
    build.add_argument(
        "--out", type=_place, required=True,
        help="run directory, new or of an earlier build: a folder that all nodes see, or s3://bucket/prefix",
    )  # fmt: skip
    build.add_argument("--retry-failed", action="store_true", help="try rows that failed before once more")

    models = _command(
        commands, "models", _models, "list the catalog of captioners, text-to-image pipelines and metrics",
        "examples:\n  cyclepref models\n  cyclepref models shapeworld-sd3",
    )  # fmt: skip
    models.add_argument("name", nargs="?", help="show all settings of this one")

    status = _command(
        commands, "status", _status, "say how a run is doing: progress, speed, failures, what is unused",
        "examples:\n  cyclepref status runs/mine\n  cyclepref status s3://bucket/mine --json",
    )  # fmt: skip
    status.add_argument("directory", metavar="DIR", type=_place, help="run directory; a build may be at work in it")
    status.add_argument("--json", action="store_true", help="print it as JSON")

    prune = _command(
        commands, "prune", _prune, "remove rows that the latest build of a directory did not ask for; asks first",
        "examples:\n  cyclepref prune runs/mine\n  cyclepref prune runs/mine --yes",
    )  # fmt: skip
    prune.add_argument("directory", metavar="DIR", type=_place, help="run directory whose latest build has finished")
    prune.add_argument("--yes", action="store_true", help="do not ask")

    merge = _command(
        commands, "merge", _merge, "copy the rows of two runs into one, where a build makes only what neither has",
        "examples:\n  cyclepref merge runs/a runs/b                  into runs/a\n"
        "  cyclepref merge runs/a runs/b --into runs/both",
    )  # fmt: skip
    merge.add_argument("first", metavar="A", type=_place, help="run directory")
    merge.add_argument("second", metavar="B", type=_place, help="run directory; its rows are left as they are")
    merge.add_argument("--into", metavar="C", type=_place, help="run directory, new or not (default: A)")
    add_reward_commands(commands, _command)

    export = _command(
        commands, "export", _export, "write a dataset's pairs in a layout that a trainer reads",
        "examples:\n  cyclepref export runs/i2t2i --format trl-dpo-vision --out exports/dpo\n"
        "  cyclepref export runs/t2i2t --format diffusion-dpo --out exports/sd --min-margin 0.05 --balance-by-model\n\n"
        "formats:\n  text candidates (i2t2i):  trl-dpo-vision, trl-kto, trl-kto-vision, trl-reward, cycleprefdb\n"
        "  image candidates (t2i2t): diffusion-dpo, imagereward, hpdv3, cycleprefdb",
    )  # fmt: skip
    export.add_argument("place", metavar="DIR", help="run directory, dataset folder, or org/name on the Hub")
    export.add_argument("--format", dest="format_name", metavar="F", required=True, help="one of those below")
    export.add_argument("--out", metavar="DIR2", required=True, help="folder, new or empty")
    export.add_argument("--split", help="only this one (default: all that have pairs)")
    export.add_argument("--min-margin", type=_number, metavar="M", help="leave out pairs with a smaller margin")
    export.add_argument("--max-margin", type=_number, metavar="M", help="leave out pairs with a larger margin")
    export.add_argument(
        "--poor-chosen", type=_number_or_none, metavar="S",
        help="make pairs again, without those whose chosen one scores worse; none: keep these (default: as built)",
    )  # fmt: skip
    export.add_argument("--top-vs-bottom", action="store_true", help="of each input only its best against its worst")
    export.add_argument("--max-pairs-per-input", type=_positive, metavar="N", help="at most so many, chosen by hash")
    export.add_argument(
        "--balance-by-model", action="store_true", help="of each two models as many wins for the one as for the other"
    )
    export.add_argument("--prompt", help="what captions answer to in TRL's layouts (default: CyclePrefDB's question)")
    export.add_argument("--seed", type=int, default=0, help="decides sides in diffusion-dpo (default: %(default)s)")
    export.add_argument("--revision", help="of a repository on the Hub")
    return parser


def _command(commands, name: str, run, about: str, examples: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=about, description=about, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more of what happens")
    parser.set_defaults(run=run)
    return parser


def _folder(value: str) -> Path:
    if "://" in value:
        raise argparse.ArgumentTypeError(f"{value!r} is not a folder of this machine, which the demo needs")
    return Path(value).expanduser()


def _place(value: str) -> str:
    """A run directory: a folder, or an address that the store knows."""
    return value if "://" in value else str(Path(value).expanduser())


def _positive(value: str) -> int:
    if not value.isdecimal() or int(value) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive number, got {value!r}")
    return int(value)


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be a number, got {value!r}") from None


def _number_or_none(value: str) -> str:
    return value if value == "none" else str(_number(value))


def _demo(arguments: argparse.Namespace) -> int:
    from jobs.demo import run_demo

    run_demo(arguments.out, arguments.inputs)
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from jobs.build import run_build

    run_build(arguments.recipe, arguments.out, arguments.retry_failed)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from jobs.runs import print_status

    print_status(arguments.directory, arguments.json)
    return 0


def _prune(arguments: argparse.Namespace) -> int:
    from jobs.runs import run_prune

    return run_prune(arguments.directory, arguments.yes)


def _merge(arguments: argparse.Namespace) -> int:
    from jobs.runs import run_merge

    run_merge(arguments.first, arguments.second, arguments.into)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from jobs.export import run_export

    names = ("min_margin", "max_margin", "top_vs_bottom", "max_pairs_per_input", "balance_by_model")
    filters = {name: getattr(arguments, name) for name in names}
    options = {name: getattr(arguments, name) for name in ("split", "poor_chosen", "seed", "revision")}
    if arguments.prompt is not None:
        options["prompt"] = arguments.prompt
    run_export(arguments.place, arguments.format_name, arguments.out, filters, **options)
    return 0


def _models(arguments: argparse.Namespace) -> int:
    from jobs.models import print_models

    print_models(arguments.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
