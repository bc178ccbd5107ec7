"""Builds the archive: one .tar.gz of `run.py`, `lib/any` and a `lib/cpXY` for each Python, the same bytes for the same parts.

Without a list of Pythons it holds what is installed here, for the Python that runs: a second of work and no network. It is
written beside its target and renamed, so that it is complete or absent.
"""

from __future__ import annotations

import compileall
import contextlib
import gzip
import hashlib
import json
import os
import platform
import re
import shutil
import sys
import tarfile
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from py_compile import PycInvalidationMode

from packaging.utils import canonicalize_name

from tarn_am.archive import parts, wheels
from tarn_am.archive.parts import ArchiveError, Parts
from tarn_common import __version__

_MTIME = 315532800
"""The first moment that every archive format can hold: files have no date of their own."""
_YOUNGEST, _OLDEST = 13, 10
_LEVEL = 6


@dataclass(frozen=True)
class Built:
    """`digest` is the SHA-256 of the file, in hex."""

    path: Path
    digest: str
    size: int
    pythons: tuple[str, ...]


def here() -> str:
    """The Python that runs, as `3.11`."""
    return f"{sys.version_info[0]}.{sys.version_info[1]}"


def checked_python(text: str) -> str:
    """`3.X` that TARN runs on; raises ArchiveError."""
    found = re.fullmatch(r"3\.(\d{1,2})", text)
    if found is None or not _OLDEST <= int(found[1]) <= _YOUNGEST:
        raise ArchiveError(f"--python={text!r} is no Python that TARN runs on: give one of 3.{_OLDEST} to 3.{_YOUNGEST}")
    return text


def build(target: Path, pythons: Sequence[str] = (), machine: str = "", wheel_dir: Path | None = None) -> Built:
    """`pythons` empty: the installed packages, for the Python that runs. Raises ArchiveError."""
    machine = machine or platform.machine()
    if machine not in wheels.PLATFORMS:
        raise ArchiveError(f"--machine={machine!r} is not one of {', '.join(wheels.PLATFORMS)}")
    if target.exists() and not target.is_file():
        raise ArchiveError(f"--output={str(target)!r} is there and is no regular file: give the path of a file to write")
    if not target.parent.is_dir():
        raise ArchiveError(f"--output={str(target)!r}: there is no directory {target.parent}: make it, or give another path")
    try:
        with tempfile.TemporaryDirectory(prefix=".tarn-archive-", dir=target.parent) as work:
            tree = Path(work) / "tree"
            _fill(tree, pythons, machine, wheel_dir, Path(work))
            packed = Path(work) / "packed"
            digest = _pack(tree, packed)
            packed.replace(target)
    except OSError as error:
        raise ArchiveError(f"{error.filename or target}: {error.strerror}: make room or rights, or choose another --output") from error
    return Built(target, digest, target.stat().st_size, tuple(pythons) or (here(),))


def fingerprint() -> str:
    """Changes when an archive of what is installed here would: by TARN's own files, and by name and version of the rest."""
    found = parts.needed(here())
    state = hashlib.sha256(f"{here()} {platform.machine()}\n".encode())
    for name, each in sorted({**found.pure, **found.compiled}.items()):
        state.update(f"{name} {each.version}\n".encode())
    for name, path in parts.own_files().items():
        state.update(name.encode() + b"\n" + hashlib.sha256(path.read_bytes()).digest())
    return state.hexdigest()[:16]


def _fill(tree: Path, pythons: Sequence[str], machine: str, wheel_dir: Path | None, work: Path) -> None:
    common = tree / "lib" / "any"
    _copy(parts.own_files(), common)
    packages = _fetched(tree, pythons, machine, wheel_dir, work) if pythons else _installed(tree)
    shutil.copyfile(Path(__file__).with_name("run.py"), tree / "run.py")
    about = {"tarn": __version__, "pythons": list(pythons) or [here()], "machine": machine, "packages": packages}
    (tree / "about.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n")


def _installed(tree: Path) -> dict[str, str]:
    found = parts.needed(here())
    if found.absent:
        raise ArchiveError(f"not installed here: {', '.join(sorted(found.absent))}: pip install 'tarn[client,agent]'")
    for each in found.pure.values():
        _copy(parts.files(each), tree / "lib" / "any")
    native = tree / "lib" / _tag(here())
    native.mkdir(parents=True)
    for each in found.compiled.values():
        _copy(parts.files(each), native)
    # The node's first start then compiles nothing; "unchecked", because nobody edits what is unpacked from here.
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        mode = PycInvalidationMode.UNCHECKED_HASH
        compileall.compile_dir(tree, quiet=2, stripdir=str(tree), prependdir="tarn", invalidation_mode=mode, workers=0)
    return {name: each.version for name, each in {**found.pure, **found.compiled}.items()}


def _fetched(tree: Path, pythons: Sequence[str], machine: str, wheel_dir: Path | None, work: Path) -> dict[str, str]:
    packages: dict[str, str] = {}
    by_python: dict[str, dict[str, Path]] = {}
    for python in pythons:
        found = parts.needed(python)
        for name, each in found.pure.items():
            packages[name] = each.version
            _copy(parts.files(each), tree / "lib" / "any")
        by_python[python] = _wheels(found, python, machine, work / python, wheel_dir)
        (tree / "lib" / _tag(python)).mkdir(parents=True)
    everywhere = set.intersection(*(set(found) for found in by_python.values()))
    for python, found_wheels in by_python.items():
        for name, wheel in found_wheels.items():
            packages[name.split("-")[0]] = name.split("-")[1]
            wheels.unpack(wheel, tree / "lib" / ("any" if name in everywhere else _tag(python)))
    return packages


def _wheels(found: Parts, python: str, machine: str, directory: Path, wheel_dir: Path | None) -> dict[str, Path]:
    """File name to wheel, with all that the wheels themselves need and nothing else has."""
    have = set(found.pure)
    wanted = {name: found.requirement(name) for name in (*found.compiled, *found.absent)}
    while missing := {name: text for name, text in wanted.items() if name not in have}:
        for wheel in wheels.fetch(sorted(missing.values()), python, machine, directory, wheel_dir):
            for each in wheels.needs(wheel, python):
                wanted.setdefault(canonicalize_name(each.name), f"{each.name}{each.specifier}")
        have |= set(missing)
    return {wheel.name: wheel for wheel in sorted(directory.glob("*.whl"))}


def _tag(python: str) -> str:
    return "cp" + python.replace(".", "")


def _copy(files: Mapping[str, Path], directory: Path) -> None:
    for name, path in files.items():
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)


def _pack(tree: Path, target: Path) -> str:
    """Sorted, without owners and dates; returns the SHA-256."""
    with (
        target.open("wb") as raw,
        gzip.GzipFile("", "wb", _LEVEL, raw, mtime=0) as squeezed,
        tarfile.open(fileobj=squeezed, mode="w", format=tarfile.GNU_FORMAT) as tar,
    ):
        for path in sorted(tree.rglob("*")):
            tar.add(path, str(path.relative_to(tree)), recursive=False, filter=_plain)
    with target.open("rb") as file:
        digest = hashlib.sha256()
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ""
    entry.mtime = _MTIME
    entry.mode = 0o755 if entry.isdir() or entry.name == "run.py" else 0o644
    return entry
