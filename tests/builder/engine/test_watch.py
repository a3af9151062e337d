"""The watch over what Ray needs, with other processes in its place; and what is said of a cluster without a token."""

import logging
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import grpc
import psutil
import pytest

from cyclepref.builder.engine.access import tell_if_open
from cyclepref.builder.engine.watch import Watch, vital_of

WATCHED = """
import socket, subprocess, sys, time, psutil
from pathlib import Path
from cyclepref.builder.engine import watch
watch.ANSWER_S, watch.LOOK_EVERY_S = 0.05, {look}
watch.goes_on("This goes on: the command")
vital, other = (psutil.Popen(["sleep", "60"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in "12")
head = socket.create_server(("127.0.0.1", 0))
guard = watch.Watch([vital], f"127.0.0.1:{head.getsockname()[1]}", ours=[vital, other])
guard.before_end = lambda: Path(sys.argv[1]).write_text(str(other.is_running()))
with guard:
    time.sleep(0.5)
    {what}
    time.sleep(20)
print("watched to the end")
"""


def watched(tmp_path, what: str, look_every_s: float = 0.1) -> tuple[int, str, str, str]:
    """Exit status, what it printed, its errors, and whether its other process ran when the last was done."""
    ending = tmp_path / "ending"
    command = [sys.executable, "-c", WATCHED.replace("{what}", what).replace("{look}", str(look_every_s)), str(ending)]
    environment = os.environ | {"RAY_gcs_rpc_server_reconnect_timeout_s": "1"}
    run = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    return run.returncode, run.stdout, run.stderr, ending.read_text() if ending.exists() else ""


def test_a_death_ends_the_process_with_a_message_and_what_was_ours_with_it(tmp_path):
    status, out, errors, running = watched(tmp_path, "vital.kill()")
    assert (status, out, running) == (1, "", "False")
    assert errors.startswith("error: Ray's sleep (pid ")
    assert errors.endswith(" has died, and Ray cannot go on. This goes on: the command\n")


def test_a_head_that_is_away_for_longer_than_ray_waits_ends_it_too(tmp_path):
    status, out, errors, _ = watched(tmp_path, "head.close()")
    assert (status, out) == (1, "")
    assert errors.startswith("error: the head of the Ray cluster at 127.0.0.1:")
    assert "has not answered for 1 s" in errors


def test_a_head_that_comes_back_in_time_and_an_end_that_is_meant_are_no_death(tmp_path):
    back = "; ".join([
        "port = head.getsockname()[1]", "head.close()", "time.sleep(0.3)",
        "head = socket.create_server(('127.0.0.1', port))", "time.sleep(1)", "guard.stop()", "vital.kill()",
        "other.kill()", "sys.exit(7)",
    ])  # fmt: skip
    assert watched(tmp_path, back)[:3] == (7, "", "")


def test_last_words_reach_a_standard_error_that_is_silenced(tmp_path):
    silenced = "from cyclepref.builder.common.progress import silent_stderr; silent_stderr().__enter__(); vital.kill()"
    assert "has died" in watched(tmp_path, silenced)[2]


def test_a_death_that_made_the_caller_exit_first_is_told_too(tmp_path):
    status, out, errors, _ = watched(tmp_path, "vital.kill(); vital.wait(); sys.exit(0)", look_every_s=30)
    assert (status, out) == (1, "")
    assert errors.startswith("error: Ray's ")


@pytest.mark.parametrize("end", ["os._exit(1)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_an_end_that_nobody_can_see_coming_has_its_word_too(tmp_path, end):
    status, out, errors, _ = watched(tmp_path, f"import os, signal; vital.kill(); other.kill(); {end}")
    assert status == (1 if "exit" in end else -9)
    assert out == ""
    assert errors.startswith("error: this process has been ended from outside: killed, or by Ray, whose gcs_server or ")
    assert errors.endswith(" This goes on: the command\n")


def test_only_processes_of_the_cluster_that_is_meant_are_vital():
    assert vital_of([psutil.Process()]) == []


def test_a_watch_that_is_stopped_twice_is_stopped():
    with Watch([psutil.Process()]) as watch:
        watch.stop()


@pytest.fixture
def head():
    """Starts a head that answers all, or none, who have no token; returns its address."""
    servers = []

    def start(is_open: bool) -> str:
        def answer(request: bytes, context: grpc.ServicerContext) -> bytes:
            if not is_open:
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
            return b""

        handlers = {"CheckAlive": grpc.unary_unary_rpc_method_handler(answer)}
        server = grpc.server(ThreadPoolExecutor(1))
        server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("ray.rpc.NodeInfoGcsService", handlers)])
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        servers.append(server)
        return f"127.0.0.1:{port}"

    yield start
    for server in servers:
        server.stop(None)


def test_a_cluster_that_asks_for_no_token_is_told_of_once(head, caplog):
    caplog.set_level(logging.WARNING)
    address = head(is_open=True)
    tell_if_open("the-cluster:6379", address)
    tell_if_open("the-cluster:6379", address)
    (said,) = caplog.messages
    assert said.startswith("the Ray cluster at the-cluster:6379 asks for no token: ")


def test_of_a_cluster_that_wants_a_token_nothing_is_said(head, caplog):
    tell_if_open("closed:6379", head(is_open=False))
    assert caplog.messages == []
