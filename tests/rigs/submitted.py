"""Applications that `tarn submit` brings to the rig's Hadoop: what nodes of one machine need, and what is left of an application.

The archive of these tests is empty but for its entry: the nodes' Python is the one that runs the tests, which has TARN. The true
archive is shown in tests/real/test_archive.py, and on a cluster by scripts/quickstart --yarn.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import psutil

from tarn_am.archive import parts
from tests.rigs.cluster import HadoopCluster
from tests.rigs.command import Ran, environment, tarn

SMALL = ("--runtime", "process", "--memory-mb", "256", "--vcores", "1", "--gpus", "0", "--am-memory-mb", "256", "--am-port", "0")


def bare_archive(path: Path) -> Path:
    """An archive whose packages are those of the interpreter that unpacks it."""
    tree = path.parent / "tree"
    for name in ("any", f"cp{sys.version_info[0]}{sys.version_info[1]}"):
        (tree / "lib" / name).mkdir(parents=True)
    shutil.copyfile(Path(parts.__file__).with_name("run.py"), tree / "run.py")
    with tarfile.open(path, "w:gz") as tar:
        tar.add(tree, ".")
    return path


def triton_directory(path: Path, environ: Mapping[str, str]) -> Path:
    """A directory with a program `tritonserver`, as a node with Triton has one on its PATH: the wheel's, told where its parts are."""
    path.mkdir()
    program = path / "tritonserver"
    settings = "".join(f"export {name}='{environ[name]}'\n" for name in ("LD_LIBRARY_PATH", "PATH") if name in environ)
    backends = f"--backend-directory={environ['TARN_TRITON_BACKENDS']}" if "TARN_TRITON_BACKENDS" in environ else ""
    program.write_text(f'#!/bin/sh\n{settings}exec {environ["TARN_TRITON_BIN"]} "$@" {backends}\n')
    program.chmod(0o755)
    return path


class Client:
    """A user's machine: a home, the cluster's configuration, and what every submission here has in common."""

    def __init__(self, home: Path, cluster: HadoopCluster, archive: Path, path: str = "/usr/bin:/bin", **environ: str) -> None:
        self.home, self.cluster = home, cluster
        self.environ = {
            "HADOOP_CONF_DIR": str(cluster.conf),
            "TARN_HOME": str(home / "tarn"),
            "TARN_ARCHIVE": str(archive),
            "TARN_PYTHON": sys.executable,
            "TARN_CONTAINER_PATH": path,
            "TARN_RM_PATIENCE_S": "2",
            **environ,
        }

    async def tarn(self, *arguments: str, **environ: str) -> Ran:
        return await tarn(self.home, *arguments, **{**self.environ, **environ})

    async def submit(self, *arguments: str, **environ: str) -> Ran:
        return await self.tarn("submit", *SMALL, *arguments, **environ)

    async def submitted(self, *arguments: str) -> str:
        """Submits; returns the application's id."""
        ran = await self.submit("--json", *arguments)
        assert ran.status == 0, ran.err
        return str(json.loads(ran.out)["application_id"])

    @property
    def full_environment(self) -> dict[str, str]:
        return environment(self.home, **self.environ)


def staged(cluster: HadoopCluster, home: str = "") -> list[str]:
    """Paths below the staging directory; empty when there is none."""
    base = f"{home or cluster.home}/.tarn"
    try:
        return sorted(status.path.removeprefix(base + "/") for status in cluster.hdfs.client.list_status(base, True))
    except FileNotFoundError:
        return []


def processes(application_id: str) -> list[psutil.Process]:
    """All that runs in containers of an application: they know it by the directory in which they were started."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if f"/appcache/{application_id}/" in process.cwd() + "/":
                found.append(process)
    return found


def masters(application_id: str) -> list[psutil.Process]:
    """The Application Masters of an application, not their keepers."""
    return [process for process in processes(application_id) if process.cmdline()[1:3] == ["-m", "tarn_am.am_process"]]
