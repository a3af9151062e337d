"""One build at a time in a run directory: who holds it, a heartbeat while they do, and taking over from the dead.

Whoever wants a run directory announces itself, then looks. The announcement is a file of its own under `.locks/`; if
another live one stands beside it, the newcomer takes its own back and refuses. Since each writes before it looks, of
two that start together both may refuse (and look again a moment later), but never do both go on.

This needs nothing of the filesystem but that a file that was written is listed at once, which POSIX filesystems and
today's object stores promise. The usual ways need more: `flock` and `O_EXCL` a local disk, and a conditional create
(`If-None-Match: *`) a client of S3 that offers it, which pyarrow (26) does not. And a stale lock is the hard part of
those: two that find it must not remove each other's. Here a dead announcement is a file of its own, which anyone may
remove.

An announcement is dead if its process is gone, where that can be seen (the same boot of the same machine and the same
namespace of process ids), and otherwise if its heartbeat has stopped for STALE_S seconds by the clock of the
filesystem itself: its time against that of the file just announced. So clocks that differ decide nothing. A time that
is still to come (the filesystem's clock was set back, a directory was copied) says nothing either: then the newcomer
watches for STALE_S seconds whether the heart beats.
"""

import contextlib
import hashlib
import json
import logging
import os
import random
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from cyclepref.builder.run.folder import Folder, StoreError
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.run_files import Announcement

log = logging.getLogger("cyclepref.lock")

FOLDER = ".locks"
# What a run directory has and no other folder; of earlier versions, parts.
MARKS = (FOLDER, "progress.json", *(f"store/{table}" for table in ("sources", "inputs", "generations", "failures")))
BEAT_S = 10.0
STALE_S = 60.0
# Of those that start within so short a time all may have refused: they look again.
YOUNG_S = 5.0
TRIES = 4
# How often it is looked whether a heart beats of which the clock tells nothing.
WATCH_S = 2.0


class LockError(CyclePrefError, RuntimeError):
    """A run directory that another build, prune or merge is working in."""


@dataclass(frozen=True)
class Holder:
    """Who works in a run directory: `command` on `host` as process `pid` since `since` (ISO 8601, UTC)."""

    command: str
    host: str
    pid: int
    since: str
    machine: str
    started: str

    @classmethod
    def here(cls, command: str) -> "Holder":
        """This process."""
        since = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(command, socket.gethostname(), os.getpid(), since, _machine(), _started(os.getpid()))

    @property
    def gone(self) -> bool | None:
        """Whether its process has ended; None where that cannot be seen from here."""
        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        # A number may be given to another process; one that has ended and not been waited for is no more.
        return self.started != _started(self.pid)

    def __str__(self) -> str:
        return (
            f"`cyclepref {self.command}` on {self.host} (pid {self.pid}, since {self.since.replace('+00:00', ' UTC')})"
        )


@dataclass(frozen=True)
class Announced:
    """An announcement: its file, whose it is, and when its heart last beat by the filesystem's clock (seconds)."""

    name: str
    holder: Holder
    beat: float

    def dead(self, now: float) -> bool:
        """Whether it may be taken over; `now` is the filesystem's clock."""
        gone = self.holder.gone
        return now - self.beat > STALE_S if gone is None else gone

    def timeless(self, now: float) -> bool:
        """Whether its time, being still to come, says nothing of a holder whose process cannot be seen."""
        return self.holder.gone is None and self.beat - now > STALE_S


