"""The death of Ray's own processes: without gcs_server or the raylet Ray's core ends this process, without a word of
what happened and what to do. So they are watched, and the word is said in time.

There is no way back to the caller: whatever is asked of Ray then waits for what has died, until the core ends the
process. So the watch ends it, with exit status 1. The core may be faster (it ends a driver that has just something to
say to a raylet that is dead): then a small process beside this one has the word.
"""

import atexit
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import NoReturn

import psutil

LOOK_EVERY_S = 0.1
ANSWER_S = 5.0
# The core waits so long for a head that is away, and longer if it is told to; ours comes before.
PATIENCE_OF_RAY, PATIENCE_OF_RAY_S = "RAY_gcs_rpc_server_reconnect_timeout_s", 60
# What is still done after the word is said may take so long.
ENDING_S = 20.0

# Waits for the end of the process that holds its input, and speaks if that has not said that all is well.
HERALD = 'test "$(cat)" || printf "%s\\n" "$1" >&2'
SUDDEN = (
    "error: this process has been ended from outside: killed, or by Ray, whose gcs_server or raylet has died then. "
)

_goes_on = "What was finished is saved: run the same command again"


def goes_on(text: str) -> None:
    """Say what the last words end with: how what was begun is continued."""
    global _goes_on
    _goes_on = text


class Watch:
    """Sees to it that this process does not end without a word when what it needs of Ray has died.

    `vital` are processes on this machine. `head` is the host:port of the head of a cluster that is joined, which may be
    away for a while. `ours` are processes that end with this one. `before_end` may be set to what is to be done last.
    """

    def __init__(self, vital: list[psutil.Process], head: str = "", ours: Iterable[psutil.Process] = ()):
        self.vital = {process: _name(process) for process in vital}  # a process that is gone has no name
        self.head, self.ours = head, list(ours)
        self.before_end: Callable[[], None] = lambda: None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="cyclepref-watch", daemon=True)

    def __enter__(self) -> "Watch":
        self._stderr = os.dup(2)  # which is silenced at times
        self._herald = subprocess.Popen(
            ["sh", "-c", HERALD, "cyclepref-herald", SUDDEN + _goes_on],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=self._stderr, start_new_session=True,
        )  # fmt: skip
        atexit.register(self.stop)  # before Ray's own, registered earlier, ends its processes
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        atexit.unregister(self.stop)
        os.close(self._stderr)

    def stop(self) -> None:
        """From now on they may end; if one has, this process ends as if that had been seen at once."""
        if self._over.is_set():
            return
        self._over.set()
        self._thread.join()
        self._look()  # Ray's core may have raised SystemExit in the caller
        self._dismiss_herald()

    def _run(self) -> None:
        patience = float(os.environ.get(PATIENCE_OF_RAY) or PATIENCE_OF_RAY_S) * 2 / 3
        seen = asked = time.monotonic()
        while not self._over.wait(LOOK_EVERY_S):
            self._look()
            now = time.monotonic()
            if self.head and now - asked >= ANSWER_S:
                asked = now
                if _answers(self.head):
                    seen = now
                elif (away := now - seen) > patience:
                    self._end(f"the head of the Ray cluster at {self.head} has not answered for {away:.0f} s")

    def _look(self) -> None:
        for process, name in self.vital.items():
            if not _alive(process):
                self._end(f"Ray's {name} (pid {process.pid}) has died")

    def _end(self, reason: str) -> NoReturn:
        clear = "\r\x1b[K\x1b[?25h" if os.isatty(self._stderr) else ""  # a progress bar hides the cursor
        with suppress(OSError):
            self._dismiss_herald()
            os.write(self._stderr, f"{clear}error: {reason}, and Ray cannot go on. {_goes_on}\n".encode())
        last = threading.Timer(ENDING_S, os._exit, (1,))
        last.daemon = True
        last.start()
        try:
            end_all(self.ours)
            self.before_end()
        finally:
            os._exit(1)

    def _dismiss_herald(self) -> None:
        if not self._herald.stdin.closed:
            with suppress(OSError):  # somebody has killed it
                self._herald.communicate(b"all is well")


def vital_of(processes: Iterable[psutil.Process], node: str = "") -> list[psutil.Process]:
    """Those without which Ray's core ends its driver: of a cluster that is joined by way of a node, that node's raylet,
    since its gcs_server may be started again."""
    names = ("raylet",) if node else ("gcs_server", "raylet")
    found = []
    for process in processes:
        with suppress(psutil.Error):
            if process.name() in names and node in " ".join(process.cmdline()):
                found.append(process)
    return found


def end_all(processes: Iterable[psutil.Process]) -> None:
    """Kill processes and all that they have started."""
    family = set()
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            family |= {process, *process.children(recursive=True)}
    for process in family:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, timeout=10)


def _name(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return process.name()
    return "process"


def _alive(process: psutil.Process) -> bool:
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _answers(address: str) -> bool:
    host, port = address.rsplit(":", 1)
    with suppress(OSError), socket.create_connection((host.strip("[]"), int(port)), timeout=ANSWER_S):
        return True
    return False
