"""The end of a log file, without reading the whole of it, and what was added to Triton's since it was started."""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

from tarn_agent.core.load_log import LoadLog

_BLOCK = 16 << 10
_MOST = 4 << 20
_KEPT = 20


def last_lines(path: Path, count: int) -> list[str]:
    """The last `count` lines (of the last 4 MiB); empty where there is no such file."""
    if count <= 0:
        return []
    try:
        with path.open("rb") as file:
            at = end = file.seek(0, os.SEEK_END)
            data = b""
            while at > 0 and data.count(b"\n") <= count and end - at < _MOST:
                size = min(_BLOCK, at)
                at -= size
                file.seek(at)
                data = file.read(size) + data
    except OSError:
        return []
    return data.decode(errors="replace").splitlines()[-count:]


class LogTail:
    """Triton's log from a moment on: that of its making, or (`whole`) of what is there. Each look reads a bounded piece more."""

    def __init__(self, path: Path, *, whole: bool = False) -> None:
        self._path = path
        self._inode, self._at = self._end()
        if whole:
            self._at = max(0, self._at - _MOST)
        self._rest = b""
        self._log = LoadLog()
        self._lines: deque[str] = deque(maxlen=_KEPT)

    def _end(self) -> tuple[int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return 0, 0
        return found.st_ino, found.st_size

    def read(self) -> LoadLog:
        """What it says of loading models."""
        lines = self._more()
        self._lines.extend(lines)
        self._log = self._log.read(lines)
        return self._log

    def added(self) -> list[str]:
        """Its last lines; none of those from before the moment."""
        self.read()
        return list(self._lines)

    def _more(self) -> list[str]:
        try:
            with self._path.open("rb") as file:
                found = os.fstat(file.fileno())
                if found.st_ino != self._inode or found.st_size < self._at:
                    # Rotated: what the old file got last is lost to us; the new one begins.
                    self._inode, self._at, self._rest = found.st_ino, 0, b""
                file.seek(self._at)
                data = file.read(_MOST)
        except OSError:
            return []
        self._at += len(data)
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [line.decode(errors="replace") for line in lines]
