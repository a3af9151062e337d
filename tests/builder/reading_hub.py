"""A Hub on loopback that serves one folder as the dataset repository org/name, to read."""

import hashlib
import json
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

REPO, COMMIT = "org/name", "0123456789abcdef0123456789abcdef01234567"


class Handler(BaseHTTPRequestHandler):
    """The part of the Hub's API that reading needs; `folder` is what the repository holds."""

    folder: Path
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
        if path.startswith(f"/datasets/{REPO}/resolve/"):
            self._file(path.removeprefix(f"/datasets/{REPO}/resolve/").split("/", 1)[1])
        elif path.startswith(f"/api/datasets/{REPO}/tree/"):
            under = path.removeprefix(f"/api/datasets/{REPO}/tree/").partition("/")[2]
            found = [entry for entry in self._entries() if entry["path"].startswith(under)]
            self._json(found) if found else self._missing("EntryNotFound")
        elif path == f"/api/datasets/{REPO}" or path.startswith(f"/api/datasets/{REPO}/revision/"):
            files = [{"rfilename": entry["path"]} for entry in self._entries() if entry["type"] == "file"]
            self._json({"id": REPO, "sha": COMMIT, "private": False, "siblings": files, "tags": [], "downloads": 0})
        else:
            self._missing("RepoNotFound")

    do_HEAD = do_GET

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        paths = urllib.parse.parse_qs(asked).get("paths") or json.loads(asked)["paths"]
        self._json([entry for entry in self._entries() if entry["path"] in paths])

    def _entries(self) -> list[dict[str, Any]]:
        return [
            {"type": "file", "path": name, "size": path.stat().st_size, "oid": _oid(path)}
            if path.is_file()
            else {"type": "directory", "path": name, "size": 0, "oid": COMMIT}
            for path in sorted(self.folder.rglob("*"))
            for name in [path.relative_to(self.folder).as_posix()]
        ]

    def _file(self, name: str) -> None:
        path = self.folder / name
        if not path.is_file():
            self._missing("EntryNotFound")
            return
        self._send(path.read_bytes(), "application/octet-stream", ETag=f'"{_oid(path)}"')

    def _json(self, content: object) -> None:
        self._send(json.dumps(content).encode(), "application/json")

    def _missing(self, code: str) -> None:
        self._send(b"", "text/plain", 404, **{"X-Error-Code": code, "X-Error-Message": code})

    def _send(self, data: bytes, kind: str, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        every = {"Content-Type": kind, "Content-Length": str(len(data)), "X-Repo-Commit": COMMIT, **headers}
        for name, value in every.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _oid(path: Path) -> str:
    return hashlib.sha1(path.read_bytes()).hexdigest()


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The address of a Hub that holds this folder."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Of", (Handler,), {"folder": folder}))
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
