"""A model or metric whose output is fully determined: revisions resolved, weights hashed."""

from dataclasses import dataclass
from typing import Any

from cyclepref.schemas.ids import fingerprint


@dataclass(frozen=True)
class Resolved:
    """A spec whose output is fully determined: `identity` holds everything that changes it, `fingerprint` is the hash
    of that."""

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
