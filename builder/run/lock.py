"""The lock of a run directory: one build at a time, a heartbeat while it works, and taking over from a dead one.

A process that wants a run directory first writes an announcement, a file of its own under `.locks/`, and then looks for
others. If it finds another live one, it removes its own and refuses. Since each process writes before it looks, two
that start together may both refuse (and try again a moment later), but they never both go on.

This only needs a filesystem that lists a file as soon as it is written, as POSIX filesystems and today's object stores
do. The usual ways need more: `flock` and `O_EXCL` need a local disk, and a conditional create (`If-None-Match: *`)
needs an S3 client that offers it, which pyarrow (26) does not. They also make stale locks difficult, since two
processes that find one must not remove each other's new lock. Here a dead announcement is a separate file, which anyone
may remove.

An announcement is dead if its process is gone. If that cannot be seen from here (another machine, boot or namespace of
process ids), it is dead if its heartbeat stopped STALE_S seconds ago by the filesystem's clock: its file's time is
compared with that of the newcomer's file, so different clocks of machines do not matter. If its time is in the future
(the filesystem's clock was set back, or the directory was copied), the newcomer watches for STALE_S seconds whether the
heartbeat goes on.
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
# Names that only a run directory has; those of earlier versions have just parts.
MARKS = (FOLDER, "progress.json", *(f"store/{table}" for table in ("sources", "inputs", "generations", "failures")))
BEAT_S = 10.0
STALE_S = 60.0
# Processes that start at almost the same time may all refuse, so they try again.
YOUNG_S = 5.0
TRIES = 4
# How often a heartbeat with a time in the future is checked.
WATCH_S = 2.0


class LockError(CyclePrefError, RuntimeError):
    """A run directory that another build, prune or merge is working in."""


@dataclass(frozen=True)
class Holder:
    """The process that works in a run directory: `command` on `host` as process `pid` since `since` (ISO 8601, UTC)."""

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
        """Whether its process has ended; None if that cannot be seen from here."""
        if (self.host, self.machine) != (socket.gethostname(), _machine()):
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        # The pid may belong to a newer process, and a zombie counts as ended.
        return self.started != _started(self.pid)

    def __str__(self) -> str:
        return (
            f"`cyclepref {self.command}` on {self.host} (pid {self.pid}, since {self.since.replace('+00:00', ' UTC')})"
        )


@dataclass(frozen=True)
class Announced:
    """An announcement: its file, its holder, and the time of its last heartbeat by the filesystem's clock (seconds)."""

    name: str
    holder: Holder
    beat: float

    def dead(self, now: float) -> bool:
        """Whether it may be taken over; `now` is the filesystem's clock."""
        gone = self.holder.gone
        return now - self.beat > STALE_S if gone is None else gone

    def timeless(self, now: float) -> bool:
        """Whether its time is in the future and its process cannot be seen, so that neither shows whether it lives."""
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
        """Check that this process still holds the directory.

        Raises:
            LockError: if it was taken over, since this process did not run (or write) for STALE_S seconds.
        """
        if self.lost:
            raise LockError(
                f"{self.store.root} was taken over by another build, since this one gave no sign of life for "
                f"{STALE_S:.0f} s: what was finished is saved; run the same command again once the other has ended"
            )

    def announce(self) -> None:
        """Write the announcement, or renew its heartbeat."""
        content = json.dumps(asdict(self.holder)).encode()
        begun = _clock()
        self.store.write_file(self.name, lambda sink: sink.write(content))
        self._beat = begun

    def withdraw(self) -> None:
        """Remove the announcement."""
        self.store.remove(self.name)

    def start(self) -> None:
        """Begin the heartbeat."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the heartbeat and release the directory."""
        self._stop.set()
        self._thread.join()
        if not self.lost:
            self.withdraw()

    def _beats(self) -> None:
        while not self._stop.wait(BEAT_S):
            try:
                # A process that takes over removes the file; after too long a silence that may just have happened.
                if _clock() - self._beat > STALE_S or not self.store.exists(self.name):
                    self.lost = True
                    return
                self.announce()
            except Exception as error:  # no harm is done if the disk or network answers again in time
                log.warning("the lock of %s: %s: %s", self.store.root, type(error).__name__, error)


@contextmanager
def hold(store: Folder, command: str) -> Iterator[Lock]:
    """Hold a run directory: no other build, prune or merge works in it meanwhile. Unfinished files of killed writers
    are removed.

    Raises:
        LockError: if another process holds it; the message names it.
        StoreError: if the directory cannot be written, or has files but no run.
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
        if new:  # a build with a wrong recipe leaves no directory
            store.drop_if_only(FOLDER)


def holders(store: Folder) -> list[Announced]:
    """The announcements in a run directory, dead or alive, in order of name."""
    found = []
    for name, info in store.listed(FOLDER):
        content = store.read_json(f"{FOLDER}/{name}", Announcement)
        if content is not None:  # it was released meanwhile
            found.append(Announced(f"{FOLDER}/{name}", Holder(**content), info.mtime.timestamp()))
    return found


def _acquire(store: Folder, holder: Holder) -> Lock:
    for attempt in range(TRIES):
        lock = Lock(store, holder)
        try:
            lock.announce()
        except FileNotFoundError:  # another build with a wrong recipe has just removed its new directory
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
    raise LockError(f"{store.root} was removed again by another process: run the same command again")


def _in_use(store: Folder, first: Announced, age: float) -> str:
    return (
        f"{store.root} is in use by {first.holder}, whose last sign of life was {max(age, 0):.0f} s ago: "
        f"wait for it, or stop it; a dead one is recognised (on another host after {STALE_S:.0f} s)"
    )


def _living_others(store: Folder, lock: Lock) -> list[tuple[Announced, float]]:
    """Other live announcements, with the age of their heartbeats in seconds; dead ones are removed, with a warning."""
    announced = holders(store)
    now = next((each.beat for each in announced if each.name == lock.name), None)
    if now is None:
        raise LockError(f"{store.root} does not list a file that was just written to it: it cannot be a run directory")
    living = []
    for each in announced:
        if each.name == lock.name:
            continue
        if each.dead(now) or (each.timeless(now) and not _lives(lock, each, now)):
            log.warning("%s was left by %s, which has ended: taking over", store.root, each.holder)
            store.remove(each.name)
        else:
            living.append((each, now - each.beat))
    return living


def _lives(lock: Lock, silent: Announced, now: float) -> bool:
    """Watch for up to STALE_S seconds whether a holder with a time in the future renews its heartbeat; False if it does
    not, or its file is removed. Our own heartbeat goes on meanwhile."""
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
    """Seconds, including those of a machine's sleep if the system counts them."""
    return time.clock_gettime(time.CLOCK_BOOTTIME) if hasattr(time, "CLOCK_BOOTTIME") else time.monotonic()


def _machine() -> str:
    """An id of everything within which a pid is unique: the machine, its boot, and the namespace of process ids."""
    known = [str(uuid.getnode())]
    with contextlib.suppress(OSError):
        known = [Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")]
    return hashlib.blake2b("|".join(known).encode(), digest_size=8).hexdigest()


def _started(pid: int) -> str:
    """When a process started, in the kernel's ticks; empty if the system does not tell, "ended" for a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return ""
    return "ended" if fields[0] in "ZX" else fields[19]
