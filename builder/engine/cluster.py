"""Joining a Ray cluster, or starting one on this machine that listens on loopback alone; watched until it ends."""

import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import psutil
import ray.exceptions
from ray._private import auto_init_hook, ray_constants
from ray._private import worker as ray_worker
from ray._raylet import AuthenticationMode, AuthenticationTokenLoader, Config, get_authentication_mode

from cyclepref.builder.common.progress import silent_stderr
from cyclepref.builder.common.stopping import handlers_kept
from cyclepref.builder.engine.access import tell_if_open, token_of_its_own
from cyclepref.builder.engine.uploaded import use_upload
from cyclepref.builder.engine.watch import Watch, end_all, vital_of
from cyclepref.schemas.errors import CyclePrefError

log = logging.getLogger("cyclepref.engine")

# On a busy machine parts of Ray wait too briefly for one another, and a second start finds them in the
# disk's cache.
STARTS = 3


class EngineError(CyclePrefError, RuntimeError):
    """A worker could not start, or went on dying; the message ends with its own error, and `kind` is its class."""

    def __init__(self, message: str, kind: str = ""):
        super().__init__(message)
        self.kind = kind


@contextmanager
def connected(address: str | None) -> Iterator[Watch]:
    """Join the cluster at an address, or start one on this machine, until the block ends; watched meanwhile."""
    # A thread that outlives a cluster and asks it for something would start another.
    auto_init_hook.enable_auto_connect = False
    # Its C++ core would put advice about actor arguments on our screen; worker logs keep their own level.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    before = set(psutil.Process().children(recursive=True))
    with ExitStack() as stack:
        if not address:
            # What Ray tells of its own processes, on our standard output.
            stack.callback(setattr, ray_worker, "_worker_logs_enabled", ray_worker._worker_logs_enabled)
            ray_worker._worker_logs_enabled = False
            stack.callback(_read_authentication)
            stack.enter_context(token_of_its_own())
            _read_authentication()
        _start(address, before)
        stack.callback(ray.shutdown)
        if address:
            here = ray.get_runtime_context()
            tell_if_open(address, here.gcs_address)
            watch = Watch(vital_of(psutil.process_iter(), here.get_node_id()), head=here.gcs_address)
        else:
            _check_seclusion()
            started = set(psutil.Process().children(recursive=True)) - before
            watch = Watch(vital_of(started), ours=started)
        yield stack.enter_context(watch)


def _start(address: str | None, before: set[psutil.Process]) -> None:
    """Ray's own start; `before` are the processes that were there."""
    local = use_upload() if address else {"include_dashboard": False, "log_to_driver": False}
    what = f"cannot join the Ray cluster at {address}" if address else "cannot start Ray on this machine"
    loopback = ray_constants.ENABLE_RAY_CLUSTER
    # Ray's switch for systems whose firewalls ask: without clusters of several machines all of it is on loopback.
    # (To `_node_ip_address="127.0.0.1"` it would give another address.)
    ray_constants.ENABLE_RAY_CLUSTER = bool(address) and loopback
    try:
        for tries_left in reversed(range(STARTS)):
            try:
                # Ray has a handler of SIGTERM, which would end the build at once.
                with silent_stderr(), handlers_kept():
                    # Without an address Ray would join any cluster that was started on this machine.
                    ray.init(address=address or "local", logging_level=logging.ERROR, **local)
                break
            except (Exception, SystemExit) as error:
                # What a start that failed has left behind would compete with the next one.
                end_all(set(psutil.Process().children(recursive=True)) - before)
                if not tries_left:
                    raise EngineError(f"{what}: {last_line(error)}") from error
                log.info("%s, trying again: %s", what, last_line(error))
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = loopback


def _read_authentication() -> None:
    """Make Ray, which reads the environment once, read it again."""
    Config.initialize("")
    AuthenticationTokenLoader.instance().reset_cache()


def _check_seclusion() -> None:
    """Make sure that the Ray that was started is nobody else's: what decides that is no promise of Ray's."""
    address, mode = ray.util.get_node_ip_address(), get_authentication_mode()
    if address not in ("127.0.0.1", "::1") or mode != AuthenticationMode.TOKEN:
        raise EngineError(
            f"Ray {ray.__version__} was to listen on loopback with a token, and listens on {address} in mode {mode}: "
            "install a version that pyproject.toml allows"
        )


def last_line(error: BaseException) -> str:
    """What an error says at its end, where Ray's own have the reason."""
    return (str(error).strip() or type(error).__name__).splitlines()[-1]
