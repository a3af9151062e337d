"""Pages of runs, and people's judgement: what `import cyclepref` offers of them."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cyclepref.builder.report.report import Written


def report(
    place: str | Path,
    other: str | Path | None = None,
    *,
    out: str | Path = "report.html",
    inputs: int = 10_000,
    reward: str | Path | None = None,
    evaluation: str | Path | None = None,
    price_per_hour: float | None = None,
) -> "Written":
    """Write a run as one HTML file that needs no network; with an `other` run, both side by side, and which labels
    changed. Returns where it is.

    `inputs` are shown at most. `reward` is the folder of a reward model, `evaluation` a file of `cyclepref evaluate
    --json`, `price_per_hour` what an hour of the machines costs, all three of one run alone.

    Raises:
        StoreError: if there is no run, or it is damaged.
        ReportError: if the page cannot be written, or two runs cannot be compared.
        Unavailable: without the packages of the extra `report`.

    >>> cyclepref.report("runs/mine", out="mine.html").inputs
    40
    """
    from cyclepref.builder.report.extra import require_extra

    require_extra()
    options = {"reward": reward, "evaluation": evaluation, "price_per_hour": price_per_hour}
    if other is not None:
        from cyclepref.builder.report.compare import compare
        from cyclepref.builder.report.page import ReportError

        if given := [name for name, value in options.items() if value is not None]:
            raise ReportError(f"{', '.join(given)} is of a page of one run, and this is of two: leave it out")
        return compare(place, other, out, most=inputs)
    from cyclepref.builder.report.report import report

    return report(place, out, most=inputs, **options)


def watch(place: str | Path, *, port: int = 0, open_browser: bool = False, tell: Callable[[str], None] = print) -> None:
    """Serve a run's page on this machine until Ctrl-C, with the progress of its build and what was made last. `tell` is
    given the address, which has a token in it; `port` 0 is any that is free.

    Raises:
        StoreError: if there is no run.
        ReportError: if the port is taken.
        Unavailable: without the packages of the extra `report`.

    >>> cyclepref.watch("runs/mine", open_browser=True)  # doctest: +SKIP
    """
    from cyclepref.builder.report.extra import require_extra

    require_extra()
    from cyclepref.builder.report.live import watch

    watch(place, port=port, show=open_browser, tell=tell)


def audit(
    place: str | Path,
    pairs: int | None = None,
    *,
    serve: bool = True,
    port: int = 0,
    open_browser: bool = False,
    annotator: str | None = None,
    export: str | Path | None = None,
    table: str | Path | None = None,
    tell: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Let people say which candidate of a pair is better, without knowing what the run says, of `pairs` pairs (default:
    as many as the audit was begun with, or 200 for a new one); returns how they agree with each other and with each
    score (see builder/report/audit/result.py), which is written to audit.json.

    The page is served on this machine until Ctrl-C, unless not `serve`. `export` is a CSV file to write, `table` one
    with answers to take in, by `annotator` where it names nobody.

    Raises:
        ReportError: if the run has no pairs, or a file is not what it must be.
        StoreError: if there is no run, or it has not come to its pairs.
        Unavailable: without the packages of the extra `report`.

    >>> found = cyclepref.audit("runs/mine", pairs=20, serve=False)
    >>> found["pairs"], found["answered"]
    (20, 0)
    """
    from cyclepref.builder.report.extra import require_extra

    require_extra()
    from cyclepref.builder.report.audit.audit import Page, audit

    page = Page(port, open_browser, annotator, tell) if serve else None
    files = {"table_out": export and Path(export), "table_in": table and Path(table)}
    return audit(place, pairs, page=page, annotator=annotator, **files)
