"""Files that inputs come from: where they are, what tells that one changed, and no way out of their folder."""

from pathlib import Path

from schemas.recipe import RecipeError


def absolute(path: str) -> str:
    """The path as every node sees it."""
    return str(Path(path).expanduser().resolve())


def stamp(file: Path) -> str:
    """Size and modification time; a dangling link has neither and is found out when it is read."""
    try:
        stat = file.stat()
    except OSError as error:
        return type(error).__name__
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def file_within(root: Path, path: str) -> bytes | Exception:
    """A file's bytes, or why not: a row must not be able to name a file outside of the source's own folder."""
    try:
        file = (root / path).resolve()
        if not file.is_relative_to(root.resolve()):
            return PermissionError(f"the row names {path}, which is outside of {root}")
        return file.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        return error


def text_lines(path: str) -> list[bytes]:
    """The lines of a text file as bytes, without their ends (LF or CRLF) and without a byte order mark.

    Raises:
        RecipeError: if there is no such file.
    """
    if not Path(path).is_file():
        raise RecipeError(f"inputs.path {path}: no such file (looked for {Path(path).absolute()})")
    return Path(path).read_bytes().removeprefix(b"\xef\xbb\xbf").splitlines()
