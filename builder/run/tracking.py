"""The figures of a build's stages for an experiment tracker, trackio or wandb, if the recipe asks for one."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import PurePosixPath
from typing import Any, Protocol

from cyclepref.builder import __version__
from cyclepref.builder.run.store import Store
from cyclepref.schemas.errors import CyclePrefError
from cyclepref.schemas.publishing import Tracking
from cyclepref.schemas.recipe import Recipe

log = logging.getLogger("cyclepref.tracking")

# A tracker gets the figures of stages and no more: not the machine's, not what the terminal shows, no code.
ONLY_OURS: dict[str, dict[str, Any]] = {
    "trackio": {"embed": False, "auto_log_cpu": False, "auto_log_gpu": False},
    "wandb": {"settings": {"console": "off", "disable_git": True, "disable_code": True, "x_disable_stats": True}},
}
# How a run that did not come to its end is closed; trackio does not tell these apart.
FAILED: dict[str, dict[str, Any]] = {"trackio": {}, "wandb": {"exit_code": 1}}
WAY_OUT = {
    "trackio": "it writes to this machine unless TRACKIO_SPACE_ID or TRACKIO_SERVER_URL say otherwise",
    "wandb": "`wandb login` or WANDB_API_KEY names an account; WANDB_MODE=offline keeps the figures on this machine",
}


class TrackingError(CyclePrefError, RuntimeError):
    """A tracker that does not begin a run, before the first row is made."""


class Tracked(Protocol):
    """A run of a tracker: what trackio and wandb have in common."""

    def log(self, metrics: dict[str, float]) -> None:
        """Add figures at this moment."""

    def finish(self) -> None:
        """Nothing more comes."""


class Tracker:
    """Sends figures of stages; its run begins with the first one that has something to do. Once the tracker
    refuses figures, that is told and the build goes on without it: rows matter more than what is said of them."""

    def __init__(self, tracking: Tracking, name: str, about: dict[str, Any]):
        self.tracking, self.name, self.about = tracking, name, about
        self._run: Tracked | None = None
        self._refused = False
        self._last: tuple[str, float] = ("", 0.0)

    def note(self, note: dict[str, Any]) -> None:
        """Send how a stage is doing: `note` is the one of builder/run/record.py.

        Raises:
            TrackingError: if the tracker does not begin a run.
        """
        if self._refused or (self._run is None and not note["todo"]):
            return
        stage, now = note["stage"], time.monotonic()
        if self._last[0] == stage and note["ended"] is None and now - self._last[1] < self.tracking.every_s:
            return
        self._last = (stage, now)
        if self._run is None:
            self._run = self._begin()
        self._send(figures_of(note))

    def whole(self, run: dict[str, Any]) -> None:
        """Send what a build that came to its end says in its run.json: pairs, and the seconds of each part."""
        seconds = {f"seconds/{part}": value for part, value in run["seconds"].items()}
        self._send(seconds | {f"pairs/{name}": count for name, count in run["counts"]["pairs"].items()})

    def finish(self, failed: bool) -> None:
        """End the tracker's run."""
        self._ask("finish", **(FAILED[self.tracking.to] if failed else {}))

    def _begin(self) -> Tracked:
        to = self.tracking.to
        try:
            given = {"project": self.tracking.project, "name": self.name, "config": self.about}
            return import_module(to).init(**given, **ONLY_OURS[to])
        except Exception as error:
            # Not with its text, which may quote an address or a key.
            raise TrackingError(
                f"tracking: {to} does not begin a run ({type(error).__name__}): {WAY_OUT[to]}; or leave `tracking` out"
            ) from error

    def _send(self, figures: dict[str, float]) -> None:
        self._ask("log", figures)

    def _ask(self, what: str, *given: Any, **options: Any) -> None:
        if self._run is None or self._refused:
            return
        try:
            getattr(self._run, what)(*given, **options)
        except Exception as error:  # whatever a tracker's network and disk may raise
            self._refused = True
            log.warning("tracking: %s takes no more figures (%s): the build goes on without it",
                        self.tracking.to, type(error).__name__)  # fmt: skip


class Untracked:
    """What stands in for a tracker where the recipe asks for none."""

    def note(self, note: dict[str, Any]) -> None:
        """Nothing."""

    def whole(self, run: dict[str, Any]) -> None:
        """Nothing."""


@contextmanager
def tracked(recipe: Recipe, store: Store) -> Iterator[Tracker | Untracked]:
    """The tracker of one build, which ends with it."""
    if recipe.tracking is None:
        yield Untracked()
        return
    about = {
        "recipe": recipe.name, "cycle": recipe.cycle, "seed": recipe.seed, "cyclepref": __version__,
        "forward": [choice.label for choice in recipe.forward], "backward": recipe.backward.label,
        "metrics": [choice.label for choice in recipe.all_metrics],
    }  # fmt: skip
    tracker = Tracker(recipe.tracking, PurePosixPath(store.root.split("?")[0]).name, about)
    try:
        yield tracker
    except BaseException:
        tracker.finish(failed=True)
        raise
    tracker.finish(failed=False)


def figures_of(note: dict[str, Any]) -> dict[str, float]:
    """The figures of a stage: rows wanted, of these to do in this build, done, failed and left; seconds; rows a second,
    as far as it is known."""
    known = {name: note[name] for name in ("todo", "done", "failed")}
    figures = {"wanted": note["rows"], **known, "left": note["todo"] - note["done"]}
    figures["seconds"] = round((note["ended"] or time.time()) - note["began"], 2)
    speed = note["rows_a_second"]
    if note["ended"] is not None and note["done"] and figures["seconds"]:
        speed = note["done"] / figures["seconds"]
    if speed is not None:
        figures["rows_a_second"] = round(speed, 3)
    return {f"{note['stage']}/{name}": value for name, value in figures.items()}


def package_missing(tracking: Tracking | None) -> list[str]:
    """What a recipe's tracking lacks on this machine, as a line; none where nothing is missing."""
    if tracking is None:
        return []
    found = find_spec(tracking.to)
    # A folder of that name, as wandb leaves one where it ran, is no package: it has no origin.
    if found is not None and found.origin is not None:
        return []
    return [f'tracking: the package {tracking.to} is not installed here: pip install "cyclepref[{tracking.to}]"']
