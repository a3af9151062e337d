"""`cyclepref audit`: people label pairs of a run, without knowing what it says, and the result of that."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cyclepref.builder.report.audit.draw import draw
from cyclepref.builder.report.audit.result import result
from cyclepref.builder.report.audit.serve import Desk
from cyclepref.builder.report.audit.table import read_table, write_table
from cyclepref.builder.report.page import ReportError
from cyclepref.builder.report.serving import new_token, serve
from cyclepref.builder.run.store import Store


@dataclass(frozen=True)
class Page:
    """How an audit is served: the port (0: any that is free), whether a browser is opened, the annotator whose name
    stands in the address, and who is told the address."""

    port: int = 0
    show: bool = False
    annotator: str | None = None
    tell: Callable[[str], None] = print


def audit(
    place: str | Path, pairs: int | None = None, *, page: Page | None = None, table_out: Path | None = None,
    table_in: Path | None = None, annotator: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Ask people about `pairs` pairs of a run (default: as many as it was begun with, or PAIRS), and return what they
    said so far (see result.py), which is written to audit.json.

    With a `page` it is served on this machine until Ctrl-C; `table_out` and `table_in` are CSV files to fill in
    elsewhere. Both may be used for one audit.

    Raises:
        ReportError: if the run has no pairs, is not on this machine, or a file is not what it must be.
        StoreError: if it has not come to its pairs.
    """
    store = Store(place)
    drawn = draw(store, pairs)
    if table_in is not None:
        read_table(store, drawn, table_in, annotator)
    if table_out is not None:
        write_table(store, drawn, table_out, annotator or "")
    if page is not None:
        token = new_token()
        named = f"&name={_quoted(page.annotator)}" if page.annotator else ""
        serve(Desk(store, drawn, token, Path(store.root).name).app(), token, page.port, page.tell, page.show, named)
    return result(store)


def _quoted(name: str) -> str:
    from urllib.parse import quote

    if not name.isprintable() or len(name) > 40:
        raise ReportError(f"an annotator's name has 1 to 40 characters that can be seen, got {name!r:.60}")
    return quote(name)
