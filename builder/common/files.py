"""Files as untrusted data: only regular files are read, up to a size, and their names survive as text."""

import json
import logging
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from cyclepref.schemas.errors import visible
from cyclepref.schemas.recipe import RecipeError

log = logging.getLogger("cyclepref.inputs")

# A file is read into memory as a whole; real pictures are smaller than this.
MAX_BYTES = 512 * 2**20
# The kernel makes up the content of files in these folders: reading some of them waits for ever or never ends, and
# others reveal facts about this machine. /dev/shm holds real files, in memory.
KERNELS, FILES_IN_MEMORY = ("/proc", "/sys", "/dev"), "/dev/shm"
# The byte order marks of UTF-16; UTF-8 never begins with them.
UTF16 = (b"\xff\xfe", b"\xfe\xff")
# The most file endings that a message names.
SHOWN = 5
ESCAPED = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


@dataclass(frozen=True)
class Listing:
    """What a folder contains: the wanted `files` in order of path, the number of `others` by ending, and the number of
    `links` to folders, which are not followed."""

    files: list[Path]
    others: Counter[str]
    links: int

    def tell(self, where: str, kind: str) -> None:
        """Say what was left out, if anything was."""
        if skipped := self.skipped(kind):
            log.warning("%s: skipped %s", visible(where, keep=""), skipped)

    def skipped(self, kind: str) -> str:
        """A text about what was left out, empty if nothing was; `kind` describes the names of the wanted files."""
        endings = [f"{visible(ending, keep='') or 'no ending'} {n}" for ending, n in self.others.most_common()]
        endings = ", ".join(endings[:SHOWN]) + (", ..." if len(endings) > SHOWN else "")
        files = f"{_count(self.others.total(), 'file')} not named like {kind} ({endings})" if self.others else ""
        links = f"{_count(self.links, 'linked folder')}, as links to folders are not followed" if self.links else ""
        return " and ".join(part for part in (files, links) if part)


def files_under(root: Path, endings: set[str]) -> list[Path]:
    """The files of `listing`."""
    return listing(root, endings).files


def listing(root: Path, endings: set[str]) -> Listing:
    """Everything under a folder, at any depth, whose name has one of the endings, and what else there is.

    Links to folders are not followed, since they can loop. A folder or pipe with a wanted ending is listed too; reading
    it later gives the error.

    Raises:
        RecipeError: if a folder cannot be listed, since its files would be left out silently.
    """

    def stop(error: OSError) -> None:
        raise RecipeError(f"cannot list {error.filename!r} ({error.strerror}): give this user access to it") from error

    files, others, links = [], Counter(), 0
    for folder, folders, names in os.walk(root, onerror=stop):
        for name in names:
            ending = Path(name).suffix.lower()
            if ending in endings:
                files.append(Path(folder, name))
            else:
                others[ending] += 1
        for path in (Path(folder, name) for name in folders):
            if path.suffix.lower() in endings:
                files.append(path)
            else:
                links += path.is_symlink()
    return Listing(sorted(files), others, links)


def read_file(path: Path) -> bytes | OSError:
    """A regular file's bytes, or the reason why they cannot be read. Pipes and devices are refused: reading them may
    never end."""
    try:
        if error := not_a_file(path):
            return error
        if (size := path.stat().st_size) > MAX_BYTES:
            return OSError(f"the file has {size:,} bytes, more than {MAX_BYTES:,}: make it smaller")
        with path.open("rb") as opened:
            return opened.read(MAX_BYTES)
    except OSError as error:
        return error
    except ValueError as error:  # a NUL in the path
        return OSError(str(error))


def not_a_file(path: Path) -> OSError | None:
    """Why a path, after following all links, is not a file that is safe to open; None if it is.

    Raises:
        OSError: if there is no such file, or no permission to look at it.
        ValueError: if it is not a valid path.
    """
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        return OSError(f"not a regular file but a {_kind(mode)}")
    place = Path(os.path.realpath(path))
    if place.is_relative_to(FILES_IN_MEMORY) or not any(place.is_relative_to(folder) for folder in KERNELS):
        return None
    return OSError(f"it is {place}, which is made up by the kernel and is not read: copy it to a folder of your own")


