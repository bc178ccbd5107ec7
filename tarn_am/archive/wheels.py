"""Wheels of other Pythons than the one that runs, fetched by pip from wherever it is told to look, and unpacked."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Sequence
from email.parser import HeaderParser
from pathlib import Path, PurePosixPath

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tarn_am.archive.parts import UNUSED, ArchiveError, environment, is_run

# The oldest C library first: what runs there runs on every younger one.
PLATFORMS = {
    machine: tuple(f"manylinux{tag}_{machine}" for tag in ("_2_17", "2014", "_2_5", "2010", "1", "_2_24", "_2_26", "_2_27", "_2_28"))
    for machine in ("x86_64", "aarch64")
}
_PATIENCE_S = 600.0


def fetch(requirements: Sequence[str], python: str, machine: str, directory: Path, wheels: Path | None) -> list[Path]:
    """The wheels of `requirements` for Python `3.X`, each alone. `wheels`: a directory to take them from instead of an index."""
    directory.mkdir(parents=True, exist_ok=True)
    source = ["--no-index", "--find-links", str(wheels)] if wheels is not None else []
    command = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input", "download", "--quiet", "--no-deps",
        "--only-binary=:all:", "--implementation", "cp", "--python-version", python,
        *(part for platform in PLATFORMS[machine] for part in ("--platform", platform)),
        "--dest", str(directory), *source, *requirements,
    ]  # fmt: skip
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ArchiveError(
            f"pip did not fetch the packages for Python {python} within {_PATIENCE_S:g} s: is the index reachable?"
        ) from error
    if done.returncode != 0:
        said = [line.removeprefix("ERROR: ") for line in done.stderr.splitlines() if line.startswith("ERROR: ")]
        raise ArchiveError(
            f"pip cannot fetch the packages for Python {python} on {machine} ({(said or [done.stderr.strip()[-300:]])[-1]}): "
            "give an index that has them (PIP_INDEX_URL), or a directory of wheels with --wheels"
        )
    return sorted(directory.glob("*.whl"))


def needs(wheel: Path, python: str) -> list[Requirement]:
    """What a wheel needs on Python `3.X`, extras left aside."""
    with zipfile.ZipFile(wheel) as archive:
        name = next((each for each in archive.namelist() if each.endswith(".dist-info/METADATA")), None)
        if name is None:
            raise ArchiveError(f"{wheel.name} is no wheel: it has no METADATA")
        lines = HeaderParser().parsestr(archive.read(name).decode()).get_all("Requires-Dist") or []
    found = [Requirement(line) for line in lines]
    found = [each for each in found if canonicalize_name(each.name) not in UNUSED]
    return [each for each in found if each.marker is None or each.marker.evaluate({**environment(python), "extra": ""})]


def unpack(wheel: Path, directory: Path) -> None:
    """What an installation would put into site-packages. A wheel that would write elsewhere is refused."""
    with zipfile.ZipFile(wheel) as archive:
        for entry in archive.infolist():
            inside = _place(entry.filename)
            if inside is None or entry.is_dir():
                continue
            target = directory / inside
            if not target.resolve().is_relative_to(directory.resolve()):
                raise ArchiveError(f"{wheel.name} holds {entry.filename!r}, which lies outside of it: it is damaged or hostile")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(archive.read(entry))


def _place(name: str) -> str | None:
    """Where a wheel's entry goes below site-packages; None for scripts, headers, and what no node runs."""
    parts = PurePosixPath(name).parts
    if not is_run(PurePosixPath(name)):
        return None
    if not parts[0].endswith(".data"):
        return name
    return str(PurePosixPath(*parts[2:])) if len(parts) > 2 and parts[1] in ("purelib", "platlib") else None
