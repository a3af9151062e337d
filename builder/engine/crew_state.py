"""What a schedule knows: models and their rows, crews and their hosts, and what may be decided about them."""

from dataclasses import dataclass, field
from typing import NamedTuple

from cyclepref.builder.engine.plan import Crew, Place

# What a row and a load of a model take in seconds, until its first ones are measured and if nobody knows better.
ROW_S, LOAD_S = 1.0, 30.0
# Measurements fade: what came before the last twenty blocks counts for a third.
FADING = 0.95


class Start(NamedTuple):
    """Ask for a host of this crew; say `host_up` when it has its place."""

    crew: Crew


class Stop(NamedTuple):
    """End this host, which is idle; say `host_gone` when it has given its place back."""

    host_id: str


@dataclass(frozen=True)
class Work:
    """What is known of a model before it runs. `row_s` and `load_s` are guesses in seconds, used until measured; only
    the ratio between models matters for `row_s` of models that start together."""

    batch_size: int
    rows_per_part: int
    row_s: float = ROW_S
    load_s: float = LOAD_S


class Model:
    """The rows of a model, and what they take."""

    def __init__(self, name: str, work: Work):
        self.name, self.batch, self.most = name, work.batch_size, max(work.batch_size, work.rows_per_part)
        self.ready = self.expected = self.flying = 0
        self.row_s, self.load_s = work.row_s, work.load_s
        self.loaded_on = 0  # hosts
        self._rows = self._seconds = 0.0

    @property
    def left(self) -> int:
        """Rows that nobody has begun."""
        return self.ready + self.expected

    @property
    def measured(self) -> bool:
        """Whether a block has been done."""
        return self._rows > 0

    def usable(self, more_come: bool) -> int:
        """Rows that may be begun: whole batches, and a short one if no more rows come."""
        return self.ready - self.ready % self.batch if self.expected and more_come else self.ready

    def took(self, rows: int, seconds: float) -> None:
        """A block took so long."""
        self._rows, self._seconds = self._rows * FADING + rows, self._seconds * FADING + seconds
        self.row_s = self._seconds / self._rows


@dataclass(eq=False)
class Host:
    """A host as the schedule sees it."""

    id: str
    group: "Group"
    place: Place | None
    up: float
    idle_since: float
    loaded: set[str] = field(default_factory=set)
    blocks: list[tuple[str, int, float]] = field(default_factory=list)  # model, rows, when they began
    stopping: bool = False
    makes_way: bool = False


class Group:
    """A crew with its hosts, and those that were asked for: where, and when."""

    def __init__(self, crew: Crew, models: list[Model]):
        self.crew, self.models = crew, models
        self.hosts: dict[str, Host] = {}
        self.asked: list[tuple[Place, float]] = []
        self.idle = 0
