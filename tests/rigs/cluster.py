"""A whole Hadoop on loopback: HDFS, YARN on it, and one configuration directory for clients. For tests, and for scripts/cluster.

Everything lies below one directory. `sweep` ends whatever belongs to it, also what another process started, and what the
containers of a dead NodeManager left: a daemon is known by the directory on its command line, a container by its working directory.
"""

from __future__ import annotations

import contextlib
import getpass
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from tests.rigs.hadoop import Daemon, Hdfs, write_conf_dir
from tests.rigs.yarn import Yarn

_ROUNDS = 20


class HadoopCluster:
    """`site` overrides yarn-site.xml of every daemon. `conf` is what HADOOP_CONF_DIR of a client names."""

    def __init__(
        self, scratch: Path, *, nodes: int = 1, version: str = "", gpus: int = 0, site: Mapping[str, object] | None = None
    ) -> None:
        self.scratch, self.conf = scratch, scratch / "conf"
        for part in ("hdfs", "yarn"):
            (scratch / part).mkdir(parents=True)
        self.hdfs = Hdfs(scratch / "hdfs", version)
        self.yarn = Yarn(scratch / "yarn", nodes=nodes, version=version, gpus=gpus, site=site, core={"fs.defaultFS": self.hdfs.url})
        write_conf_dir(self.conf, {})
        for name in ("core-site.xml", "yarn-site.xml"):
            shutil.copyfile(self.yarn.conf / name, self.conf / name)
        shutil.copyfile(self.hdfs.conf / "hdfs-site.xml", self.conf / "hdfs-site.xml")

    @property
    def daemons(self) -> list[Daemon]:
        return [self.hdfs.namenode, self.hdfs.datanode, self.yarn.resourcemanager, *self.yarn.nodemanagers]

    @property
    def home(self) -> str:
        """The home directory of the user who runs this."""
        return f"/user/{getpass.getuser()}"

    def start(self) -> None:
        """All at once, and waits until files can be written and every node takes containers."""
        self.yarn.begin()
        self.hdfs.begin()
        self.hdfs.await_serving()
        self.hdfs.client.mkdirs(self.home, 0o755, True)
        self.yarn.await_nodes(len(self.yarn.nodemanagers))

    def close(self) -> None:
        self.yarn.close()
        self.hdfs.close()
        sweep(self.scratch)

    def discard(self) -> None:
        """After `close`: what only takes room. The logs stay."""
        for part in ("hdfs/data", *(f"yarn/{node.name}/local" for node in self.yarn.nodemanagers)):
            shutil.rmtree(self.scratch / part, ignore_errors=True)


def belonging(directory: Path) -> list[psutil.Process]:
    """The daemons and containers of the cluster in `directory`, NodeManagers first."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            rank = _rank(process, str(directory))
            if rank is not None:
                found.append((rank, process))
    return [process for _, process in sorted(found, key=lambda pair: pair[0])]


def _rank(process: psutil.Process, directory: str) -> int | None:
    words = process.cmdline()
    if words and any(word.startswith(f"-Dhadoop.log.dir={directory}/") for word in words):
        return 0 if any(word.endswith(".NodeManager") for word in words) else 2
    return 1 if process.cwd().startswith(f"{directory}/yarn/nodemanager") else None


def sweep(directory: Path) -> int:
    """Kills all that belongs to the cluster in `directory`, and returns when it is gone; tells how many there were."""
    ended: set[int] = set()
    for _ in range(_ROUNDS):
        left = belonging(directory)
        if not left:
            break
        for process in left:
            ended.add(process.pid)
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(left, timeout=5)
    return len(ended)


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HadoopCluster]:
    """The one whole Hadoop of a test session: two nodes with a GPU each. A test that stops a daemon starts it again."""
    scratch = tmp_path_factory.mktemp("cluster")
    rig = HadoopCluster(scratch, nodes=2, gpus=1)
    try:
        rig.start()
        yield rig
    finally:
        rig.close()
        rig.discard()
