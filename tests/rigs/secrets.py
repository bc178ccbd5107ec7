"""Secrets that a test plants, and the search for them in everything that a run wrote.

Every secret that a test gives to TARN comes from `planted`. At the end of the run `tests/real/test_no_secret_left.py` searches
all files: a planted secret may stand in a file that its owner alone can read, and that is no log; nowhere else.
"""

from __future__ import annotations

import base64
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

PREFIX = "planted-secret-"
_REGISTER = "TARN_PLANTED"
_LIMIT_BYTES = 64 << 20


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The search comes after everything else."""
    items.sort(key=lambda item: "test_no_secret_left" in item.nodeid)


def planted(name: str) -> str:
    """A new secret, ASCII and without blanks; `name` says in a finding whose it was. It is written down for the search."""
    value = f"{PREFIX}{name}-{secrets.token_hex(8)}"
    if register := os.environ.get(_REGISTER):
        with Path(register).open("a") as file:
            file.write(value + "\n")
    return value


def needles() -> tuple[bytes, ...]:
    """What a planted secret looks like in a file: as it is, and in base64 at each of the three offsets."""
    plain = PREFIX.encode()
    # The first and the last group of a base64 text depend on their neighbours, so only what is between is looked for.
    coded = (base64.b64encode(b"x" * shift + plain)[4 if shift else 0 : -4] for shift in range(3))
    return (plain, *coded)


def leaks(root: Path) -> list[str]:
    """The files below `root` that hold a planted secret and should not: `path: what`, sorted."""
    return sorted(f"{path}: {found}" for path in _files(root) if (found := _found_in(path)))


def _files(root: Path) -> Iterator[Path]:
    for directory, _, names in os.walk(root):
        for name in names:
            path = Path(directory, name)
            if path.is_file() and not path.is_symlink() and path != Path(os.environ.get(_REGISTER, "/nowhere")):
                yield path


def _found_in(path: Path) -> str:
    try:
        about = path.stat()
        if stat.S_IMODE(about.st_mode) & 0o077 == 0 and path.suffix not in (".log", ".out") and about.st_uid == os.geteuid():
            return ""
        data = path.read_bytes()[:_LIMIT_BYTES] if about.st_size else b""
    except OSError:  # gone meanwhile: a server that still stops removes its files
        return ""
    for needle in needles():
        if (at := data.find(needle)) >= 0:
            return data[at : at + len(PREFIX) + 24].decode(errors="replace")
    return ""
