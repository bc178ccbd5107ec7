"""The copy on this machine's disk: growing beside its final name, complete by one rename.

    <data_dir>/models         exists <=> was complete when it appeared
    <data_dir>/.models.new    grows; what a killed run left there is material for the next, never a result
    <data_dir>/.models.lock   held while staging; the kernel frees it when the process dies

Guarantees: nothing is reused that was not read again and found right by its CRC32C; only one process at a time works here.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import io
import os
import shutil
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import crc32c

from tarn_agent.core import manifest
from tarn_agent.core.manifest import Entry
from tarn_agent.core.model import FileStatus
from tarn_agent.core.plan import PIECE_BYTES, Disk, Plan
from tarn_agent.ports import StageError

_BUFFER = 1 << 20
_EXECUTABLE = "triton_python_backend_stub"


class Abandoned(Exception):
    """Raised in the thread of an attempt that nobody waits for any more, at its next piece of data."""


@contextlib.contextmanager
def local_errors(where: Path) -> Iterator[None]:
    """The local disk's OSErrors as StageErrors: none of them is mended by trying again."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            text = f"no space is left in {where}: free some there, or give the container a larger disk"
        else:
            text = f"{error.filename or where} cannot be written: {error.strerror or error}; correct TARN_DATA_DIR or its permissions"
        raise StageError(text, retry=False) from error


class PieceWriter(io.RawIOBase):
    """Where one attempt at one piece is written. It has a descriptor of its own, so that an abandoned attempt harms nobody."""

    def __init__(self, path: Path, offset: int, stopped: threading.Event) -> None:
        super().__init__()
        self.crc, self._position, self._stopped, self._path = 0, offset, stopped, path
        self._descriptor = os.open(path, os.O_WRONLY)

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self._stopped.is_set():
            raise Abandoned
        view = memoryview(data)
        with local_errors(self._path.parent):
            while view:
                count = os.pwrite(self._descriptor, view, self._position)
                self._position += count
                self.crc = crc32c.crc32c(view[:count], self.crc)
                view = view[count:]
        return len(data)

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


