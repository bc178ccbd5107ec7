"""The journal of a staged tree: one line a file that is completely there, with the CRC32C of each of its pieces.

The same format serves a tree that is growing (lines are appended; a torn last line counts for nothing) and one that is
complete. A line is a claim, never a proof: whoever reuses a file checks its bytes against the line. The pieces' checksums
stand one by one so that a later reader can resume within a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from tarn_agent.core.model import FileStatus

NAME = ".tarn-manifest"
_FORMAT = 1


@dataclass(frozen=True)
class Entry:
    """One complete file; `crcs` are of its pieces of `piece_bytes`, in order."""

    path: str
    length: int
    identity: str
    crcs: tuple[int, ...]

    def is_of(self, file: FileStatus) -> bool:
        return (self.path, self.length, self.identity) == (file.path, file.length, file.identity)


def head(location: str, piece_bytes: int) -> bytes:
    """The first line: whose copy this is."""
    return _line({"tarn-manifest": _FORMAT, "location": location, "piece_bytes": piece_bytes})


def line(entry: Entry) -> bytes:
    return _line({"path": entry.path, "length": entry.length, "identity": entry.identity, "crcs": list(entry.crcs)})


def _line(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, separators=(",", ":")).encode() + b"\n"


def read(data: bytes, location: str, piece_bytes: int) -> dict[str, Entry]:
    """The entries by path; empty for another location's, another format's or a damaged head. Damaged lines are left out."""
    first, *rest = data.split(b"\n")
    if _record(first) != {"tarn-manifest": _FORMAT, "location": location, "piece_bytes": piece_bytes}:
        return {}
    found = (_entry(_record(each)) for each in rest[:-1])
    return {entry.path: entry for entry in found if entry is not None}


def _record(data: bytes) -> dict[str, object]:
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return record if isinstance(record, dict) else {}


def _entry(record: Mapping[str, object]) -> Entry | None:
    path, length, identity, crcs = (record.get(key) for key in ("path", "length", "identity", "crcs"))
    if not (isinstance(path, str) and isinstance(length, int) and isinstance(identity, str) and isinstance(crcs, list)):
        return None
    if not all(isinstance(crc, int) for crc in crcs):
        return None
    return Entry(path, length, identity, tuple(crcs))
