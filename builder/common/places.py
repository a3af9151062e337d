"""What the name of a dataset may refer to: a folder on this machine, or a repository on the Hub."""

import difflib
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def may_be_on_hub(place: str) -> bool:
    """Whether a name has the form of a dataset on the Hub (org/name), so that the Hub can be asked for it."""
    try:
        validate_repo_id(place)
    except HFValidationError:
        return False
    return place.count("/") == 1


def not_here(place: str) -> str:
    """The text that there is no such folder on this machine, with a suggestion from the folder where it would lie."""
    path = Path(place).expanduser()
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    hint = f" (did you mean {path.parent / close[0]}?)" if close else ""
    return f"there is no folder {place} on this machine{hint}"