class LocalTree:
    """One staging directory. Blocking; `begin` first, `close` always."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir, self.final = data_dir, data_dir / "models"
        self._work, self._old = data_dir / ".models.new", data_dir / ".models.old"
        self._lock = -1
        self._journal = threading.Lock()
        self._entries: dict[str, Entry] = {}

    def begin(self) -> None:
        """Takes the lock; raises StageError when another process stages here."""
        with local_errors(self.data_dir):
            self.data_dir.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(self.data_dir / ".models.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise StageError(
                    f"another process is staging into {self.data_dir}: give each instance its own TARN_DATA_DIR", retry=True
                ) from error

    def close(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def disk(self) -> Disk:
        with local_errors(self.data_dir):
            found = os.statvfs(self.data_dir)
        return Disk(str(self.data_dir), found.f_bavail * found.f_frsize, found.f_favail if found.f_files else None)

    def candidates(self, plan: Plan) -> dict[FileStatus, tuple[Path, Entry]]:
        """What an earlier run left that claims to be a planned file: to be checked by `right`."""
        found: dict[FileStatus, tuple[Path, Entry]] = {}
        for tree in (self.final, self._work):
            entries = self._claims(tree, plan.location)
            for file in plan.files:
                entry = entries.get(file.path)
                if entry is not None and entry.is_of(file):
                    found[file] = (tree / file.path, entry)
        return found

    def _claims(self, tree: Path, location: str) -> dict[str, Entry]:
        try:
            return manifest.read((tree / manifest.NAME).read_bytes(), location, PIECE_BYTES)
        except OSError:
            return {}

    def right(self, path: Path, entry: Entry) -> bool:
        """Whether the file is byte for byte what its entry says."""
        try:
            with path.open("rb", buffering=0) as file:
                status = os.fstat(file.fileno())
                if not stat.S_ISREG(status.st_mode) or status.st_size != entry.length:
                    return False
                return len(entry.crcs) == -(-entry.length // PIECE_BYTES) and all(_crc(file) == crc for crc in entry.crcs)
        except OSError:
            return False

    def prepare(self, plan: Plan, kept: dict[FileStatus, tuple[Path, Entry]]) -> set[FileStatus]:
        """Makes the growing tree hold `kept` and every directory, and nothing else. Returns the files that it has."""
        with local_errors(self.data_dir):
            self._work.mkdir(exist_ok=True)
            self._prune({file.path for file in kept}, set(plan.directories))
            for directory in plan.directories:
                (self._work / directory).mkdir(exist_ok=True)
            self._entries = {}
            self._start_journal(plan.location)
            return {file for file, (path, entry) in kept.items() if self._keep(file, path, entry)}

    def _prune(self, files: set[str], directories: set[str]) -> None:
        for parent, below, names in os.walk(self._work, topdown=False):
            prefix = "" if Path(parent) == self._work else f"{Path(parent).relative_to(self._work)}/"
            for name in names:
                if prefix + name not in files and prefix + name != manifest.NAME:
                    (Path(parent) / name).unlink()
            for name in below:
                path = Path(parent) / name
                if path.is_symlink():
                    path.unlink()
                elif prefix + name not in directories:
                    shutil.rmtree(path)

    def _start_journal(self, location: str) -> None:
        path = self._work / manifest.NAME
        head = manifest.head(location, PIECE_BYTES)
        old = path.read_bytes() if path.is_file() else b""
        if not old.startswith(head):
            path.write_bytes(head)
        elif not old.endswith(b"\n"):
            path.write_bytes(old + b"\n")

    def _keep(self, file: FileStatus, path: Path, entry: Entry) -> bool:
        target = self._work / file.path
        if path != target:
            try:
                target.unlink(missing_ok=True)
                os.link(path, target)
            except OSError:
                # No hard links here, or the file went away: then it is copied like any other.
                return False
        self._note(entry)
        return True

    def create(self, file: FileStatus) -> None:
        """An empty file of the right length, sparse until its pieces come."""
        path = self._work / file.path
        with local_errors(self.data_dir):
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o755 if path.name == _EXECUTABLE else 0o644)
            try:
                os.ftruncate(descriptor, file.length)
            finally:
                os.close(descriptor)

    def writer(self, file: FileStatus, offset: int, stopped: threading.Event) -> PieceWriter:
        with local_errors(self.data_dir):
            return PieceWriter(self._work / file.path, offset, stopped)

    def path_of(self, file: FileStatus) -> str:
        return str(self._work / file.path)

    def done(self, file: FileStatus, crcs: tuple[int, ...]) -> None:
        """The file's last piece is written and what could be verified was."""
        with local_errors(self.data_dir):
            if os.stat(self._work / file.path).st_size != file.length:
                raise StageError(
                    f"the copy of {file.path} changed its size while it was written: does another process write there?", retry=True
                )
            self._note(Entry(file.path, file.length, file.identity, crcs))

    def _note(self, entry: Entry) -> None:
        with self._journal, (self._work / manifest.NAME).open("ab") as journal:
            journal.write(manifest.line(entry))
            self._entries[entry.path] = entry

    def commit(self, plan: Plan) -> None:
        """Puts the tree under its final name; raises StageError when a planned file has no entry."""
        missing = [file.path for file in plan.files if file.path not in self._entries]
        if missing:
            raise StageError(f"the copy of {plan.location} lacks {missing[0]}", retry=True)
        with local_errors(self.data_dir):
            whole = self._work / f"{manifest.NAME}.whole"
            lines = (manifest.line(self._entries[file.path]) for file in plan.files)
            whole.write_bytes(manifest.head(plan.location, PIECE_BYTES) + b"".join(lines))
            whole.replace(self._work / manifest.NAME)
            _sync(self._work)
            shutil.rmtree(self._old, ignore_errors=True)
            if self.final.exists():
                self.final.rename(self._old)
            self._work.rename(self.final)
            _sync(self.data_dir)
            shutil.rmtree(self._old, ignore_errors=True)

    def discard(self) -> None:
        """Removes what grew. Threads that were left behind may still write into unlinked files, which harms nobody."""
        shutil.rmtree(self._work, ignore_errors=True)


def _crc(file: io.RawIOBase | io.FileIO) -> int:
    """Of the next piece."""
    left, crc, buffer = PIECE_BYTES, 0, bytearray(_BUFFER)
    view = memoryview(buffer)
    while left > 0:
        count = file.readinto(view[: min(left, _BUFFER)])
        if not count:
            break
        crc = crc32c.crc32c(view[:count], crc)
        left -= count
    return crc


def _sync(directory: Path) -> None:
    """syncfs(2), which Python lacks: one call for thousands of files."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(descriptor) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(directory))
    finally:
        os.close(descriptor)
