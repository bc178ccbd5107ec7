"""A log file's end and what is added to it, line by line, through rotations: what `tarn logs -f` shows.

Bounded: a line is cut, a batch is small, and a reader that falls far behind the file loses lines and is told how many. Files
are read in worker threads, because a log directory may lie on a slow disk.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from tarn_common.wire.limits import MAX_LOG_LINE_CHARS, MAX_LOG_LINES_PER_MESSAGE

_BLOCK = 64 << 10
_LOOK_BACK = 8 << 20
_BEHIND = 4 << 20
_BATCH_BYTES = 256 << 10
_POLL_S = 0.25


@dataclass(frozen=True)
class Batch:
    """Some lines; `dropped` were left out before them."""

    lines: tuple[str, ...]
    dropped: int = 0


async def tail(path: Path, lines: int, follow: bool) -> AsyncIterator[Batch]:
    """The last `lines` lines of the file, then, with `follow`, each new one. Raises OSError where there is none to read.

    Without `follow` it ends at the file's end; with it only by being closed.
    """
    reader = await asyncio.to_thread(_Reader, path, lines)
    try:
        while True:
            batch = await asyncio.to_thread(reader.next)
            if batch is not None:
                yield batch
            elif not follow:
                last = reader.rest()
                if last is not None:
                    yield last
                return
            else:
                await asyncio.sleep(_POLL_S)
    finally:
        reader.close()


class _Reader:
    """One open file at a place; goes on to the file that took its name when it is read to its end."""

    def __init__(self, path: Path, lines: int) -> None:
        self._path = path
        self._file: BinaryIO = path.open("rb")
        self._file.seek(_start(self._file, lines))
        self._partial = b""

    def close(self) -> None:
        self._file.close()

    def next(self) -> Batch | None:
        """Whole lines that are there; None where there is none now."""
        dropped = self._skip()
        data = self._file.read(_BATCH_BYTES)
        if not data and not dropped:
            return self.next() if self._turn() else None
        *whole, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) > 4 * MAX_LOG_LINE_CHARS:
            whole, self._partial = [*whole, self._partial], b""
        if len(whole) > MAX_LOG_LINES_PER_MESSAGE:
            # Back to where the rest begins: a batch is a message.
            rest = b"\n".join((*whole[MAX_LOG_LINES_PER_MESSAGE:], self._partial))
            self._file.seek(-len(rest), os.SEEK_CUR)
            whole, self._partial = whole[:MAX_LOG_LINES_PER_MESSAGE], b""
        if not whole and not dropped:
            return self.next() if data else None
        return Batch(tuple(_text(line) for line in whole), dropped)

    def rest(self) -> Batch | None:
        """A last line that has no end yet."""
        last, self._partial = self._partial, b""
        return Batch((_text(last),)) if last else None

    def _skip(self) -> int:
        """Far behind, it goes on near the end; returns how many lines that left out."""
        behind = os.fstat(self._file.fileno()).st_size - self._file.tell()
        if behind <= _BEHIND:
            return 0
        left, dropped = behind - _BEHIND // 2, 0
        while left > 0 and (block := self._file.read(min(_BLOCK, left))):
            left -= len(block)
            dropped += block.count(b"\n")
        self._file.readline(_BLOCK)
        self._partial = b""
        return dropped + 1

    def _turn(self) -> bool:
        """At the end: whether another file has the name now (rotation), or this one was cut (it is read from its beginning)."""
        about = os.fstat(self._file.fileno())
        try:
            named = self._path.stat()
        except OSError:
            return False
        if (named.st_ino, named.st_dev) != (about.st_ino, about.st_dev):
            successor = self._path.open("rb")
            self._file.close()
            self._file, self._partial = successor, b""
            return True
        if about.st_size < self._file.tell():
            self._file.seek(0)
            self._partial = b""
            return True
        return False


def _start(file: BinaryIO, lines: int) -> int:
    """Where the last `lines` lines begin, looking back so far and no further."""
    at = end = file.seek(0, os.SEEK_END)
    wanted = lines + 1
    while at > 0 and end - at < _LOOK_BACK:
        size = min(_BLOCK, at)
        at -= size
        file.seek(at)
        block = file.read(size)
        if at + size == end and block.endswith(b"\n"):
            block = block[:-1]
            if lines <= 0:
                return end
        found = block.count(b"\n")
        if found >= wanted - 1 > 0:
            place = len(block)
            for _ in range(wanted - 1):
                place = block.rfind(b"\n", 0, place)
            return at + place + 1
        wanted -= found
    return end if lines <= 0 else at


def _text(line: bytes) -> str:
    return line.rstrip(b"\r").decode(errors="replace")[:MAX_LOG_LINE_CHARS]
