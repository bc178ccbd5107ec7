"""What of a repository is copied, in which pieces, and whether it fits: from a listing alone, without touching a disk or a server.

Guarantees: no planned path leaves the tree; every refusal is one sentence with the fix; a model is a directory with a
`config.pbtxt` or with a numeric version directory (Triton completes the configuration of some back ends by itself).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tarn_agent.core.model import FileStatus

PIECE_BYTES = 64 << 20
_BLOCK = 4096
_CONFIG = "config.pbtxt"
_UPLOADING = "._COPYING_"
_NAME_BYTES = 255
_SHOWN = 12
_CACHES = "__pycache__"
"""Python's own, made anew wherever they are missing."""
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")


class PlanError(ValueError):
    """The repository cannot be served as it is; one sentence with the fix. `retry`: it may be different in a while."""

    def __init__(self, text: str, *, retry: bool = False) -> None:
        super().__init__(text)
        self.retry = retry


@dataclass(frozen=True)
class Model:
    """A directory that looks like a model."""

    name: str
    configured: bool
    versions: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """A range of one file, copied and retried as one. Pieces never cross a multiple of PIECE_BYTES, so no block boundary either."""

    file: FileStatus
    number: int
    offset: int
    length: int


@dataclass(frozen=True)
class Plan:
    """What must be on this machine: `files` with the largest first, every directory, and the names to load."""

    location: str
    models: tuple[str, ...]
    files: tuple[FileStatus, ...]
    directories: tuple[str, ...]
    ignored: tuple[str, ...] = ()

    @property
    def bytes_total(self) -> int:
        return sum(file.length for file in self.files)


def size_text(size: float) -> str:
    """For people: 12.3 GiB."""
    for unit in ("bytes", "KiB", "MiB", "GiB", "TiB"):
        if size < 1024 or unit == "TiB":
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    raise AssertionError("unreachable")


