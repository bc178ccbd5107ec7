"""The real tritonserver of one machine without Docker: the binary in the wheel `nvidia-pytriton`, made ready to run.

The wheel carries one Python back end and a stub program for each version of Python; Triton wants the stub of the running version
beside the back end. So `prepare` makes a back-end directory of our own in a cache: complete or absent, whoever is killed when,
and shared by all who ask. It says what is missing before anything is started, because Triton itself would only say it in a
container's log, and with a NumPy of version 2 or later not even there: models load, and every inference fails.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from tarn_am.ports import ClusterError
from tarn_common.repository import RepositoryError, check_plain

_WHEEL = "nvidia-pytriton"
_FIX = 'pip install "tarn[local]"'
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_STUB = "triton_python_backend_stub"


@dataclass(frozen=True)
class TritonRuntime:
    """What a container needs in its environment to run this tritonserver."""

    environ: Mapping[str, str]


def prepare(cache_dir: Path) -> TritonRuntime:
    """Makes the back-end directory below `cache_dir` where it is not there yet. Raises ClusterError with the fix; nothing is retried."""
    _check_path(cache_dir)
    wheel = _wheel()
    _check_numpy()
    home = Path(str(wheel.locate_file("pytriton/tritonserver")))
    server = home / "bin" / "tritonserver"
    if not os.access(server, os.X_OK):
        raise _missing(f"the wheel {_WHEEL} {wheel.version} has no program at {server}")
    backends = _backends(home, cache_dir / f"{_WHEEL}-{wheel.version}-python{_PYTHON}")
    libraries = [str(wheel.locate_file("nvidia_pytriton.libs")), *_libpython()]
    return TritonRuntime(
        {
            "TARN_TRITON_BIN": str(server),
            "TARN_TRITON_BACKENDS": str(backends),
            "LD_LIBRARY_PATH": ":".join(libraries),
            # The stub takes the packages of the first `python3` it finds, which must be this one: NumPy is there.
            "PATH": f"{Path(sys.executable).parent}:{_DEFAULT_PATH}",
        }
    )


def _check_path(cache_dir: Path) -> None:
    try:
        check_plain(str(cache_dir))
    except RepositoryError as error:
        raise ClusterError(
            f"Triton's back ends cannot be put into {str(cache_dir)!r}: {error}; TARN_CACHE_DIR names it", retry=False
        ) from error


def _wheel() -> metadata.Distribution:
    try:
        return metadata.distribution(_WHEEL)
    except metadata.PackageNotFoundError as error:
        raise _missing(f"the wheel {_WHEEL} with the tritonserver program is not installed") from error


def _check_numpy() -> None:
    try:
        version = metadata.version("numpy")
    except metadata.PackageNotFoundError as error:
        raise _missing("numpy is not installed, and Triton's Python models need it") from error
    if version.split(".")[0] not in ("0", "1"):
        raise ClusterError(f'numpy {version} is too new for this Triton, whose models would fail: pip install "numpy<2"', retry=False)


def _missing(what: str) -> ClusterError:
    return ClusterError(f"{what}: {_FIX}", retry=False)


# --- the back-end directory


def _backends(home: Path, wanted: Path) -> Path:
    """`wanted`, holding `python/` with the back end and the stub."""
    sources = {file.name: file for file in _files(home)}
    if _complete(wanted, sources):
        return wanted
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=wanted.parent, prefix=".making-") as scratch:
            _fill(Path(scratch) / "new" / "python", sources)
            _put(Path(scratch), wanted, sources)
    except OSError as error:
        raise ClusterError(f"Triton's back ends cannot be put into {wanted}: {error.strerror}", retry=False) from error
    return wanted


def _files(home: Path) -> Iterator[Path]:
    stub = home / "python_backend_stubs" / _PYTHON / _STUB
    if not stub.is_file():
        versions = sorted((path.name for path in stub.parent.parent.glob("*")), key=lambda name: [int(part) for part in name.split(".")])
        raise ClusterError(
            f"the wheel {_WHEEL} has no stub for Python {_PYTHON}: run TARN with Python {' or '.join(versions[-4:]) or '3.11'}", retry=False
        )
    yield stub
    yield from (file for file in (home / "backends" / "python").iterdir() if file.is_file())


def _complete(wanted: Path, sources: Mapping[str, Path]) -> bool:
    """A cache may have been swept in part: each file must be there in full length."""
    try:
        return all((wanted / "python" / name).stat().st_size == source.stat().st_size for name, source in sources.items())
    except OSError:
        return False


def _fill(directory: Path, sources: Mapping[str, Path]) -> None:
    directory.mkdir(parents=True)
    for name, source in sources.items():
        shutil.copyfile(source, directory / name)
    (directory / _STUB).chmod(0o755)


def _put(scratch: Path, wanted: Path, sources: Mapping[str, Path]) -> None:
    """Renames the new directory into place; one that another process has put there meanwhile is as good."""
    if wanted.exists() and not _complete(wanted, sources):
        wanted.rename(scratch / "old")
    try:
        (scratch / "new").rename(wanted)
    except OSError:
        if not _complete(wanted, sources):
            raise


# --- the stub's libpython


def _libpython() -> list[str]:
    """The directory of the shared libpython that the stub is linked to; none where the loader finds it by itself."""
    name = f"libpython{_PYTHON}.so.1.0"
    places = [sysconfig.get_config_var("LIBDIR"), str(Path(sys.base_prefix) / "lib")]
    for place in places:
        if place and (Path(place) / name).is_file():
            return [place]
    try:
        ctypes.CDLL(name)
    except OSError as error:
        raise ClusterError(
            f"{name} is not on this machine, and Triton's Python models need it: install libpython{_PYTHON} (Debian), or a Python built"
            " with --enable-shared",
            retry=False,
        ) from error
    return []
