"""Files as untrusted data: only regular files are read, up to a size, and their names survive as text."""

import logging
import os
import re
import stat
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from schemas.errors import visible
from schemas.recipe import RecipeError

log = logging.getLogger("cyclepref.inputs")

# No picture that a person would look at is larger, and what is read is held in memory.
MAX_BYTES = 512 * 2**20
# Byte order marks that no UTF-8 begins with.
UTF16 = (b"\xff\xfe", b"\xfe\xff")
# A message names so many endings of files that it speaks of.
SHOWN = 5
ESCAPED = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


@dataclass(frozen=True)
class Listing:
    """What is under a folder: the `files` that were asked for, in order of path; how many others there are of each
    ending; and how many links to folders, which are not followed."""

    files: list[Path]
    others: Counter[str]
    links: int

    def tell(self, where: str, kind: str) -> None:
        """Say what was left out, if anything was."""
        if skipped := self.skipped(kind):
            log.warning("%s: skipped %s", visible(where, keep=""), skipped)

    def skipped(self, kind: str) -> str:
        """What was left out, in words; `kind` says what the files asked for are named like. Empty if nothing was."""
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

    Links to folders are not followed, since they can loop. What has the ending of a file and is none (a folder, a
    pipe) is listed like one, for its reader to say so.

    Raises:
        RecipeError: if a folder cannot be listed: what is in it would be left out in silence.
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
    """A regular file's bytes, or why it has none: opening a pipe waits for ever, and some devices never end."""
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            return OSError(f"not a regular file but a {_kind(found.st_mode)}")
        if found.st_size > MAX_BYTES:
            return OSError(f"the file has {found.st_size:,} bytes, more than {MAX_BYTES:,}: make it smaller")
        with path.open("rb") as opened:
            return opened.read(MAX_BYTES)
    except OSError as error:
        return error
    except ValueError as error:  # a NUL in the path
        return OSError(str(error))


def file_within(root: Path, path: str) -> Path | OSError:
    """Where a file lies that a row of data names relative to `root`; it must not be able to name one from elsewhere."""
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


def stamp(file: Path) -> str:
    """Size and modification time; a dangling link has neither and is found out when it is read."""
    try:
        found = file.stat()
    except OSError as error:
        return type(error).__name__
    return f"{found.st_size}:{found.st_mtime_ns}"


def shown(path: Path) -> str:
    """A path as text, whatever its bytes: those that are not UTF-8 as \\xe9, and a backslash doubled."""
    return os.fsencode(path.as_posix()).replace(b"\\", rb"\\").decode("utf-8", "backslashreplace")


def unshown(text: str) -> Path:
    """The path that `shown` gave as text."""
    return Path(os.fsdecode(ESCAPED.sub(lambda m: bytes.fromhex(m[1].decode()) if m[1] else b"\\", text.encode())))


def absolute(path: str) -> str:
    """The path as every node sees it."""
    return str(Path(path).expanduser().resolve())


def text_lines(path: str) -> tuple[bytes, ...]:
    """The lines of a text file as bytes, without their ends (LF or CRLF) and without a byte order mark.

    A process keeps those of the latest file, since blocks of it are read one after another.

    Raises:
        RecipeError: if there is no such file, or it is UTF-16.
    """
    if not Path(path).is_file():
        raise RecipeError(f"inputs.path {path}: no such file (looked for {Path(path).absolute()})")
    return _text_lines(path, stamp(Path(path)))


@lru_cache(maxsize=1)
def _text_lines(path: str, _stamp: str) -> tuple[bytes, ...]:
    data = Path(path).read_bytes()
    if data.startswith(UTF16):
        raise RecipeError(f"inputs.path {path} is UTF-16: save it as UTF-8")
    return tuple(data.removeprefix(b"\xef\xbb\xbf").splitlines())


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def _kind(mode: int) -> str:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    return kinds.get(stat.S_IFMT(mode), "device")
