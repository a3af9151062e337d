"""What training starts from, as a recipe or a person names it; no library is loaded for it."""

from pathlib import Path

from cyclepref.builder.catalog.catalog import WEIGHTS
from cyclepref.builder.reward.errors import RewardError

# How weights that come with the package are named: shapeworld/blip.
EMBEDDED = "shapeworld/"


def start_of_recipe(start: str, folder: Path) -> str:
    """A start that a recipe in `folder` names: a path from there, if that is a folder, else as it stands."""
    beside = folder / Path(start).expanduser()
    return str(beside.resolve()) if beside.is_dir() else start


def start_place(start: str | Path) -> str | Path:
    """Where a start is: the folder of weights that come with the package, else the start itself (a folder or a Hub id).

    Raises:
        RewardError: for a name of embedded weights that there are not; lists those that there are.
    """
    name = str(start)
    if not name.startswith(EMBEDDED) or Path(name).is_dir():
        return start
    folder = WEIGHTS / name.removeprefix(EMBEDDED)
    if not (folder / "config.json").is_file():
        names = sorted(f"{EMBEDDED}{path.parent.name}" for path in WEIGHTS.glob("*/config.json"))
        raise RewardError(f"there are no embedded weights {name!r}. Choose from: {', '.join(names)}")
    return folder
