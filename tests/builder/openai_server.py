"""A real HTTP server on loopback that answers chat completions as it is told, and remembers what it was asked."""

import base64
import io
import json
import os
import secrets
import threading
import time
from collections import defaultdict
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

from cyclepref.builder.models.protocols import Caption
from cyclepref.schemas.specs import EndpointSpec

# The red of the picture that a client asks about before all others.
PROBE = 128
# In the environment as soon as tests are collected: before any Ray is started, whose workers inherit it.
KEY = os.environ["CYCLEPREF_TEST_KEY"] = "sk-" + secrets.token_hex(16)


def completion(text: str | None, reason: str = "stop", **message: Any) -> str:
    """A chat completion with one choice."""
    choice = {"index": 0, "finish_reason": reason, "message": {"role": "assistant", "content": text, **message}}
    return json.dumps({"id": "1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]})


def picture(red: int) -> Image.Image:
    """A picture that the server knows by its red."""
    return Image.new("RGB", (8, 8), (red, 0, 0))


def spec(url: str, **settings) -> EndpointSpec:
    """An endpoint's settings, asking two times more."""
    about = {"name": "served", "served_model": "qwen", "prompt": "what is this?", "max_retries": 2}
    return EndpointSpec(base_url=url, **{**about, **settings})


def captions(results: list) -> list[str]:
    """Texts, and what stands in their place."""
    return [result.text if isinstance(result, Caption) else f"{type(result).__name__}: {result}" for result in results]


class OpenAIServer:
    """`replies[red]` are the next answers about a picture, (status, headers, body) each, "hang", "echo" (an error that
    repeats the request's headers), or a function that is given the connection; without any it is captioned
    "picture RED"."""

    def __init__(self) -> None:
        self.replies: dict[int, list[Any]] = defaultdict(list)
        self.asked: list[tuple[int, dict[str, str], dict[str, Any], float]] = []
        self.at_once = self.most_at_once = 0
        self.seconds = 0.0
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def times(self, red: int) -> list[float]:
        """When a picture was asked about."""
        return [at for of, _, _, at in self.asked if of == red]

    def stop(self) -> None:
        """No longer listen."""
        self._http.shutdown()
        self._http.server_close()

    def _answer(self, headers: dict[str, str], body: dict[str, Any]) -> Any:
        url = body["messages"][0]["content"][0]["image_url"]["url"]
        red = Image.open(io.BytesIO(base64.b64decode(url.removeprefix("data:image/png;base64,")))).getpixel((0, 0))[0]
        with self._lock:
            self.asked.append((red, headers, body, time.monotonic()))
            self.at_once += 1
            self.most_at_once = max(self.most_at_once, self.at_once)
            told = self.replies[red].pop(0) if self.replies[red] else (200, {}, completion(f"picture {red}"))
        time.sleep(2 if told == "hang" else self.seconds)
        with self._lock:
            self.at_once -= 1
        if told == "hang":
            return None
        if told == "echo":
            return 400, {}, json.dumps({"error": {"message": f"bad request with {headers}"}})
        return told

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                answer = server._answer({k.lower(): v for k, v in self.headers.items()}, body)
                if callable(answer):
                    with suppress(OSError):  # whoever asked has seen enough
                        answer(self.wfile)
                elif answer:
                    self._send(*answer)

            def do_GET(self) -> None:
                self._send(200, {}, json.dumps({"data": [{"id": "qwen"}, {"id": "gemma"}]}))

            def _send(self, status: int, headers: dict[str, str], body: str) -> None:
                self.send_response(status)
                for name, value in {"Content-Type": "application/json", **headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body.encode())))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, *_: Any) -> None:
                pass

        return Handler