def from_json(text: str | bytes) -> Any:
    """Parse a JSON text.

    Raises:
        ValueError: if it is not JSON, or nested too deep to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def file_within(root: Path, path: str) -> Path | OSError:
    """The path of a file that a row of data names relative to `root`. A row must not name a file outside of `root`."""
    try:
        file = (root / path).resolve()
        if not file.is_relative_to(root.resolve()):
            return PermissionError(f"the row names {path!r}, which is outside of {root}")
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL in it, a loop of links
        return OSError(f"the row names {path!r:.200}, which is no path ({error})")
    return file


def read_file_within(root: Path, path: str) -> bytes | OSError:
    """The bytes of a file that a row of data names; see `file_within`."""
    file = file_within(root, path)
    return file if isinstance(file, OSError) else read_file(file)


def file_of_export(root: Path, path: str) -> Path | OSError:
    """As `file_within`. An absolute path outside of `root`, as in an export that was moved, is looked for under `root`
    by its last two parts."""
    found = file_within(root, path)
    if isinstance(found, PermissionError) and PurePath(path).is_absolute():
        moved = file_within(root, str(PurePath(*PurePath(path).parts[-2:])))
        return moved if isinstance(moved, Path) and moved.is_file() else found
    return found


def read_file_of_export(root: Path, path: str) -> bytes | OSError:
    """The bytes of a file that a row of an export names; see `file_of_export`."""
    file = file_of_export(root, path)
    return file if isinstance(file, OSError) else read_file(file)


def stamp(file: Path) -> str:
    """Size and modification time. A dangling link has neither; reading it later gives the error."""
    try:
        found = file.stat()
    except OSError as error:
        return type(error).__name__
    return f"{found.st_size}:{found.st_mtime_ns}"


def shown(path: Path) -> str:
    """Any path as text: bytes that are not UTF-8 become \\xe9, and a backslash is doubled."""
    return os.fsencode(path.as_posix()).replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")


def unshown(text: str) -> Path:
    """The path that `shown` gave as text."""
    return Path(os.fsdecode(ESCAPED.sub(lambda m: bytes.fromhex(m[1].decode()) if m[1] else b"\\", text.encode())))


def absolute(path: str) -> str:
    """The path in the form that is valid on every node."""
    return str(Path(path).expanduser().resolve())


def path_fault(path: str, wanted: str) -> str | None:
    """Why a path of a recipe is not what is `wanted` ("file", "folder", or "file or folder"); None if it is."""
    there, missing = Path(path), "it" if Path(path).is_absolute() else str(Path(path).absolute())
    if there.is_dir():
        return None if "folder" in wanted else f"{path} is a folder, and must be a file"
    if there.is_file():
        return None if "file" in wanted else f"{path} is a file, and must be a folder: give the folder that it is in"
    # Opening a pipe would wait for ever.
    return f"{path}: {'no such' if not there.exists() else 'it is no'} {wanted} (looked for {missing})"


def text_lines(path: str) -> tuple[bytes, ...]:
    """The lines of a text file as bytes, without their ends (LF or CRLF) and without a byte order mark.

    A process caches the lines of the latest file, since it reads one block of it after another.

    Raises:
        RecipeError: if the file does not exist or is UTF-16.
    """
    if fault := path_fault(path, "file"):
        raise RecipeError(f"inputs.path {fault}")
    return _text_lines(path, stamp(Path(path)))


def numbered_lines(path: str, first: int = 1) -> list[tuple[int, bytes]]:
    """The lines of a text file from the `first` one on, each with its number (from 1). Blank lines are skipped, and a
    warning counts them.

    Raises:
        RecipeError: as `text_lines`, or if all lines are blank.
    """
    lines = list(enumerate(text_lines(path), start=1))[first - 1 :]
    written = [(number, line) for number, line in lines if line.decode("utf-8", "replace").strip()]
    if not written:
        raise RecipeError(f"inputs.path {path} has no prompt in it: write one a line")
    if blank := len(lines) - len(written):
        log.warning("inputs.path %s: skipped %s", visible(path, keep=""), _count(blank, "blank line"))
    return written


@lru_cache(maxsize=1)
def _text_lines(path: str, _stamp: str) -> tuple[bytes, ...]:
    data = read_file(Path(path))
    if isinstance(data, OSError):
        raise RecipeError(f"inputs.path {path} cannot be read: {data}")
    if data.startswith(UTF16):
        raise RecipeError(f"inputs.path {path} is UTF-16: save it as UTF-8")
    return tuple(data.removeprefix(b"\xef\xbb\xbf").splitlines())


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")
