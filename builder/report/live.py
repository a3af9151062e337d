"""`cyclepref watch`: the page of a run while it is built. It only reads the run directory, in a process of its own."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from cyclepref.builder.report.audit.charts import audit_charts
from cyclepref.builder.report.chart import Chart
from cyclepref.builder.report.charts import charts
from cyclepref.builder.report.core import core, packed, shown
from cyclepref.builder.report.facts import facts
from cyclepref.builder.report.gallery import Gallery, read_gallery
from cyclepref.builder.report.page import Pictures, plain_chart, render
from cyclepref.builder.report.report import about
from cyclepref.builder.report.serving import application, new_token, picture, serve, told
from cyclepref.builder.report.thumbnails import strips
from cyclepref.builder.run.status import status
from cyclepref.builder.run.store import Store, StoreError

# The directory is looked at no more often than this, however many look on.
NEWS_EVERY_S = 3.0
# A page of a running build shows so many inputs; the report of a finished one shows more.
MOST_INPUTS = 2_000
LATEST, TEXT_LIMIT = 12, 300


def watch(place: str | Path, *, port: int = 0, show: bool = False, tell: Callable[[str], None] = print) -> None:
    """Serve a run's page on this machine, with its progress, until Ctrl-C. `port` 0 takes any; `show` opens a browser;
    `tell` is given the address.

    Raises:
        StoreError: if there is no run.
        ReportError: if the port is taken.
    """
    token = new_token()
    status(Store(place))
    serve(Window(place, token).app(), token, port, tell, show)


class Window:
    """What the page asks for."""

    def __init__(self, place: str | Path, token: str):
        self.place, self.token = place, token
        self._lock = threading.Lock()
        self._told: tuple[float, dict[str, Any]] = (0.0, {})
        self._gallery: Gallery | None = None
        # It keeps what it has read of parts, which never change.
        self._store = Store(place)

    def app(self) -> Starlette:
        """The application."""
        routes = [
            Route("/", self.page), Route("/data", self.data), Route("/news", self.news),
            Route("/strip/{id}", self.strip), Route("/picture/{part}/{row:int}", self.picture),
        ]  # fmt: skip
        return application(routes, self.token)

    def page(self, request: Request) -> Response:
        """The page, of what there is now."""
        store = Store(self.place)
        head = facts(store)
        with self._lock:
            try:
                self._gallery = read_gallery(store, MOST_INPUTS)
            except StoreError:  # a build that has just begun has nothing to show
                self._gallery = None
            drawn = self._charts(store, head)
            gallery = about(self._gallery) if self._gallery else ""
            live = {"token": self.token}
            return HTMLResponse(render(head["title"], [head], {}, drawn, Pictures(), gallery=gallery, live=live))

    def data(self, request: Request) -> Response:
        """What the page's script reads."""
        store = Store(self.place)
        with self._lock:
            runs = [core(self._gallery, facts(store)["folder"])] if self._gallery else []
            drawn = self._charts(store, facts(store))
        return PlainTextResponse(packed({"runs": runs, "charts": [plain_chart(each) for each in drawn], "strips": []}))

    def news(self, request: Request) -> Response:
        """How the build is doing, and its last candidates."""
        with self._lock:
            at, found = self._told
            if time.monotonic() - at >= NEWS_EVERY_S or not found:
                now = status(self._store)
                found = {
                    "state": now["state"], "updated": now["updated"], "error": now["error"],
                    "stages": [_stage(each) for each in now["stages"]],
                    "failed": sum(each["count"] for each in now["failures"]), "latest": latest(self._store),
                }  # fmt: skip
                self._told = (time.monotonic(), found)
        return told(found)

    def strip(self, request: Request) -> Response:
        """The pictures of an input."""
        gallery = self._gallery
        mine = [each for each in (gallery.inputs if gallery else ()) if each.id == request.path_params["id"]]
        if gallery is None or not mine:
            return picture(None)
        one = Gallery(**{**vars(gallery), "inputs": mine})
        return picture(next(iter(strips(Store(self.place), one))) or None)

    def picture(self, request: Request) -> Response:
        """A generated image, by its place in the store."""
        part, row = request.path_params["part"], request.path_params["row"]
        store = Store(self.place)
        if part not in store.parts("generations") or row >= store.rows_in("generations", part):
            return picture(None)
        return picture(store.fetch("generations", [part], [row], ["image"])["image"][0].as_py())

    def _charts(self, store: Store, head: dict[str, Any]) -> list[Chart]:
        if self._gallery is None:
            return []
        return [*charts(store, self._gallery, head["pairs"]), *audit_charts(store)]


def _stage(each: dict[str, Any]) -> dict[str, Any]:
    """A stage in numbers."""
    count = {name: sum(of[name] for of in each["models"].values()) for name in ("wanted", "ok", "failed", "left")}
    return {"stage": each["stage"], **count, "rate": each["rows_a_second"], "seconds_left": each["seconds_left"]}


def latest(store: Store) -> list[dict[str, Any]]:
    """The last rows that were made, the newest first: what made each, its text, or where its image is."""
    parts = [name for name, _ in sorted(store.listed("store/generations"), key=lambda each: _mtime(each[1]))]
    known = set(store.parts("generations"))
    found: list[dict[str, Any]] = []
    for part in reversed([part for part in parts if part in known]):
        rows = store.read_part("generations", part, ["generation_id", "model", "text"])
        numbered = rows.append_column("row", pa.array(range(rows.num_rows)))
        for row in reversed(numbered.slice(max(0, rows.num_rows - LATEST)).to_pylist()):
            text = None if row["text"] is None else shown(row["text"], TEXT_LIMIT)
            place = None if text is not None else f"picture/{part}/{row['row']}"
            found.append({"model": shown(row["model"], 100), "text": text, "picture": place})
        if len(found) >= LATEST:
            break
    return found[:LATEST]


def _mtime(info: Any) -> int:
    return info.mtime_ns or 0
