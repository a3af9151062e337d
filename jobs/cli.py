"""The command line. Each command imports what it needs when it runs, so that --help is instant."""

import argparse
import logging
import os
import platform
import shlex
import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from cyclepref.builder import __version__
from cyclepref.jobs.arguments import folder, hours, place, positive
from cyclepref.jobs.checkout import VARIABLE as CHECKOUT
from cyclepref.jobs.dataset_commands import add_dataset_commands
from cyclepref.jobs.lookup_commands import add_lookup_commands
from cyclepref.jobs.plan_commands import add_plan_commands
from cyclepref.jobs.report_commands import add_report_commands
from cyclepref.jobs.reward_commands import add_reward_commands
from cyclepref.jobs.train_command import add_train_command
from cyclepref.schemas.errors import CyclePrefError, visible

EXAMPLES = """examples:
  cyclepref demo                                          both cycles on the embedded world, on any machine
  cyclepref recipes                                       what can be built as it is, or changed
  cyclepref plan better_i2t --gpus 8 --gpu-type H100 --inputs 7600     what it will take, before anything is spent
  cyclepref build shapeworld_i2t2i --out runs/i2t2i
  cyclepref status runs/i2t2i                             its progress, at any time and from another terminal
  cyclepref report runs/i2t2i --open                      look at it: a page that needs no network
  cyclepref stats runs/i2t2i                              what its pairs are like, before anyone trains on them
  cyclepref export runs/i2t2i --format trl-dpo-vision --out exports/dpo        the pairs as a trainer reads them
  cyclepref publish runs/i2t2i --repo org/name --dry-run  what would go to the Hugging Face Hub
  cyclepref evaluate runs/demo/reward runs/demo/i2t2i     a reward model beside baselines on judged pairs
  cyclepref models                                        every model and metric that a recipe can name
  cyclepref models llava-1.5-7b                           one of them, with all its settings
  cyclepref train-reward runs/i2t2i --out runs/reward --recipe shapeworld
"""

log = logging.getLogger("cyclepref")

