"""The findings of `cyclepref verify`: counts of what was read, and damage with the way out."""

from collections import Counter
from dataclasses import dataclass, field

# The most places that are named for one kind of damage in one file.
SHOWN = 3
# The ways out.
AGAIN = "run the same build again: it sets the part aside and makes its rows again"
BY_HAND = "move the part out of `store` and run the same build again: its rows are made again"
DERIVED = "run the same build again, which derives it anew"
NEW_DATASET = "remove the dataset folder and run the same build again, which writes it anew"


@dataclass(frozen=True)
class Damage:
    """A kind of damage ("part", "id", "file", "view" or "dataset") in a file of the run directory: what is wrong, with
    the first places, how often, and the way out."""

    kind: str
    file: str
    what: str
    count: int
    way_out: str


@dataclass
class Report:
    """The counts of what was read, by name, and the damage. `notes` mention things that are unusual but not damage."""

    run: str
    read: Counter[str] = field(default_factory=Counter)
    damage: list[Damage] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, kind: str, file: str, places: list[str] | str, way_out: str) -> None:
        """Note damage, if there are any places."""
        if not places:
            return
        named = [places] if isinstance(places, str) else places
        shown = ", ".join(named[:SHOWN]) + (", ..." if len(named) > SHOWN else "")
        self.damage.append(Damage(kind, file, shown, len(named), way_out))
