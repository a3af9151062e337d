"""The command line's words for pages: `report`, `watch` and `audit`; what they do is in jobs/report.py."""

import argparse
from collections.abc import Callable
from pathlib import Path

from cyclepref.jobs.arguments import number, path, place, positive


def add_report_commands(commands, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add `report`, `watch` and `audit`; `add(commands, name, run, about, examples)` makes one."""
    report = add(
        commands, "report", _report, "write a run as one page to look at: its inputs, scores, models and failures",
        "examples:\n  cyclepref report runs/mine --open\n"
        "  cyclepref report runs/mine --reward runs/reward --evaluation evaluation.json\n"
        "  cyclepref report runs/mine runs/other --out both.html      which labels changed between two runs, and why",
    )  # fmt: skip
    report.add_argument("directory", metavar="DIR", type=place, help="run directory; its build may be at work")
    report.add_argument("other", metavar="DIR2", type=place, nargs="?", help="a run to compare it with")
    report.add_argument("--out", metavar="FILE", type=path, default=Path("report.html"), help="default: %(default)s")
    report.add_argument("--open", action="store_true", help="open it in a browser")
    report.add_argument("--inputs", metavar="N", type=positive, help="show so many inputs at most (default: 10,000)")
    report.add_argument("--reward", metavar="DIR3", type=path, help="a reward model whose training is shown too")
    report.add_argument("--evaluation", metavar="FILE", type=path, help="what `cyclepref evaluate --json` wrote")
    report.add_argument("--price-per-hour", metavar="P", type=number, help="of the machines, for the sum of money")

    watch = add(
        commands, "watch", _watch, "serve a run's page on this machine while it is built, with what is made last",
        "examples:\n  cyclepref watch runs/mine --open\n  cyclepref watch s3://bucket/mine --port 8080",
    )  # fmt: skip
    watch.add_argument("directory", metavar="DIR", type=place, help="run directory")
    watch.add_argument("--port", type=_port, default=0, help="port (default: any that is free)")
    watch.add_argument("--open", action="store_true", help="open it in a browser")

    audit = add(
        commands, "audit", _audit, "let people label pairs, blind, and compare what they say with the scores",
        "examples:\n  cyclepref audit runs/mine --pairs 200 --annotator anna --open\n"
        "  cyclepref audit runs/mine --result                     what people have said so far\n"
        "  cyclepref audit runs/mine --export audit.csv           for a spreadsheet or Label Studio\n"
        "  cyclepref audit runs/mine --import audit.csv --annotator ben\n"
        "  cyclepref evaluate runs/reward runs/mine/audit         a reward model against people",
    )  # fmt: skip
    audit.add_argument("directory", metavar="DIR", type=place, help="run directory on this machine")
    audit.add_argument("--pairs", metavar="N", type=positive, help="how many (default: 200, or as many as before)")
    audit.add_argument("--annotator", metavar="NAME", help="who answers; without it the page asks")
    audit.add_argument("--port", type=_port, default=0, help="port (default: any that is free)")
    audit.add_argument("--open", action="store_true", help="open it in a browser")
    audit.add_argument("--export", metavar="FILE", type=path, help="write the pairs as CSV, and serve nothing")
    audit.add_argument("--import", dest="table", metavar="FILE", type=path, help="take in a CSV, and serve nothing")
    audit.add_argument("--result", action="store_true", help="print what was said so far, and serve nothing")


def _port(value: str) -> int:
    if not value.isdecimal() or int(value) > 65535:
        raise argparse.ArgumentTypeError(f"must be a port, 0 to 65535, got {value!r}")
    return int(value)


def _report(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.report import run_report

    names = ("inputs", "reward", "evaluation", "price_per_hour")
    options = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    run_report(arguments.directory, arguments.other, arguments.out, arguments.open, options)
    return 0


def _watch(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.report import run_watch

    run_watch(arguments.directory, arguments.port, arguments.open)
    return 0


def _audit(arguments: argparse.Namespace) -> int:
    from cyclepref.jobs.report import run_audit

    served = not (arguments.result or arguments.export or arguments.table)
    run_audit(
        arguments.directory, arguments.pairs, serve=served, port=arguments.port, open_browser=arguments.open,
        annotator=arguments.annotator, export=arguments.export, table=arguments.table,
    )  # fmt: skip
    return 0
