"""What belongs into the archive: TARN's packages, and every distribution that its Application Master and its agents need.

The versions are those that run here. A distribution without compiled parts is taken as it stands; one with compiled parts, or one
that only another Python needs, is named for fetching.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePath

from packaging.markers import default_environment
from packaging.requirements import InvalidRequirement, Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = "tarn"
EXTRAS = ("am", "agent")
PACKAGES = ("tarn_common", "tarn_am", "tarn_agent")
_LEFT_OUT = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
# A node without Hadoop's native library changes the mode of each unpacked file by a process of its own: what nothing imports costs time.
_NOT_RUN = (".pyi", ".pyx", ".pxd", ".c", ".h", ".gif")
_TESTS = ("tests", "test")
# Of hdfs-native's command line and its bridge to fsspec, and of cffi's compiler: the libraries themselves do without.
UNUSED = frozenset({"argcomplete", "fsspec", "pycparser"})


class ArchiveError(Exception):
    """The archive cannot be built; one sentence with the cause and the fix."""


@dataclass
class Parts:
    """`pure` and `compiled` are installed here; `absent` are not, because this Python needs none. All by canonical name."""

    pure: dict[str, importlib.metadata.Distribution] = field(default_factory=dict)
    compiled: dict[str, importlib.metadata.Distribution] = field(default_factory=dict)
    absent: set[str] = field(default_factory=set)
    wanted: dict[str, SpecifierSet] = field(default_factory=dict)

    def requirement(self, name: str) -> str:
        """As pip takes it."""
        return f"{name}{self.wanted.get(name, '')}"


def environment(python: str) -> dict[str, str]:
    """What markers ask of Python `3.X` on Linux."""
    return {
        **{name: str(value) for name, value in default_environment().items()},
        "python_version": python,
        "python_full_version": f"{python}.0",
        "implementation_version": f"{python}.0",
    }


def needed(python: str, extras: tuple[str, ...] = EXTRAS) -> Parts:
    """All that TARN needs on Python `3.X`. Raises ArchiveError when TARN itself is not installed as a distribution."""
    parts, environ = Parts(), environment(python)
    waiting = [(ROOT, extra) for extra in extras]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        for requirement in _requirements(name, extra, environ):
            wanted = canonicalize_name(requirement.name)
            if wanted in UNUSED:
                continue
            _note(parts, wanted, requirement.specifier)
            for also in ("", *requirement.extras):
                if (wanted, also) not in seen:
                    seen.add((wanted, also))
                    waiting.append((wanted, also))
    return parts


def _requirements(name: str, extra: str, environ: Mapping[str, str]) -> list[Requirement]:
    try:
        lines = importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError:
        if name == ROOT:
            raise ArchiveError("TARN is not installed as a package here: pip install 'tarn[client,agent]'") from None
        return []  # its own needs are read from its wheel, once it is fetched
    try:
        found = [Requirement(line) for line in lines]
    except InvalidRequirement as error:
        raise ArchiveError(f"the installed package {name} has a requirement that cannot be read: {error}") from error
    return [each for each in found if each.marker is None or each.marker.evaluate({**environ, "extra": extra})]


def _note(parts: Parts, name: str, specifier: SpecifierSet) -> None:
    parts.wanted[name] = parts.wanted.get(name, SpecifierSet()) & specifier
    try:
        found = importlib.metadata.distribution(name)
    except importlib.metadata.PackageNotFoundError:
        parts.absent.add(name)
        return
    (parts.pure if is_pure(found) else parts.compiled)[name] = found


def is_pure(found: importlib.metadata.Distribution) -> bool:
    """Whether it runs as it stands on every Python and machine."""
    wheel = found.read_text("WHEEL") or ""
    tags = [line.partition(":")[2].strip() for line in wheel.splitlines() if line.startswith("Tag:")]
    return bool(tags) and all(tag.endswith("-none-any") for tag in tags)


def is_run(path: PurePath) -> bool:
    """Whether a file of a package can be of use on a node."""
    return path.suffix not in _NOT_RUN and not any(part in _TESTS for part in path.parts[:-1])


def files(found: importlib.metadata.Distribution) -> dict[str, Path]:
    """Path below site-packages to the file here; scripts, compiled code and pip's own records are left out."""
    if found.files is None:
        raise ArchiveError(f"the package {found.metadata['Name']} was installed without a list of its files: install it with pip")
    taken = {}
    for file in found.files:
        if (
            ".." in file.parts
            or "__pycache__" in file.parts
            or not is_run(file)
            or (file.name in _LEFT_OUT and file.parts[0].endswith(".dist-info"))
        ):
            continue
        taken[str(file)] = Path(str(file.locate()))
    return taken


def own_files() -> dict[str, Path]:
    """TARN's packages, wherever they are imported from."""
    base = Path(__file__).resolve().parents[2]
    found = [path for package in PACKAGES for path in sorted((base / package).rglob("*")) if path.is_file()]
    return {str(path.relative_to(base)): path for path in found if "__pycache__" not in path.parts}
