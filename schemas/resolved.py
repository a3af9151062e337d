"""A model or metric with everything settled that decides its output."""

from dataclasses import dataclass
from typing import Any

from cyclepref.schemas.ids import fingerprint


@dataclass(frozen=True)
class Resolved:
    """A spec whose output is settled: `identity` says by what, `fingerprint` is its hash."""

    spec: Any
    identity: dict[str, Any]

    @property
    def fingerprint(self) -> str:
        """Id of everything that changes this model's output."""
        return fingerprint(self.identity)

    @property
    def name(self) -> str:
        """The name in the tables."""
        return self.spec.name