def named(names: Iterable[str]) -> str:
    """Some names for a sentence; the rest as a number."""
    every = sorted(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(every[:_SHOWN]) + more


def check_path(path: str) -> None:
    """Raises PlanError for a path that could leave the tree or that this machine cannot hold."""
    for part in path.split("/"):
        if part in ("", ".", ".."):
            raise PlanError(f"the store lists {path[:300]!r}, which does not stay inside the repository: rename it there")
        try:
            long = len(part.encode()) > _NAME_BYTES
        except UnicodeEncodeError:
            long = True
        if long or "\0" in part:
            raise PlanError(f"the store lists {path[:300]!r}, which is no possible file name here: rename it there")


def check_name(model: str) -> None:
    """Raises PlanError for a name that a shell would not take as it is: Triton's Python back end hands the model's path to one."""
    if not _PLAIN_NAME.fullmatch(model):
        raise PlanError(
            f"the model {model[:300]!r} cannot be served, for Triton's Python back end hands its path to a shell:"
            " rename its directory to letters, digits, '_', '-' and '.', the first of them no '-' or '.'"
        )


def is_cache(path: str) -> bool:
    """Of no use to a model elsewhere, and neither copied nor asked for."""
    return _CACHES in path.split("/")


def find_models(listing: Iterable[FileStatus]) -> dict[str, Model]:
    """Every directory at the top that looks like a model."""
    configured: set[str] = set()
    versions: dict[str, set[str]] = {}
    for entry in listing:
        model, _, rest = entry.path.partition("/")
        if not rest:
            continue
        first, deeper, _ = rest.partition("/")
        if rest == _CONFIG and not entry.directory:
            configured.add(model)
        elif _is_version(first) and (deeper or entry.directory):
            versions.setdefault(model, set()).add(first)
    names = configured | set(versions)
    return {name: Model(name, name in configured, tuple(sorted(versions.get(name, ()), key=int))) for name in sorted(names)}


def _is_version(name: str) -> bool:
    """Triton's rule: a number that does not begin with 0."""
    return name.isascii() and name.isdigit() and not name.startswith("0")


def choose(listing: Sequence[FileStatus], wanted: Sequence[str], location: str, *, strict: bool = True) -> tuple[str, ...]:
    """The models to load, or PlanError. `strict` False lets a model without a version pass, for Triton to refuse by name."""
    if not listing:
        raise PlanError(f"{location} is empty: put each model there as <model>/config.pbtxt and <model>/<version>/…")
    models = find_models(listing)
    if not models:
        raise PlanError(_no_models(listing, location))
    missing = [name for name in dict.fromkeys(wanted) if name not in models]
    if missing:
        raise PlanError(f"{location} has no model {named(map(repr, missing))}; it has {named(models)}")
    chosen = tuple(dict.fromkeys(wanted)) or tuple(models)
    for name in chosen:
        check_name(name)
    bare = [name for name in chosen if not models[name].versions]
    if bare and (strict or len(bare) == len(chosen)):
        raise PlanError(
            f"{location}: model {named(map(repr, bare))} has no version directory: put its files into <model>/1/"
            " (an ensemble needs an empty one)"
        )
    return chosen


def _no_models(listing: Sequence[FileStatus], location: str) -> str:
    top = {entry.path.partition("/")[0] for entry in listing}
    if any(_is_version(name) for name in top) or any(entry.path == _CONFIG for entry in listing):
        return f"{location} is a model, not a repository of models: give the directory above it"
    return f"{location} has no models: none of {named(top)} is a directory with config.pbtxt or with a version directory such as 1/"


def composing(config: str) -> tuple[str, ...]:
    """The models that an ensemble's config.pbtxt runs: Triton loads them with it, so they must be staged with it."""
    if not re.search(r"\bensemble_scheduling\b", config):
        return ()
    bare = re.sub(r"(?m)#[^\n]*$", "", config)
    return tuple(dict.fromkeys(re.findall(r"""\bmodel_name\s*:\s*["']([^"'\n]+)["']""", bare)))


def make_plan(listing: Sequence[FileStatus], models: Sequence[str], location: str, also: Iterable[str] = ()) -> Plan:
    """The plan to stage `models` (and `also`, which are staged but not named for loading). Raises PlanError."""
    for entry in listing:
        check_path(entry.path)
    staged = {*models, *also}
    for name in sorted(staged):
        check_name(name)
    chosen = [entry for entry in listing if entry.path.partition("/")[0] in staged and not is_cache(entry.path)]
    uploading = [entry.path for entry in chosen if entry.path.endswith(_UPLOADING)]
    if uploading:
        raise PlanError(f"{location} is still being uploaded: {named(uploading)} is not complete yet", retry=True)
    directories = {entry.path for entry in chosen if entry.directory}
    files = [entry for entry in chosen if not entry.directory]
    for entry in files:
        directories.update(_parents(entry.path))
    files.sort(key=lambda file: (-file.length, file.path))
    top = {entry.path.partition("/")[0] for entry in listing}
    return Plan(location, tuple(models), tuple(files), tuple(sorted(directories)), tuple(sorted(top - staged)))


def _parents(path: str) -> Iterable[str]:
    parts = path.split("/")[:-1]
    return ("/".join(parts[: depth + 1]) for depth in range(len(parts)))


def pieces(file: FileStatus, piece_bytes: int = PIECE_BYTES) -> tuple[Piece, ...]:
    """The file's ranges in order; an empty file has none."""
    return tuple(
        Piece(file, number, offset, min(piece_bytes, file.length - offset))
        for number, offset in enumerate(range(0, file.length, piece_bytes))
    )


def changed(before: Plan, after: Plan) -> tuple[str, ...]:
    """The files that are another, gone or new in the later plan: what was copied of the earlier may be a mixture."""
    return tuple(sorted({file.path for file in set(before.files) ^ set(after.files)}))


@dataclass(frozen=True)
class Disk:
    """A file system: what a process of ours may still use. `inodes` None: it does not count them."""

    where: str
    free_bytes: int
    free_inodes: int | None


def check_disk(disk: Disk, files: Sequence[FileStatus], directories: int, reserve_bytes: int) -> None:
    """Raises PlanError unless `files`, whole blocks each, fit beside the reserve."""
    need = sum(-(-file.length // _BLOCK) * _BLOCK for file in files) + directories * _BLOCK
    if need + reserve_bytes > disk.free_bytes and files:
        held = f", of which {size_text(reserve_bytes)} are held in reserve" if reserve_bytes else ""
        fix = "free some space, or lower TARN_DISK_RESERVE_BYTES" if reserve_bytes else "free some space"
        raise PlanError(f"{size_text(need)} must be copied to {disk.where}, which has {size_text(disk.free_bytes)} free{held}: {fix}")
    inodes = len(files) + directories
    if disk.free_inodes is not None and inodes > disk.free_inodes:
        raise PlanError(
            f"{inodes} files must be created in {disk.where}, but it has only {disk.free_inodes} inodes free: remove files there"
        )


def rate(samples: Sequence[tuple[float, int]]) -> float:
    """Bytes a second over (time, bytes) samples, oldest first; 0 without a span of time."""
    if len(samples) < 2 or samples[-1][0] <= samples[0][0]:
        return 0.0
    return (samples[-1][1] - samples[0][1]) / (samples[-1][0] - samples[0][0])


__all__ = [
    "PIECE_BYTES",
    "Disk",
    "Model",
    "Piece",
    "Plan",
    "PlanError",
    "changed",
    "check_disk",
    "check_name",
    "check_path",
    "choose",
    "composing",
    "find_models",
    "is_cache",
    "make_plan",
    "named",
    "pieces",
    "rate",
    "size_text",
]
