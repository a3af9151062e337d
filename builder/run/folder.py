"""A folder on any filesystem that pyarrow knows, in which every file is written completely or not at all.

A rename publishes a file on a local disk, a PUT on an object store ("s3://bucket/prefix").
"""

import contextlib
import errno
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pyarrow as pa
from pyarrow import fs
from pydantic import BaseModel

from cyclepref.schemas.errors import CyclePrefError, visible
from cyclepref.schemas.run_files import RunFile, what_is_wrong

TEMPORARY = ".tmp-"
# The options that a run directory's address may have; credentials come from the environment.
ADDRESS_OPTIONS = {"endpoint_override", "scheme", "region"}
# Entries of a folder that still counts as empty: a disk's own folder, and the log of the running command.
NO_ONES = re.compile(r"\..*|lost\+found|.*\.log|nohup\.out")
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class StoreError(CyclePrefError, RuntimeError):
    """A run directory that cannot be used, with the way out."""


class Folder:
    """A folder by its path or address. Credentials come from the environment, never from the address."""

    def __init__(self, root: str | Path):
        remote = "://" in str(root)
        self._fs, self._base = _remote(str(root)) if remote else _local(str(root))
        # Absolute, since workers have another working directory.
        self.root = str(root) if remote else self._base

    def __reduce__(self) -> tuple:
        return type(self), (self.root,)

    def write_json(self, name: str, content: dict) -> None:
        """Replace a JSON file of the run directory as a whole."""
        data = json.dumps(content, indent=2, ensure_ascii=False).encode() + b"\n"
        self._publish(f"{self._base}/{name}", lambda sink: sink.write(data))

    def read_json(self, name: str, kind: type[BaseModel] = RunFile) -> dict | None:
        """A JSON file of the run directory, of a kind in schemas/run_files.py; None if it does not exist.

        Raises:
            StoreError: if it cannot be read, or is not of that kind; the message says what is wrong and what to do.
        """
        path = f"{self._base}/{name}"
        try:
            with self._fs.open_input_stream(path) as source:
                content = json.loads(source.readall())
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StoreError(f"cannot read {self.address(name)}: {error}") from error
        except (ValueError, RecursionError) as error:
            raise StoreError(f"{self.address(name)} is not JSON ({error}): {kind.REMEDY}") from error
        if wrong := what_is_wrong(kind, content):
            raise StoreError(f"{self.address(name)} is damaged ({wrong}): {kind.REMEDY}")
        return content

    def names(self, folder: str) -> list[str]:
        """Names of the complete files in a folder of the run directory, in order."""
        return [name for name, _ in self.listed(folder)]

    def folders(self, folder: str) -> list[str]:
        """Names of the folders in a folder of the run directory, in order."""
        selector = fs.FileSelector(f"{self._base}/{folder}", allow_not_found=True)
        return sorted(i.base_name for i in self._fs.get_file_info(selector) if i.type == fs.FileType.Directory)

    def listed(self, folder: str) -> list[tuple[str, fs.FileInfo]]:
        """Names of the complete files in a folder of the run directory, in order, with their sizes and times."""
        selector = fs.FileSelector(f"{self._base}/{folder}", allow_not_found=True)
        found = [(info.base_name, info) for info in self._fs.get_file_info(selector) if info.is_file]
        return sorted((name, info) for name, info in found if not name.startswith(TEMPORARY))

    def remove(self, name: str) -> None:
        """Remove a file of the run directory, if it is there."""
        with contextlib.suppress(FileNotFoundError):
            self._fs.delete_file(f"{self._base}/{name}")

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name in the run directory."""
        return self._fs.get_file_info(f"{self._base}/{name}").is_file

    def missing(self) -> bool:
        """Whether the run directory does not exist yet; an object store has no folders to create."""
        return isinstance(self._fs, fs.LocalFileSystem) and not Path(self._base).exists()

    def refuse_others(self, marks: Iterable[str], what: str) -> None:
        """Refuse a folder that has files other than logs, but none of `marks` (files or folders), which show that it
        holds `what`.

        Raises:
            StoreError: if the folder has other files, which would be mixed with ours.
        """
        found = self._fs.get_file_info(fs.FileSelector(self._base, allow_not_found=True))
        others = sorted(info.base_name for info in found if not NO_ONES.fullmatch(info.base_name))
        at = self._fs.get_file_info([f"{self._base}/{mark}" for mark in marks])
        if others and all(info.type == fs.FileType.NotFound for info in at):
            shown = ", ".join(others[:3]) + (", ..." if len(others) > 3 else "")
            raise StoreError(
                f"{self.root} is not empty and holds no {what} (there is {visible(shown, keep='')}): --out must name a "
                f"new or empty folder, or one with a {what}"
            )

    def drop_if_only(self, folder: str) -> None:
        """Remove the run directory if it contains only one empty folder."""
        if isinstance(self._fs, fs.LocalFileSystem) and os.listdir(self._base) == [folder]:
            with contextlib.suppress(OSError):
                Path(self._base, folder).rmdir()
                Path(self._base).rmdir()

    def clean(self, but: str) -> int:
        """Remove unfinished files of killed writers, except in one folder; returns how many. Only the lock's holder may
        do it."""
        if not isinstance(self._fs, fs.LocalFileSystem):
            return 0  # an interrupted PUT leaves nothing
        found = [path for path in Path(self._base).rglob(f"{TEMPORARY}*") if path.is_file()]
        left = [path for path in found if path.parent != Path(self._base, but)]
        for path in left:
            path.unlink(missing_ok=True)
        return len(left)

    def address(self, name: str) -> str:
        """The address of a file or folder of the run directory, as a person would write it."""
        place, *options = self.root.split("?", 1)
        return "?".join([f"{place.rstrip('/')}/{name}", *options])

    def copy_from(self, other: "Folder", name: str) -> None:
        """Copy a file of another run directory to the same place in this one."""
        with other._fs.open_input_stream(f"{other._base}/{name}") as source:
            content = source.read_buffer()
        self.write_file(name, lambda sink: sink.write(content))

    def read_file(self, name: str, read: Callable[[Any], Any]) -> Any:
        """The result of `read` on an open file of the run directory."""
        with self._fs.open_input_file(f"{self._base}/{name}") as source:
            return read(source)

    def open(self, name: str) -> Any:
        """A file of the run directory, open for random access; the caller closes it."""
        return self._fs.open_input_file(f"{self._base}/{name}")

    def write_file(self, name: str, write: Callable[[Any], object]) -> None:
        """Replace a file as a whole: `write` is given a binary file to write to."""
        self._publish(f"{self._base}/{name}", write)

    # ---- the one way to write ----------------------------------------------------------------------------------

    def _publish(self, path: str, write: Callable[[object], object]) -> None:
        """Make a file appear at once, or not at all."""
        with self._publishing(path) as sink:
            write(sink)

    @contextlib.contextmanager
    def _publishing(self, path: str) -> Iterator[Any]:
        """A binary file to write to, which appears at once when the block of code ends, or not at all if it raises."""
        folder, name = path.rsplit("/", 1)
        if not isinstance(self._fs, fs.LocalFileSystem):
            # A PUT is atomic, but closing a stream publishes its content even after an exception. So the file is made
            # in memory first, where parts (256 MB at most) have room.
            made = pa.BufferOutputStream()
            yield made
            with self._fs.open_output_stream(path) as sink:
                sink.write(made.getvalue())
            return
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make {folder} ({error}): --out must name a folder that can be written") from error
        temporary = f"{folder}/{TEMPORARY}{uuid.uuid4().hex}"
        try:
            with open(temporary, "wb") as sink:
                yield sink
                sink.flush()
                os.fsync(sink.fileno())
            os.replace(temporary, f"{folder}/{name}")
        except OSError as error:
            if error.errno not in NO_SPACE:
                raise
            raise StoreError(
                f"the disk of {folder} is full ({error.strerror}): what was finished is safe; free some "
                "space and run the same command again"
            ) from error
        finally:
            Path(temporary).unlink(missing_ok=True)


def _remote(root: str) -> tuple[fs.FileSystem, str]:
    """The filesystem of an address, and the path on it."""
    parts = urlsplit(root)
    if parts.username or parts.password:
        place = f"{parts.scheme}://{parts.netloc.rsplit('@', 1)[1]}{parts.path}"
        raise StoreError(
            f"the address of {place} carries credentials, which would be written to logs and files: give it without "
            "them; they are read from the environment (AWS_ACCESS_KEY_ID, ... or a profile or role)"
        )
    unknown = sorted(set(parse_qs(parts.query, keep_blank_values=True)) - ADDRESS_OPTIONS)
    if unknown:
        known = ", ".join(sorted(ADDRESS_OPTIONS))
        raise StoreError(f"{', '.join(unknown)}: not an option of a run directory's address; choose from {known}")
    if not parts.netloc or not parts.path.strip("/"):
        raise StoreError(f"{parts.scheme}://{parts.netloc}{parts.path} names no folder: give scheme://bucket/prefix")
    try:
        found, base = fs.FileSystem.from_uri(root)
    except (pa.ArrowInvalid, OSError) as error:
        raise StoreError(f"cannot open {root}: {error}") from error
    return found, base.rstrip("/")


def _local(root: str) -> tuple[fs.FileSystem, str]:
    path = Path(root).expanduser().absolute()
    if path.exists() and not path.is_dir():
        raise StoreError(f"{path} is a file: --out must name a folder, new or of an earlier build")
    return fs.LocalFileSystem(), str(path)
