"""The page: one HTML file from a template, with its data and pictures in it, that opens from a disk without a network.

A policy in its head names the scripts by their hashes, so that nothing else can run there, whatever a caption, a file
or a model is called; and nothing can be fetched.
"""

import base64
import hashlib
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from cyclepref.builder import __version__
from cyclepref.builder.report.chart import Chart
from cyclepref.builder.report.core import packed, shown
from cyclepref.schemas.errors import CyclePrefError

TEMPLATES = Path(__file__).parent / "templates"
# With more pictures than this (bytes, encoded) they go into a folder beside the page, which stays below 50 MB.
MOST_INLINE = 30_000_000
TEXT_LIMIT = 4_000


class ReportError(CyclePrefError, RuntimeError):
    """A page that cannot be made or served: what it is, the rule, and the way out."""


@dataclass(frozen=True)
class Pictures:
    """The strips of all inputs: encoded, a line each, or in a folder; `there` says of each input if it has one."""

    lines: str = ""
    folder: str | None = None
    there: tuple[str, ...] = ()


def environment() -> Environment:
    """The templates; whatever is put into them is escaped."""
    made = Environment(loader=FileSystemLoader(TEMPLATES), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    made.filters.update(
        visible=lambda text: shown(str(text or ""), TEXT_LIMIT),
        moment=_moment,
        count=_count,
        decimal=_decimal,
        money=_money,
    )
    return made


def render(
    title: str, heads: list[dict[str, Any]], data: dict[str, Any], charts: list[Chart], pictures: Pictures,
    *, gallery: str = "", changes: dict[str, Any] | None = None, live: dict[str, Any] | None = None,
) -> str:  # fmt: skip
    """The page as HTML. `data` is what its script reads (core.py); `live` has the token of a page that is served."""
    scripts = [get_plotlyjs(), template_text("page.js")]
    if live:
        scripts.append(template_text("live.js"))
    config = {"live": bool(live), "token": live["token"] if live else "", "folder": pictures.folder}
    whole = {**data, "charts": [plain_chart(chart) for chart in charts], "strips": list(pictures.there)}
    from markupsafe import Markup

    return environment().get_template("page.html.j2").render(
        title=title, heads=[{**head, "tiles": _tiles(head)} for head in heads], charts=charts, config=config,
        gallery=gallery, changes=changes, live=live, folder=pictures.folder, version=__version__,
        policy=Markup(policy(scripts, live is not None)), style=Markup(template_text("style.css")),
        data="" if live else Markup(packed(whole)), strips=Markup(pictures.lines),
        scripts=[Markup(script) for script in scripts],
    )  # fmt: skip


def template_text(name: str) -> str:
    """A file of templates/ as it is."""
    return (TEMPLATES / name).read_text(encoding="utf-8")


def policy(scripts: Iterable[str], served: bool) -> str:
    """The page's Content-Security-Policy: these scripts and no other, no address but its own."""
    hashes = " ".join(f"'sha256-{base64.b64encode(hashlib.sha256(s.encode()).digest()).decode()}'" for s in scripts)
    own = "'self'" if served else "file: 'self'"
    parts = (
        "default-src 'none'", f"script-src {hashes}", "style-src 'unsafe-inline'", f"img-src data: blob: {own}",
        f"connect-src {own if served else chr(39) + 'none' + chr(39)}", "base-uri 'none'", "form-action 'none'",
    )  # fmt: skip
    return "; ".join(parts)


def write_pictures(strips: Iterable[tuple[int, str, bytes]], out: Path, tick: Callable[[int], None]) -> Pictures:
    """Encode strips for a page at `out`: (number of the run, input, WebP bytes) in order; into a folder beside it, once
    they are too many."""
    folder = out.with_name(f"{out.stem}_files")
    _clear(folder)
    kept: list[tuple[int, str, str]] = []
    there: dict[int, list[str]] = {}
    size, spilled = 0, False
    for run, id_, strip in strips:
        there.setdefault(run, []).append("1" if strip else "0")
        if spilled:
            _put(folder / str(run), id_, strip)
        else:
            kept.append((run, id_, base64.b64encode(strip).decode()))
            size += len(kept[-1][2])
            if size > MOST_INLINE:
                spilled = True
                for number, earlier, text in kept:
                    _put(folder / str(number), earlier, base64.b64decode(text))
                kept = []
        tick(1)
    if not spilled:
        return Pictures("\n".join(text for _, _, text in kept))
    (folder / MARKER).touch()
    return Pictures("", folder.name, tuple("".join(there[run]) for run in sorted(there)))


def write_page(out: Path, html: str) -> None:
    """Put a page in its place, whole.

    Raises:
        ReportError: if it cannot be written there.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        scratch = out.with_name(f".{out.name}.new")
        scratch.write_text(html, encoding="utf-8")
        scratch.replace(out)
    except OSError as error:
        raise ReportError(
            f"cannot write {out} ({error}): --out must name a file in a folder that can be written"
        ) from error


MARKER = "pictures-of-a-cyclepref-report"


def _clear(folder: Path) -> None:
    """Remove the pictures of an earlier page.

    Raises:
        ReportError: if the folder is somebody's own.
    """
    if not folder.exists():
        return
    if not (folder / MARKER).is_file():
        raise ReportError(f"{folder} is there and is none of ours: move it, or name another --out")
    shutil.rmtree(folder)


def _put(folder: Path, id_: str, strip: bytes) -> None:
    if not strip:
        return
    place = folder / id_[:2]
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{id_}.webp").write_bytes(strip)


def plain_chart(chart: Chart) -> dict[str, Any]:
    """A chart as the page's script reads it."""
    return {"id": chart.id, **_plain(chart.figure.to_plotly_json())}


def _plain(value: Any) -> Any:
    """Numbers and lists that JSON has; what is no number is nothing."""
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(each) for each in value]
    if isinstance(value, float) and value != value:
        return None
    return value


def _tiles(head: dict[str, Any]) -> list[tuple[str, str]]:
    """The numbers that stand first."""
    tiles = []
    if head["inputs"]:
        tiles.append(("inputs", _count(head["inputs"]["unique"])))
        if head["inputs"]["failed"]:
            tiles.append(("inputs that could not be read", _count(head["inputs"]["failed"])))
    made = sum(row.get("ok") or 0 for row in head["stages"] if row["stage"] == "candidates")
    back = sum(row.get("ok") or 0 for row in head["stages"] if row["stage"] == "reconstructions")
    failed = sum(row.get("failed") or 0 for row in head["stages"])
    tiles += [(name, _count(count)) for name, count in (("candidates", made), ("reconstructions", back)) if count]
    kept = dict(head["pairs"]).get("kept as pairs")
    tiles += [("pairs", _count(kept))] if kept is not None else []
    tiles.append(("rows failed", _count(failed)))
    if head["seconds"]:
        tiles.append(("time", _duration(head["seconds"])))
    if head["priced"]:
        tiles.append(("money", _money(sum(row.get("money") or 0 for row in head["stages"]))))
    return tiles


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _moment(at: float | str) -> str:
    """A moment as people read it, of seconds since 1970 or of ISO 8601 in UTC."""
    text = at if isinstance(at, str) else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
    return text.replace("T", " ").replace("+00:00", " UTC")


def _count(value: Any) -> str:
    return "" if value is None or not isinstance(value, int) else f"{value:,}"


def _decimal(value: Any) -> str:
    return "" if not isinstance(value, int | float) else f"{value:,.1f}"


def _money(value: Any) -> str:
    return "" if not isinstance(value, int | float) else f"{value:,.2f}"
