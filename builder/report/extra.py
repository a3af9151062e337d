"""What pages need beside CyclePref itself."""

from importlib.util import find_spec

from cyclepref.schemas.errors import Unavailable

PACKAGES = ("jinja2", "plotly", "evalica", "sklearn", "starlette", "uvicorn")


def require_extra() -> None:
    """Make sure that the packages of the extra `report` are there.

    Raises:
        Unavailable: if one is not.
    """
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise Unavailable(f'pages need {", ".join(missing)}, not installed here: pip install "cyclepref[report]"')