# Commands that resume when they are run again.
GO_ON = ("audit", "build", "demo", "merge", "plan", "prune", "publish", "train-reward")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 1 stopped by an error, 2 wrong usage, 130 interrupted."""
    arguments = make_parser().parse_args(argv)
    again = _again(arguments.command, sys.argv[1:] if argv is None else argv)
    from cyclepref.builder.engine.watch import goes_on

    goes_on(again)
    logging.basicConfig(format="%(message)s", level=logging.INFO if arguments.verbose else logging.WARNING)
    command = shlex.join([*_program(), *(sys.argv[1:] if argv is None else argv)])
    begin = time.monotonic()
    log.info("cyclepref %s, Python %s: %s", __version__, platform.python_version(), visible(command, keep=""))
    try:
        status = _interruptible(arguments)
        log.info("%s: %.1f s", arguments.command, time.monotonic() - begin)
        return status
    except KeyboardInterrupt:
        print(f"\nStopped. {again}", file=sys.stderr)
        return 130
    except CyclePrefError as error:
        log.info("where this was found:", exc_info=error)
        print(visible(f"error: {error}"), file=sys.stderr)
        return 1
    except BrokenPipeError:  # the reader of the output has closed it, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        from cyclepref.jobs.last_resort import report

        log.info("the whole trace:", exc_info=error)
        print(report(error, command), file=sys.stderr)
        return 1


def _interruptible(arguments: argparse.Namespace) -> int:
    """Run a command; SIGTERM, which schedulers send, has the effect of Ctrl-C."""
    if threading.current_thread() is not threading.main_thread():
        return arguments.run(arguments)
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return arguments.run(arguments)
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _again(command: str, argv: list[str]) -> str:
    """The hint how to resume or restart a command that was stopped."""
    what = "What was finished is saved; this resumes it" if command in GO_ON else "This begins again"
    return f"{what}:\n  {shlex.join([*_program(), *argv])}"


def _program() -> list[str]:
    """The words with which this program was called."""
    if Path(sys.argv[0]).stem == "cyclepref":
        return ["cyclepref"]
    # In a checkout (see jobs/checkout.py) `cyclepref` would run the installed code instead.
    return [sys.executable, "-m", "jobs" if CHECKOUT in os.environ else "cyclepref.jobs"]


def make_parser() -> argparse.ArgumentParser:
    """All commands with their arguments."""
    about = "Preference data for image-text alignment without human labels, by cycle consistency."
    parser = argparse.ArgumentParser(
        "cyclepref", description=about, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"cyclepref {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True, dest="command")

    demo = _command(
        commands, "demo", _demo, "run both cycles and train a reward model on the embedded world",
        "examples:\n  cyclepref demo\n  cyclepref demo --out runs/demo --inputs 24      a smaller one",
    )  # fmt: skip
    demo.add_argument("--out", type=folder, default=Path("runs/demo"), help="run directory (default: %(default)s)")
    demo.add_argument("--inputs", type=positive, help="inputs per cycle (default: what the recipes say)")

    build = _command(
        commands, "build", _build, "run a recipe; on a directory that has a run, do what is left of it",
        "examples:\n  cyclepref build shapeworld_i2t2i --out runs/first\n"
        "  cyclepref build my_recipe.yaml --out runs/try --limit 20 --set pairs.min_margin=0.01\n"
        "  cyclepref build my_recipe.yaml --out runs/mine --set forward.0.settings.dtype=bfloat16\n"
        "  cyclepref build my_recipe.yaml --out runs/mine --retry-failed\n"
        "  cyclepref build my_recipe.yaml --out runs/mine --budget 200h",
    )  # fmt: skip
    build.add_argument("recipe", help="YAML file, or a name that `cyclepref recipes` lists")
    build.add_argument(
        "--out", type=place, required=True,
        help="run directory, new or of an earlier build: a folder that all nodes see, or s3://bucket/prefix",
    )  # fmt: skip
    build.add_argument(
        "--limit", metavar="N", type=positive, help="only the first N inputs; a longer build reuses them"
    )
    build.add_argument(
        "--set", metavar="NAME=VALUE", action="append", default=[], help="replace one setting of the recipe"
    )
    build.add_argument("--retry-failed", action="store_true", help="try the failed rows once more")
    build.add_argument(
        "--budget", metavar="T", type=hours,
        help="end with as many inputs as 200h (GPU hours; hours without GPUs) of all builds there are enough for",
    )  # fmt: skip

    add_plan_commands(commands, _command)

    status = _command(
        commands, "status", _status, "show a run's progress, speed, failures and unused rows",
        "examples:\n  cyclepref status runs/mine\n  cyclepref status s3://bucket/mine --json",
    )  # fmt: skip
    status.add_argument("directory", metavar="DIR", type=place, help="run directory; a build may be at work in it")
    status.add_argument("--json", action="store_true", help="print it as JSON")

    failed = _command(
        commands, "failures", _failures, "list every row that failed and is still wanted, with its input and reason",
        "examples:\n  cyclepref failures runs/mine\n"
        "  cyclepref failures runs/mine --stage candidates --json > failed.jsonl",
    )  # fmt: skip
    failed.add_argument("directory", metavar="DIR", type=place, help="run directory")
    failed.add_argument("--stage", help="only of this stage (inputs, candidates, reconstructions, scores, safety)")
    failed.add_argument("--model", help="only of this model or metric")
    failed.add_argument("--json", action="store_true", help="print a JSON object a line")

    verify = _command(
        commands, "verify", _verify, "read a whole run directory and report what is damaged; changes nothing",
        "examples:\n  cyclepref verify runs/mine           its exit status is 1 if anything is wrong\n"
        "  cyclepref verify runs/mine --json",
    )  # fmt: skip
    verify.add_argument("directory", metavar="DIR", type=place, help="run directory")
    verify.add_argument("--json", action="store_true", help="print it as JSON")

    prune = _command(
        commands, "prune", _prune, "remove rows that the latest build of a directory did not ask for; asks first",
        "examples:\n  cyclepref prune runs/mine\n  cyclepref prune runs/mine --yes",
    )  # fmt: skip
    prune.add_argument("directory", metavar="DIR", type=place, help="run directory whose latest build has finished")
    prune.add_argument("--yes", action="store_true", help="do not ask")

    merge = _command(
        commands, "merge", _merge, "copy the rows of two runs into one; a build there makes what neither has",
        "examples:\n  cyclepref merge runs/a runs/b                  into runs/a\n"
        "  cyclepref merge runs/a runs/b --into runs/both",
    )  # fmt: skip
    merge.add_argument("first", metavar="A", type=place, help="run directory")
    merge.add_argument("second", metavar="B", type=place, help="run directory; its rows stay as they are")
    merge.add_argument("--into", metavar="C", type=place, help="run directory, new or not (default: A)")

    add_lookup_commands(commands, _command, make_parser)
    add_report_commands(commands, _command)
    add_dataset_commands(commands, _command)
    add_reward_commands(commands, _command)
    add_train_command(commands, _command)
    return parser


def _command(commands, name: str, run, about: str, examples: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=about, description=about, epilog=examples, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-v", "--verbose", action="store_true", help="say more of what happens")
    parser.set_defaults(run=run)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.demo import run_demo

    run_demo(arguments.out, arguments.inputs)
    return 0


def _build(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.changes import parse_changes
    from cyclepref.jobs.run_build import run_build

    limit = {"inputs.limit": arguments.limit} if arguments.limit else {}
    changes = parse_changes(arguments.set) | limit
    run_build(arguments.recipe, arguments.out, arguments.retry_failed, changes, arguments.budget)
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.runs import print_status

    print_status(arguments.directory, arguments.json)
    return 0


def _failures(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.runs import print_failures

    print_failures(arguments.directory, arguments.stage, arguments.model, arguments.json)
    return 0


def _verify(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.verify import run_verify

    return run_verify(arguments.directory, arguments.json)


def _prune(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.runs import run_prune

    return run_prune(arguments.directory, arguments.yes)


def _merge(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.runs import run_merge

    return run_merge(arguments.first, arguments.second, arguments.into)


if __name__ == "__main__":
    sys.exit(main())
