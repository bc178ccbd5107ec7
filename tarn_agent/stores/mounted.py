"""A repository on a mounted file system (NFS, a bind mount, a local directory): used in place, never copied.

Guarantees: what is listed could be read a moment ago, and a mount that hangs costs a thread, not the agent.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from tarn_agent.core.model import FileStatus
from tarn_agent.core.plan import is_cache
from tarn_agent.ports import StageError
from tarn_agent.stores.bounded import bounded

_CHUNK = 1 << 20
_DEPTH = 32


class MountedStore:
    """`path` is absolute; `location` is what the user wrote."""

    def __init__(self, path: str, location: str) -> None:
        self.path = path
        self._location = location

    @property
    def location(self) -> str:
        return self._location

    def listing(self, deadline_s: float) -> list[FileStatus]:
        return bounded(self._listing, deadline_s, f"the file system of {self._location}")

    def _listing(self) -> list[FileStatus]:
        try:
            found = list(self._walk(Path(self.path), "", 0))
            for entry in found:
                if entry.path.endswith("/config.pbtxt") and entry.path.count("/") == 1:
                    with (Path(self.path) / entry.path).open("rb") as file:
                        file.read(1)
        except OSError as error:
            raise self._translated(error) from error
        return found

    def _walk(self, directory: Path, prefix: str, depth: int) -> Iterator[FileStatus]:
        """Follows links, as Triton does; a link that leads back to its parent ends at the depth limit."""
        if depth > _DEPTH:
            raise StageError(f"{directory} is {_DEPTH} directories deep: is a link leading in a circle?", retry=False)
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda each: each.name):
                path = prefix + entry.name
                if is_cache(entry.name):
                    continue
                if entry.is_dir():
                    yield FileStatus(path, 0, "", directory=True)
                    yield from self._walk(directory / entry.name, path + "/", depth + 1)
                else:
                    yield self._status(entry, path)

    def _status(self, entry: os.DirEntry[str], path: str) -> FileStatus:
        try:
            status = entry.stat()
        except FileNotFoundError:
            # A link to nothing. Whether anybody needs it is Triton's to say.
            status = entry.stat(follow_symlinks=False)
        return FileStatus(path, status.st_size, f"{status.st_mtime_ns}-{status.st_size}")

    def _translated(self, error: OSError) -> StageError:
        where = error.filename or self.path
        if isinstance(error, FileNotFoundError):
            return StageError(f"{where} does not exist on this node: mount it, or correct --model-repository", retry=False)
        if isinstance(error, NotADirectoryError):
            return StageError(f"{where} is a file, not a directory of models: correct --model-repository", retry=False)
        if isinstance(error, PermissionError):
            return StageError(f"{where} may not be read by user {os.geteuid()}: grant it read access", retry=False)
        return StageError(f"{where} cannot be read: {error.strerror or error}", retry=True)

    def read(self, file: FileStatus, offset: int, length: int, into: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        try:
            with (Path(self.path) / file.path).open("rb") as source:
                source.seek(offset)
                while length > 0:
                    data = source.read(min(length, _CHUNK))
                    if not data:
                        raise StageError(f"{file.path} in {self._location} is shorter than it was when listed", retry=True)
                    into.write(data)
                    on_bytes(len(data))
                    length -= len(data)
        except OSError as error:
            raise self._translated(error) from error

    def checksum(self, file: FileStatus, local: str) -> bool | None:
        return None

    def close(self) -> None:
        pass
