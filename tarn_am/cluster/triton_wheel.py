"""The real tritonserver inside the `nvidia-pytriton` wheel, made ready for one machine without Docker.

The wheel keeps one stub of the Python back end for each version of Python beside the back end; tritonserver wants the right
one in the back end's directory. So a directory is built once per wheel and Python, complete or absent, in a cache.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tarn_am.ports import ClusterError

_STUB = "triton_python_backend_stub"
_INSTALL = 'install it with: pip install --no-deps nvidia-pytriton==0.7.0 && pip install "numpy<2"'


@dataclass(frozen=True)
class TritonRuntime:
    """What a container's environment needs so that its agent can start this tritonserver."""

    environ: Mapping[str, str]


def prepare(cache_dir: Path) -> TritonRuntime:
    """Finds the wheel of this interpreter and builds the back ends' directory below `cache_dir`. Raises ClusterError with the fix."""
    wheel = _wheel()
    _check_numpy()
    version = importlib.metadata.version("nvidia-pytriton")
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    backends = _backends(wheel, cache_dir / f"triton-{version}-python{python}", python)
    libraries = (wheel.parent.parent / "nvidia_pytriton.libs", Path(sysconfig.get_config_var("LIBDIR") or "/usr/lib"))
    path = (str(Path(sys.executable).parent), "/usr/local/bin", "/usr/bin", "/bin")
    return TritonRuntime(
        {
            "TARN_TRITON_BIN": str(wheel / "bin" / "tritonserver"),
            "TARN_TRITON_BACKENDS": str(backends),
            "LD_LIBRARY_PATH": ":".join(str(library) for library in libraries),
            "PATH": ":".join(path),
        }
    )


def _wheel() -> Path:
    found = importlib.util.find_spec("pytriton")
    root = Path(found.origin).parent / "tritonserver" if found is not None and found.origin else None
    if root is None or not (root / "bin" / "tritonserver").is_file():
        raise ClusterError(f"there is no tritonserver for {sys.executable}: {_INSTALL}", retry=False)
    return root


def _check_numpy() -> None:
    try:
        version = importlib.metadata.version("numpy")
    except importlib.metadata.PackageNotFoundError:
        raise ClusterError(f"Triton's Python back end needs numpy, which {sys.executable} lacks: {_INSTALL}", retry=False) from None
    if int(version.split(".")[0]) >= 2:
        raise ClusterError(f"numpy {version} does not work with this Triton, every inference would fail: {_INSTALL}", retry=False)


def _backends(wheel: Path, wanted: Path, python: str) -> Path:
    """The finished directory; built beside its place and renamed, so that it is whole or not there."""
    if wanted.is_dir():
        return wanted
    stub = wheel / "python_backend_stubs" / python / _STUB
    if not stub.is_file():
        have = sorted(directory.name for directory in (wheel / "python_backend_stubs").iterdir())
        raise ClusterError(f"the Triton wheel has no stub for Python {python}; run TARN with one of {', '.join(have)}", retry=False)
    try:
        wanted.parent.mkdir(parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=".building-", dir=wanted.parent))
        shutil.copytree(wheel / "backends" / "python", building / "python")
        shutil.copy2(stub, building / "python" / _STUB)
        building.chmod(0o755)
        try:
            building.rename(wanted)
        except OSError:
            # Another start of ours was first; a directory that is not empty cannot be replaced.
            shutil.rmtree(building, ignore_errors=True)
            if not wanted.is_dir():
                raise
    except OSError as error:
        raise ClusterError(f"cannot build Triton's back ends in {wanted}: {os.strerror(error.errno or 0)}", retry=False) from error
    return wanted
