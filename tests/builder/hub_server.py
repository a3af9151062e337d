"""A server on loopback that speaks as much of the Hub's HTTP API as publishing and loading a dataset need.

Written from huggingface_hub's client: repositories, branches, preupload, LFS batch and PUT, commits, listings, files.
A commit is a mapping of paths to blobs; large files and pictures go by LFS, as the Hub's .gitattributes say.
"""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

NAME = "org/name"
WRITER, READER = "hf_writerSecret0123456789", "hf_readerSecret0123456789"
LFS = (".parquet", ".png")
REPO = r"(?P<kind>models|datasets|spaces)/(?P<repo>[^/]+/[^/]+)"


@dataclass
class Blob:
    """A file of a commit; `oid` is the sha256 of one in LFS, else git's blob id."""

    data: bytes
    lfs: bool

    @property
    def oid(self) -> str:
        if self.lfs:
            return hashlib.sha256(self.data).hexdigest()
        return hashlib.sha1(b"blob %d\0" % len(self.data) + self.data).hexdigest()


@dataclass
class Repo:
    kind: str
    private: bool = False
    branches: dict[str, list[tuple[str, dict[str, Blob]]]] = field(default_factory=dict)

    def commit(self, branch: str, files: dict[str, Blob]) -> str:
        history = self.branches.setdefault(branch, [])
        oid = hashlib.sha1(
            repr((len(history), branch, sorted((p, b.oid) for p, b in files.items()))).encode()
        ).hexdigest()
        history.append((oid, files))
        return oid

    def at(self, revision: str) -> tuple[str, dict[str, Blob]] | None:
        if revision in self.branches:
            return self.branches[revision][-1]
        commits = [commit for history in self.branches.values() for commit in history]
        return next((commit for commit in commits if commit[0] == revision), None)


class Hub:
    """The server's state. `log` has every request; `fail(method, path, code, after)` breaks requests to come."""

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], Repo] = {}
        self.objects: dict[str, bytes] = {}
        self.log: list[tuple[str, str]] = []
        self.failures: list[list[Any]] = []
        self.url = ""

    def make(self, repo: str, kind: str = "datasets", private: bool = False) -> Repo:
        made = self.repos[kind, repo] = Repo(kind, private)
        made.commit("main", {".gitattributes": Blob(b"*.parquet filter=lfs\n*.png filter=lfs\n", False)})
        return made

    def add(self, repo: str, files: dict[str, bytes]) -> None:
        """Somebody commits files to main."""
        blobs = {name: Blob(data, name.endswith(LFS)) for name, data in files.items()}
        self.repos["datasets", repo].commit("main", {**self.files(repo), **blobs})

    def fail(self, method: str, path: str, code: int, after: int = 0) -> None:
        """From the (after + 1)th request on whose path has `path` in it, answer `code`; 0 breaks the connection."""
        self.failures.append([method, path, code, after])

    def breaks(self, method: str, path: str) -> int | None:
        for failure in self.failures:
            if failure[0] == method and failure[1] in path:
                failure[3] -= 1
                if failure[3] < 0:
                    return failure[2]
        return None

    def files(self, repo: str, branch: str = "main") -> dict[str, Blob]:
        return self.repos["datasets", repo].branches[branch][-1][1]

    def commits(self, repo: str, branch: str = "main") -> int:
        """Commits after the one that made the repository."""
        return len(self.repos["datasets", repo].branches[branch]) - 1


@contextmanager
def hub_server():
    """A running Hub."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def serving(folder: Path):
    """The address of a Hub that has a folder's files as the dataset repository NAME."""
    with hub_server() as hub:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        files = {p.relative_to(folder).as_posix(): Blob(p.read_bytes(), p.suffix in LFS) for p in paths}
        hub.make(NAME).commit("main", files)
        yield hub.url


class Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        path = unquote(urlsplit(self.path).path)
        self.hub.log.append((self.command, path))
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        broken = self.hub.breaks(self.command, path)
        if broken == 0:
            self.close_connection = True
            self.connection.close()
            return None
        if broken:
            return self._say({"error": "broken on purpose"}, broken)
        for method, pattern, answer in ROUTES:
            found = re.fullmatch(pattern, path)
            if found and self.command in method:
                if "POST" in method and "/paths-info/" not in path and not self._may_write():
                    return None
                return answer(self, **found.groupdict())
        return self._say({"error": f"no route for {self.command} {path}"}, 404)

    do_GET = do_POST = do_PUT = do_HEAD = _handle

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _may_write(self) -> bool:
        if self.token == WRITER:
            return True
        code = 403 if self.token == READER else 401
        self._say({"error": "you may not write here"}, code)
        return False

    def _say(self, content: Any, code: int = 200, **headers: str) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _missing(self, what: str) -> None:
        self._say({"error": f"{what} not found"}, 404, X_Error_Code=what)

    def _find(self, kind: str, repo: str, revision: str = "main") -> tuple[Repo, str, dict[str, Blob]] | None:
        found = self.hub.repos.get((kind, repo))
        if found is None or (found.private and self.token not in (WRITER, READER)):
            return self._missing("RepoNotFound")
        commit = found.at(revision)
        return (found, *commit) if commit else self._missing("RevisionNotFound")

    # ---- what is asked ---------------------------------------------------------------------------------------------

    def yaml(self) -> None:
        self._say({"errors": [], "warnings": []})

    def whoami(self) -> None:
        self._say({"name": "org", "type": "user"})

    def create(self) -> None:
        asked = json.loads(self.body)
        repo = f"{asked.get('organization') or 'me'}/{asked['name']}"
        if ("datasets", repo) in self.hub.repos:
            return self._say({"error": "You already created this dataset repo"}, 409)
        self.hub.make(repo, "datasets", asked.get("visibility") == "private")
        return self._say({"url": f"{self.hub.url}/datasets/{repo}", "id": repo, "name": repo})

    def info(self, kind: str, repo: str, revision: str | None = None) -> None:
        if found := self._find(kind, repo, revision or "main"):
            at, oid, files = found
            siblings = [{"rfilename": name} for name in sorted(files)]
            self._say({"id": repo, "sha": oid, "private": at.private, "siblings": siblings, "tags": [], "downloads": 0})

    def branch(self, kind: str, repo: str, revision: str) -> None:
        if found := self._find(kind, repo):
            if revision in found[0].branches:
                return self._say({"error": "the branch is there"}, 409)
            found[0].branches[revision] = list(found[0].branches["main"])
            self._say({})
        return None

    def preupload(self, kind: str, repo: str, revision: str) -> None:
        if found := self._find(kind, repo, revision):
            files = found[2]
            asked = json.loads(self.body)["files"]
            self._say({"files": [
                {
                    "path": file["path"], "shouldIgnore": False,
                    "uploadMode": "lfs" if file["path"].endswith(LFS) else "regular",
                    "oid": files[file["path"]].oid if file["path"] in files else None,
                }
                for file in asked
            ]})  # fmt: skip

    def batch(self, repo: str) -> None:
        objects = []
        for asked in json.loads(self.body)["objects"]:
            actions = {"upload": {"href": f"{self.hub.url}/lfs/{asked['oid']}"}}
            objects.append({**asked, **({} if asked["oid"] in self.hub.objects else {"actions": actions})})
        self._say({"transfer": "basic", "objects": objects})

    def put(self, oid: str) -> None:
        assert hashlib.sha256(self.body).hexdigest() == oid
        self.hub.objects[oid] = self.body
        self._say({})

    def commit(self, kind: str, repo: str, revision: str) -> None:
        if found := self._find(kind, repo, revision):
            files = dict(found[2])
            for line in map(json.loads, self.body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = Blob(base64.b64decode(value["content"]), False)
                elif line["key"] == "lfsFile":
                    files[value["path"]] = Blob(self.hub.objects[value["oid"]], True)
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            oid = found[0].commit(revision, files)
            self._say({"commitUrl": f"{self.hub.url}/{kind}/{repo}/commit/{oid}", "commitOid": oid, "success": True})

    def tree(self, kind: str, repo: str, revision: str, under: str | None = None) -> None:
        if found := self._find(kind, repo, revision):
            recursive = parse_qs(urlsplit(self.path).query).get("recursive", [""])[0].lower() == "true"
            prefix = f"{under}/" if under else ""
            inside = {name: blob for name, blob in found[2].items() if name.startswith(prefix)}
            folders = {name[: name.index("/", len(prefix))] for name in inside if "/" in name[len(prefix) :]}
            if under and not inside:
                return self._missing("EntryNotFound")
            entries = [
                _entry(name, blob) for name, blob in inside.items() if recursive or "/" not in name[len(prefix) :]
            ]
            self._say(
                [*entries, *({"type": "directory", "path": name, "oid": "0" * 40, "size": 0} for name in folders)]
            )
        return None

    def paths(self, kind: str, repo: str, revision: str) -> None:
        if found := self._find(kind, repo, revision):
            form = parse_qs(self.body.decode()) if b"paths=" in self.body else json.loads(self.body)
            files, asked = found[2], form["paths"]
            entries = [_entry(name, files[name]) for name in asked if name in files]
            entries += [
                {"type": "directory", "path": name, "oid": "0" * 40, "size": 0}
                for name in asked
                if any(file.startswith(f"{name}/") for file in files)
            ]
            self._say(entries)

    def resolve(self, repo: str, revision: str, name: str, kind: str = "datasets") -> None:
        if found := self._find(kind, repo, revision):
            blob = found[2].get(name)
            if blob is None:
                return self._missing("EntryNotFound")
            headers = {"X_Repo_Commit": found[1], "ETag": f'"{blob.oid}"', "Accept_Ranges": "bytes"}
            data = blob.data
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if asked:
                start, end = int(asked[1]), int(asked[2] or len(data) - 1)
                headers["Content_Range"] = f"bytes {start}-{min(end, len(data) - 1)}/{len(data)}"
                return self._say(data[start : end + 1], 206, **headers)
            return self._say(data, **headers)
        return None


def _entry(name: str, blob: Blob) -> dict[str, Any]:
    lfs = {"lfs": {"oid": blob.oid, "size": len(blob.data), "pointerSize": 130}} if blob.lfs else {}
    return {"type": "file", "path": name, "oid": blob.oid[:40], "size": len(blob.data), **lfs}


ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", r"/api/validate-yaml", Handler.yaml),
    ("GET", r"/api/whoami-v2", Handler.whoami),
    ("POST", r"/api/repos/create", Handler.create),
    ("POST", rf"/api/{REPO}/branch/(?P<revision>.+)", Handler.branch),
    ("POST", rf"/api/{REPO}/preupload/(?P<revision>.+)", Handler.preupload),
    ("POST", rf"/api/{REPO}/commit/(?P<revision>.+)", Handler.commit),
    ("POST", rf"/api/{REPO}/paths-info/(?P<revision>.+)", Handler.paths),
    ("GET", rf"/api/{REPO}/tree/(?P<revision>[^/]+)(/(?P<under>.+))?", Handler.tree),
    ("GET", rf"/api/{REPO}/revision/(?P<revision>.+)", Handler.info),
    ("GET", rf"/api/{REPO}", Handler.info),
    ("POST", r"/datasets/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", Handler.batch),
    ("PUT", r"/lfs/(?P<oid>[0-9a-f]{64})", Handler.put),
    ("GET HEAD", r"/datasets/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<name>.+)", Handler.resolve),
]