class Lock:
    """A run directory that this process holds; see `hold`."""

    def __init__(self, store: Folder, holder: Holder):
        self.store, self.holder = store, holder
        self.name = f"{FOLDER}/{uuid.uuid4().hex}.json"
        self._beat = _clock()
        self.lost = self._over = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beats, name="cyclepref-lock", daemon=True)

    def check(self) -> None:
        """Make sure that the directory is still ours.

        Raises:
            LockError: if it was taken over, since this process did not run (or write) for STALE_S seconds.
        """
        if self.lost:
            raise LockError(
                f"{self.store.root} was given to another build, since this one gave no sign of life for "
                f"{STALE_S:.0f} s: what was finished is saved; run the same command again once the other has ended"
            )

    def announce(self) -> None:
        """Write (again) who is here."""
        content = json.dumps(asdict(self.holder)).encode()
        begun = _clock()
        self.store.write_file(self.name, lambda sink: sink.write(content))
        self._beat = begun

    def withdraw(self) -> None:
        """Take the announcement back."""
        self.store.remove(self.name)

    def start(self) -> None:
        """Begin the heartbeat."""
        self._thread.start()

    def stop(self) -> None:
        """End the heartbeat and give the directory free."""
        self._stop.set()
        self._thread.join()
        if not self.lost:
            self.withdraw()

    def _beats(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                # Whoever takes over removes the file; who was silent for too long may have been taken over just now.
                if _clock() - self._beat > STALE_S or not self.store.exists(self.name):
                    self.lost = True
                    return
                self.announce()
            except Exception as error:  # a disk or network that answers again in time has cost nothing
                log.warning("the lock of %s: %s: %s", self.store.root, type(error).__name__, error)


@contextmanager
def hold(store: Folder, command: str) -> Iterator[Lock]:
    """Hold a run directory: no other build, prune or merge works in it meanwhile. What killed writers left is cleaned.

    Raises:
        LockError: if another process holds it; the message names it.
        StoreError: if the directory cannot be written, or has files and no run.
    """
    store.refuse_others(MARKS, "run")
    new = store.missing()
    lock = _acquire(store, Holder.here(command))
    lock.start()
    try:
        left = store.clean(but=FOLDER)
        if left:
            log.info("removed %d files that a killed writer left in %s", left, store.root)
        yield lock
    finally:
        lock.stop()
        if new:  # a build that was refused for its recipe leaves no directory
            store.drop_if_only(FOLDER)


def holders(store: Folder) -> list[Announced]:
    """Who works in a run directory, dead or alive, in order of name."""
    found = []
    for name, info in store.listed(FOLDER):
        content = store.read_json(f"{FOLDER}/{name}", Announcement)
        if content is not None:  # given free meanwhile
            found.append(Announced(f"{FOLDER}/{name}", Holder(**content), info.mtime.timestamp()))
    return found


def _acquire(store: Folder, holder: Holder) -> Lock:
    for attempt in range(TRIES):
        lock = Lock(store, holder)
        try:
            lock.announce()
        except FileNotFoundError:  # a build that came to nothing has just removed the directory that it made
            continue
        except OSError as error:
            raise StoreError(f"cannot write to {store.root}: {error}") from error
        try:
            others = _living_others(store, lock)
        except BaseException:
            lock.withdraw()
            raise
        if not others:
            return lock
        lock.withdraw()
        first, age = others[0]
        if age > YOUNG_S or attempt == TRIES - 1:
            raise LockError(_in_use(store, first, age))
        time.sleep(random.uniform(0.1, 1.0))
    raise LockError(f"{store.root} comes and goes: another process removes it; try again")


def _in_use(store: Folder, first: Announced, age: float) -> str:
    return (
        f"{store.root} is in use by {first.holder}, whose last sign of life was {max(age, 0):.0f} s ago: "
        f"wait for it, or stop it; one that is dead is recognised (on another host after {STALE_S:.0f} s)"
    )


def _living_others(store: Folder, lock: Lock) -> list[tuple[Announced, float]]:
    """Who else is here, with the age of their heartbeat in seconds; the dead are removed, and said."""
    announced = holders(store)
    now = next((each.beat for each in announced if each.name == lock.name), None)
    if now is None:
        raise LockError(f"{store.root} does not list a file that was just written to it: it cannot be a run directory")
    living = []
    for each in announced:
        if each.name == lock.name:
            continue
        if each.dead(now) or (each.timeless(now) and not _lives(lock, each, now)):
            log.warning("%s was left by %s, which is no more: taking over", store.root, each.holder)
            store.remove(each.name)
        else:
            living.append((each, now - each.beat))
    return living


def _lives(lock: Lock, silent: Announced, now: float) -> bool:
    """Whether the heart of a holder whose time tells nothing beats within STALE_S seconds, or its file goes; ours
    beats meanwhile."""
    store = lock.store
    log.warning(
        "%s is in use by %s, whose last sign of life is dated %.0f s from now (a clock was set back, or the directory "
        "was copied): watching for %.0f s whether it lives; if no build runs there, remove %s",
        store.root, silent.holder, silent.beat - now, STALE_S, store.address(silent.name),
    )  # fmt: skip
    end = _clock() + STALE_S
    while _clock() < end:
        time.sleep(min(WATCH_S, STALE_S))
        lock.announce()
        if {each.name: each.beat for each in holders(store)}.get(silent.name) != silent.beat:
            return True
    return False


def _clock() -> float:
    """Seconds, those of a machine's sleep included where the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _machine() -> str:
    """Where process ids mean the same: this boot of this machine, and this namespace of process ids."""
    known = [str(uuid.getnode())]
    with contextlib.suppress(OSError):
        known = [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return hashlib.blake2b("|".join(known).encode(), digest_size=8).hexdigest()


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty where the system does not tell, "ended" for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]
