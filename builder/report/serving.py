"""Pages that are served: on this machine alone, to whoever has the token that stands in the address."""

import secrets
import socket
import webbrowser
from collections.abc import Callable

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from cyclepref.builder.report.page import ReportError

HOST = "127.0.0.1"
# A page of another site may send requests here; it cannot know the token, nor call this machine by a name of its own.
HOSTS = [HOST, "localhost"]
HEADERS = {
    "Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin",
}  # fmt: skip
MOST_BODY = 10_000


class Guard:
    """Answers only requests with the token, and tells browsers to keep nothing."""

    def __init__(self, app: ASGIApp, token: str):
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        request = Request(scope)
        given = request.query_params.get("token", "")
        answer: ASGIApp = self.app
        if not secrets.compare_digest(given.encode(), self.token.encode()):
            answer = PlainTextResponse("this address needs the token that the command printed\n", 403)
        elif request.method == "POST" and request.headers.get("content-type") != "application/json":
            answer = PlainTextResponse("answers are JSON\n", 415)
        elif int(request.headers.get("content-length") or 0) > MOST_BODY:
            answer = PlainTextResponse("too much\n", 413)

        async def with_headers(message: dict) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(k.lower().encode(), v.encode()) for k, v in HEADERS.items()]
            await send(message)

        await answer(scope, receive, with_headers)


def application(routes: list[Route], token: str) -> Starlette:
    """An application whose every route needs the token."""
    middleware = [Middleware(TrustedHostMiddleware, allowed_hosts=HOSTS), Middleware(Guard, token=token)]
    return Starlette(routes=routes, middleware=middleware)


def new_token() -> str:
    """A token that nobody guesses."""
    return secrets.token_urlsafe(18)


def serve(app: Starlette, token: str, port: int, tell: Callable[[str], None], show: bool, query: str = "") -> None:
    """Serve until Ctrl-C; `tell` is given the address once it answers, which `show` opens in a browser.

    Raises:
        ReportError: if the port is taken.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((HOST, port))
        except OSError as error:
            raise ReportError(f"cannot listen on port {port} ({error}): give another --port, or 0 for any") from error
        listening.listen()
        address = f"http://{HOST}:{listening.getsockname()[1]}/?token={token}{query}"
        tell(address)
        if show:
            webbrowser.open(address)
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off"))
        try:
            server.run(sockets=[listening])
        except KeyboardInterrupt:  # what ends it
            return


def picture(data: bytes | None) -> Response:
    """Encoded bytes of a picture, as a browser takes them."""
    kinds = ((b"\x89PNG", "image/png"), (b"\xff\xd8", "image/jpeg"), (b"RIFF", "image/webp"))
    found = next((kind for magic, kind in kinds if data and data.startswith(magic)), None)
    if data is None or found is None:
        return PlainTextResponse("no such picture\n", 404)
    return Response(data, media_type=found)


def told(value: object, status: int = 200) -> JSONResponse:
    """A JSON answer."""
    return JSONResponse(value, status)
