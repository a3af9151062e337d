"""The Ray that a build starts: who can reach it, what is said when it dies, what stays when it ends."""

import ipaddress
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import own_driver
import psutil
import pytest


class Driver:
    """own_driver.py in a session of its own, where the environment asks for a Ray without authentication."""

    def __init__(self, folder: Path):
        self.home, self.temporary = folder / "home", folder / "tmp"
        self.home.mkdir()
        self.temporary.mkdir()
        open_ray = {"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "known-to-all", "RAY_TMPDIR": str(folder)}
        environment = os.environ | open_ray | {"HOME": str(self.home), "TMPDIR": str(self.temporary)}
        self.errors = folder / "errors"
        with self.errors.open("w") as errors:
            self.process = psutil.Popen(
                [sys.executable, own_driver.__file__], env=environment, start_new_session=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        assert self.process.stdout.readline() == "row\n", self.errors.read_text()
        self.family = self.process.children(recursive=True)

    def go_on(self) -> list[str]:
        """Let it work to its end; the rest of what it prints."""
        return self.process.communicate("\n" * 100, timeout=120)[0].splitlines()

    def find(self, name: str) -> psutil.Process:
        (found,) = [process for process in self.family if process.name() == name]
        return found

    def left(self, within_s: float = 0) -> list[psutil.Process]:
        """What it started and what still runs."""
        return psutil.wait_procs(self.family, timeout=within_s)[1]


@pytest.fixture
def driver() -> Iterator[Driver]:
    # Short and directly under /tmp: Ray's sockets lie in it, and a socket's path may have 107 characters.
    folder = Path(tempfile.mkdtemp(prefix="own-ray-", dir="/tmp"))
    started = Driver(folder)
    yield started
    for process in (started.process, *started.left()):
        with suppress(psutil.NoSuchProcess):
            process.kill()
    shutil.rmtree(folder, ignore_errors=True)


def listening(processes: list[psutil.Process]) -> dict[tuple[str, int], str]:
    """(address, port) of all TCP and UDP sockets that somebody else could reach, by the name of the process."""
    found = {}
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            for socket in process.net_connections("inet"):
                if socket.laddr and not socket.raddr:
                    found[socket.laddr.ip, socket.laddr.port] = process.name()
    return found


def is_loopback(address: str) -> bool:
    ip = ipaddress.ip_address(address)
    return (getattr(ip, "ipv4_mapped", None) or ip).is_loopback


def ask(port: int, token: str | None) -> grpc.StatusCode:
    """What gcs_server answers to who has this token."""
    metadata = [("authorization", f"Bearer {token}")] if token else []
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        try:
            channel.unary_unary("/ray.rpc.NodeInfoGcsService/CheckAlive")(b"", timeout=10, metadata=metadata)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


def test_a_ray_of_ours_answers_this_machine_and_its_token_alone_and_no_second_one_starts(driver):
    sockets = listening([driver.process, *driver.family])
    assert {"gcs_server", "raylet"} < set(sockets.values())
    assert len(sockets) > 6
    assert [(*where, name) for where, name in sockets.items() if not is_loopback(where[0])] == []

    path = Path(driver.find("raylet").environ()["RAY_AUTH_TOKEN_PATH"])
    token = path.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    (port,) = [port for (_, port), name in sockets.items() if name == "gcs_server"]
    given = {given: ask(port, given) for given in (None, "known-to-all", "0" * 64, token)}
    refused = grpc.StatusCode.UNAUTHENTICATED
    assert list(given.values()) == [refused, refused, refused, grpc.StatusCode.OK]

    output = driver.go_on()
    assert "ended a worker failed: OSError: [Errno 28] No space left on device" in output
    assert output[-2:] == ["started again 0", "left []"]
    assert driver.process.returncode == 0
    assert driver.left(30) == []
    logs = [file for file in driver.home.parent.rglob("*") if file.is_file()]
    assert len(logs) > 5
    assert [file for file in logs if token.encode() in file.read_bytes()] == []
    assert [*driver.home.iterdir(), *driver.temporary.iterdir()] == []


@pytest.mark.parametrize("name", ["gcs_server", pytest.param("raylet", marks=pytest.mark.slow)])
def test_the_death_of_a_process_of_ray_is_one_message_with_the_command_that_goes_on(driver, name):
    dead = driver.find(name)
    dead.kill()
    # Its input stays open meanwhile: it waits for a line, and the watch alone can end it.
    assert driver.process.wait(30) == 1
    output = driver.process.stdout.read()
    told = [line for line in driver.errors.read_text().splitlines() if "no GPU" not in line]
    assert told == [
        f"error: Ray's {name} (pid {dead.pid}) has died, and Ray cannot go on. This goes on:",
        f"  {own_driver.COMMAND}",
    ]
    assert output == ""
    assert driver.left(30) == []


@pytest.mark.slow
def test_nothing_stays_of_a_driver_that_is_killed(driver):
    driver.process.kill()
    assert driver.process.wait(30) == -9
    # Two agents of Ray's see it, and wait a minute for a gcs_server that has died too before they end.
    assert driver.left(100) == []
