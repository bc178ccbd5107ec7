"""A real ZooKeeper server: the Debian package's classes in a JVM of the test's own, on a free loopback port, in a scratch directory.

`zookeeper` is one server for the whole session, for tests that only use it; `own_zookeeper` is one for a single test that
stops or kills it. `zk_path` names a directory of znodes that no other test uses. Sessions may be as short as one second.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

_JARS = Path("/usr/share/java")
_WANTED = ("zookeeper.jar", "slf4j-log4j12.jar", "log4j-1.2.jar")
_PATIENCE_S = 60.0
_JVM = (
    "-Xmx96m",
    "-Xshare:auto",
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Dzookeeper.forceSync=no",
    "-Dzookeeper.preAllocSize=64",
    "-Dzookeeper.admin.enableServer=false",
)
_LOG4J = """\
log4j.rootLogger=INFO, file
log4j.appender.file=org.apache.log4j.FileAppender
log4j.appender.file.File={log}
log4j.appender.file.layout=org.apache.log4j.PatternLayout
log4j.appender.file.layout.ConversionPattern=%d %p %c{{1}}: %m%n
"""
_CONFIG = """\
tickTime=500
minSessionTimeout=1000
maxSessionTimeout=60000
dataDir={data}
clientPort={port}
clientPortAddress=127.0.0.1
maxClientCnxns=0
4lw.commands.whitelist=*
admin.enableServer=false
{more}
"""


def free_port() -> int:
    """A TCP port of the loopback interface that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class ZooKeeperServer:
    """One server. `stop`, `kill` and `start` keep the data directory and the port, as a restart of a real one does."""

    def __init__(self, directory: Path, *, config: str = "", jvm: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.port = free_port()
        self._config, self._jvm = config, jvm
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def connect(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Returns when the server serves; a port that was taken meanwhile is changed at the first start only."""
        missing = [name for name in _WANTED if not (_JARS / name).exists()]
        if missing:
            pytest.fail(f"{_JARS} lacks {', '.join(missing)}: apt-get install zookeeper")
        first = not (self.directory / "conf").exists()
        for _ in range(3 if first else 1):
            self._launch()
            if self._serves():
                return
            self.kill()
            if first:
                self.port = free_port()
        pytest.fail(f"ZooKeeper did not start; the end of its log:\n{self.log()[-3000:]}")

    def stop(self) -> None:
        """An ordered end: TERM."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(_PATIENCE_S)
            self._process = None

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait(_PATIENCE_S)
            self._process = None

    def signal(self, number: int) -> None:
        """SIGSTOP hangs it: the kernel still accepts connections, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(number)

    def forget(self) -> None:
        """Loses all data; only while it does not run."""
        assert not self.running
        shutil.rmtree(self.directory / "data")

    def command(self, word: str) -> str:
        """The answer to a four-letter word; empty when the server does not answer."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=5.0) as link:
            link.sendall(word.encode())
            return b"".join(iter(lambda: link.recv(65536), b"")).decode(errors="replace")
        return ""

    def log(self) -> str:
        path = self.directory / "zookeeper.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def _launch(self) -> None:
        conf, data = self.directory / "conf", self.directory / "data"
        conf.mkdir(parents=True, exist_ok=True)
        data.mkdir(exist_ok=True)
        (conf / "log4j.properties").write_text(_LOG4J.format(log=self.directory / "zookeeper.log"))
        (conf / "zoo.cfg").write_text(_CONFIG.format(data=data, port=self.port, more=self._config))
        classpath = ":".join([str(conf), *(str(_JARS / name) for name in _WANTED)])  # the first names the rest
        command = ["java", *_JVM, *self._jvm, "-cp", classpath, "org.apache.zookeeper.server.ZooKeeperServerMain", str(conf / "zoo.cfg")]
        with (self.directory / "stdout").open("ab") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL, cwd=self.directory)

    def _serves(self) -> bool:
        deadline = time.monotonic() + _PATIENCE_S
        while time.monotonic() < deadline and self.running:
            if "Mode: standalone" in self.command("srvr"):
                return True
            time.sleep(0.05)
        return False


@pytest.fixture(scope="session")
def zookeeper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ZooKeeperServer]:
    """The session's server: leave it running."""
    server = ZooKeeperServer(tmp_path_factory.mktemp("zookeeper"))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def own_zookeeper(tmp_path: Path) -> Iterator[ZooKeeperServer]:
    """A server for one test that stops it."""
    server = ZooKeeperServer(tmp_path / "own-zookeeper")
    server.start()
    yield server
    server.kill()


@pytest.fixture
def zk_path() -> str:
    """A fresh place for instances; the AM's znodes of it are beside, in `am/`."""
    return f"/test-{uuid.uuid4().hex[:12]}/triton/instances"
