"""The page on which people label pairs: one pair after another, blind, each answer kept before the next is shown."""

import time
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from markupsafe import Markup
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route

from cyclepref.builder.report.audit.result import result
from cyclepref.builder.report.core import shown
from cyclepref.builder.report.page import environment, policy, template_text
from cyclepref.builder.report.serving import application, picture, told
from cyclepref.builder.run.audit import PREFERS, SKIP, TIE, UNDO, Answer, add_answers, read_answers
from cyclepref.builder.run.store import Store
from cyclepref.schemas.ids import digest

NAME_LIMIT, TEXT_LIMIT = 40, 20_000
TABLES = {"input": ("inputs", "input_id"), "candidate": ("generations", "generation_id")}


class Desk:
    """What the page asks for. `pairs` are those of the audit, in order."""

    def __init__(self, store: Store, pairs: pa.Table, token: str, title: str):
        self.store, self.token, self.title = store, token, title
        self.pairs = {row["audit_id"]: row for row in pairs.to_pylist()}
        self._content = _contents(store, pairs)

    def app(self) -> Starlette:
        """The application."""
        routes = [
            Route("/", self.page), Route("/next", self.next), Route("/answer", self.answer, methods=["POST"]),
            Route("/undo", self.undo, methods=["POST"]), Route("/result", self.result),
            Route("/picture/{kind}/{id}", self.picture),
        ]  # fmt: skip
        return application(routes, self.token)

    # Not coroutines: each runs in a thread of its own, since it reads and writes files.

    def page(self, request: Request) -> Response:
        """The page itself."""
        script = template_text("audit.js")
        html = environment().get_template("audit.html.j2").render(
            title=self.title, config={"token": self.token}, script=Markup(script),
            policy=Markup(policy([script], served=True)), style=Markup(template_text("style.css")),
        )  # fmt: skip
        return HTMLResponse(html)

    def next(self, request: Request) -> Response:
        """The first pair that an annotator has not answered."""
        name = _name(request)
        return _no_name() if name is None else told(self._news(name))

    async def answer(self, request: Request) -> Response:
        """Keep an answer; the next pair is the reply."""
        return await self._posted(request, self._keep)

    async def undo(self, request: Request) -> Response:
        """Take back an annotator's last answer; its pair is the reply."""
        return await self._posted(request, self._take_back)

    def result(self, request: Request) -> Response:
        """What the answers so far say, for those who have answered everything: it would tell others what to say."""
        name = _name(request)
        if name is None or self._news(name)["pair"] is not None:
            return PlainTextResponse("the result is told to whoever has answered all pairs\n", 403)
        return told(result(self.store))

    def picture(self, request: Request) -> Response:
        """An image, by its id."""
        return picture(self.bytes_of(request.path_params["kind"], request.path_params["id"]))

    def bytes_of(self, kind: str, id_: str) -> bytes | None:
        """The encoded image of an "input" or a "candidate"; None where there is none."""
        place = self._content.get((kind, id_), (None, None))[1]
        if place is None:
            return None
        rows = self.store.fetch(TABLES[kind][0], [place[0]], [place[1]], ["image"])
        return rows["image"][0].as_py()

    def content_of(self, kind: str, id_: str) -> dict[str, str]:
        """The text of an "input" or a "candidate", or where its picture is."""
        text = self._content[kind, id_][0]
        return {"id": id_, "picture": f"{kind}/{id_}"} if text is None else {"id": id_, "text": shown(text, TEXT_LIMIT)}

    async def _posted(self, request: Request, work: Any) -> Response:
        from starlette.concurrency import run_in_threadpool

        name = _name(request)
        if name is None:
            return _no_name()
        try:
            body = await request.json()
        except ValueError:
            return PlainTextResponse("the body is no JSON\n", 400)
        wrong = await run_in_threadpool(work, name, body if isinstance(body, dict) else {})
        return PlainTextResponse(f"{wrong}\n", 400) if wrong else told(await run_in_threadpool(self._news, name))

    def _keep(self, name: str, body: dict[str, Any]) -> str | None:
        pair = self.pairs.get(str(body.get("pair")))
        ways = {"left": PREFERS, "right": PREFERS, TIE: TIE, SKIP: SKIP}
        answer = ways.get(str(body.get("answer")))
        if pair is None or answer is None:
            return "no such pair or answer"
        left, right = sides_of(pair, name)
        if (body.get("left"), body.get("right")) != (left, right):
            return "these are not the pair's two candidates"
        better = {"left": left, "right": right}.get(body["answer"])
        add_answers(self.store, [Answer(pair["audit_id"], name, answer, better, left, time.time())])
        return None

    def _take_back(self, name: str, body: dict[str, Any]) -> str | None:
        mine = [answer for answer in read_answers(self.store) if answer.annotator == name]
        if mine:
            add_answers(self.store, [Answer(mine[-1].audit_id, name, UNDO, None, None, time.time())])
        return None

    def _news(self, name: str) -> dict[str, Any]:
        answered = {answer.audit_id for answer in read_answers(self.store) if answer.annotator == name}
        left = [pair for id_, pair in self.pairs.items() if id_ not in answered]
        asked = self._asked(left[0], name) if left else None
        return {"done": len(self.pairs) - len(left), "total": len(self.pairs), "pair": asked}

    def _asked(self, pair: dict[str, Any], name: str) -> dict[str, Any]:
        left, right = sides_of(pair, name)
        return {
            "id": pair["audit_id"], "given": self.content_of("input", pair["input_id"]),
            "left": self.content_of("candidate", left), "right": self.content_of("candidate", right),
        }  # fmt: skip


def sides_of(pair: dict[str, Any], name: str) -> tuple[str, str]:
    """Which candidate stands on the left and which on the right: by a hash, so that it tells nothing and stays."""
    sides = sorted((pair["chosen_id"], pair["rejected_id"]))
    turned = int(digest("side", pair["audit_id"], name)[:1], 16) % 2
    return (sides[1], sides[0]) if turned else (sides[0], sides[1])


def _name(request: Request) -> str | None:
    """The annotator's name in an address: a few characters that only show."""
    name = request.query_params.get("name", "").strip()
    return name if 0 < len(name) <= NAME_LIMIT and name.isprintable() else None


def _no_name() -> Response:
    return PlainTextResponse(f"the address needs a name of 1 to {NAME_LIMIT} characters\n", 400)


def _contents(store: Store, pairs: pa.Table) -> dict[tuple[str, str], tuple[str | None, tuple[str, int]]]:
    """(kind, id) -> text, and where its image is."""
    wanted = {"input": set(pairs["input_id"].to_pylist()),
              "candidate": {*pairs["chosen_id"].to_pylist(), *pairs["rejected_id"].to_pylist()}}  # fmt: skip
    found = {}
    for kind, (table, key) in TABLES.items():
        rows = store.rows(table, [key, "text"])
        rows = rows.filter(pc.is_in(rows[key], value_set=pa.array(sorted(wanted[kind]), pa.string())))
        for row in rows.to_pylist():
            found[kind, row[key]] = (row["text"], (row["part"], row["row"]))
    return found
