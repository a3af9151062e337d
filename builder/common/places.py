"""What a name of a dataset may mean: a folder on this machine, or a repository on the Hub."""

import difflib
from pathlib import Path

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id


def may_be_on_hub(place: str) -> bool:
    """Whether a name can be that of a dataset on the Hub (org/name): only such a one is worth asking the Hub for."""
    try:
        validate_repo_id(place)
    except HFValidationError:
        return False
    return place.count("/") == 1


def not_here(place: str) -> str:
    """That there is no such folder on this machine, and which one beside it has a name like it."""
    path = Path(place).expanduser()
    beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
    close = difflib.get_close_matches(path.name, beside, n=1)
    hint = f" (did you mean {path.parent / close[0]}?)" if close else ""
    return f"there is no folder {place} on this machine{hint}"
