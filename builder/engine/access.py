"""Who may use a Ray: one that we start answers this machine alone, and there only who has its token."""

import logging
import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import grpc

log = logging.getLogger("cyclepref.engine")

MODE, TOKEN, TOKEN_PATH = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"
ANSWER_S = 5.0


@contextmanager
def token_of_its_own() -> Iterator[None]:
    """The environment in which Ray asks for a token that was made for this run, whatever the environment says.

    It lies in a folder that only this user can read and that goes at the end; Ray would put one into the user's home,
    where it decides how every later Ray authenticates.
    """
    before = {name: os.environ.get(name) for name in (MODE, TOKEN, TOKEN_PATH)}
    with tempfile.TemporaryDirectory(prefix="cyclepref-ray-") as folder:
        path = Path(folder, "token")
        path.write_text(secrets.token_hex(32), encoding="utf-8")
        os.environ.pop(TOKEN, None)  # it would go before the file
        os.environ.update({MODE: "token", TOKEN_PATH: str(path)})
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None)
                if value is not None:
                    os.environ[name] = value


@cache
def tell_if_open(address: str, head: str) -> None:
    """Say, once, if a cluster that is joined answers who has no token. `head` is the host:port of its gcs_server."""
    with grpc.insecure_channel(head, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=ANSWER_S)
        except grpc.RpcError:
            return  # it wants a token, or speaks TLS
    log.warning(
        "the Ray cluster at %s asks for no token: whoever reaches it can run code on it and read what builds read "
        "(RAY_AUTH_MODE=token on all its nodes and here closes it)",
        address,
    )
