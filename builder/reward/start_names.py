"""The names of models that training can start from; this file loads no library."""

from pathlib import Path

from cyclepref.builder.catalog.catalog import WEIGHTS
from cyclepref.builder.reward.errors import RewardError

# The prefix of weights that come with the package, as in shapeworld/blip.
EMBEDDED = "shapeworld/"


def start_of_recipe(start: str, folder: Path) -> str:
    """The start in a recipe that lies in `folder`: a path relative to it, if that is a folder, else unchanged."""
    beside = folder / Path(start).expanduser()
    return str(beside.resolve()) if beside.is_dir() else start


def start_place(start: str | Path) -> str | Path:
    """The place of a start: the folder of weights that come with the package, else the start itself (a folder or a Hub
    id).

    Raises:
        RewardError: if there are no embedded weights of this name; the message lists those that exist.
    """
    name = str(start)
    if not name.startswith(EMBEDDED) or Path(name).is_dir():
        return start
    folder = WEIGHTS / name.removeprefix(EMBEDDED)
    if not (folder / "config.json").is_file():
        names = sorted(f"{EMBEDDED}{path.parent.name}" for path in WEIGHTS.glob("*/config.json"))
        raise RewardError(f"there are no embedded weights {name!r}. Choose from: {', '.join(names)}")
    return folder
