"""A real Hadoop on loopback, from its Maven artifacts: one JVM a daemon, scratch directories, free ports, stopped by pid.

`Daemon`, `write_site` and `classpath` know nothing of HDFS: a ResourceManager or a NodeManager is started with the same three.
`Hdfs` is a NameNode and a DataNode with permissions on, over RPC and WebHDFS, and what tests do to them.
"""

from __future__ import annotations

import getpass
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

import hdfs_native
import pytest
from hdfs import InsecureClient

ROOT = Path(__file__).resolve().parents[2]
_DEADLINE_S = 120.0
_OPENED = ("lang", "util", "util.zip", "net", "io", "util.concurrent")
_JVM = [
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-Xss512k",
    "-Djava.net.preferIPv4Stack=true",
    "-Djava.security.egd=file:/dev/urandom",
    "-XX:-UsePerfData",
    *(f"--add-opens=java.base/java.{package}=ALL-UNNAMED" for package in _OPENED),
    *(f"--add-opens=java.base/sun.security.{package}=ALL-UNNAMED" for package in ("util", "x509")),
]
_LOG4J = """log4j.rootLogger=INFO,err
log4j.appender.err=org.apache.log4j.ConsoleAppender
log4j.appender.err.target=System.err
log4j.appender.err.layout=org.apache.log4j.PatternLayout
log4j.appender.err.layout.ConversionPattern=%d{ISO8601} %-5p %c{2} - %m%n
"""


class RigError(Exception):
    """A server of the rig did not do what it must; the text ends with the tail of its own log."""


def until(what: str, check: Callable[[], Any], deadline_s: float = _DEADLINE_S) -> Any:
    """Polls until `check` gives something true, and returns that; raises RigError naming `what`."""
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        found = check()
        if found:
            return found
        time.sleep(0.05)
    raise RigError(f"{what} did not come true within {deadline_s:g} s")


def free_port(address: str = "127.0.0.1") -> int:
    """A port that is free now and that no outgoing connection will be given, so that a daemon can come back to it."""
    for _ in range(1000):
        port = random.randint(15000, 31999)
        with socket.socket() as probe:
            try:
                probe.bind((address, port))
            except OSError:
                continue
            return port
    raise RigError(f"no free port on {address}")


def classpath(version: str = "") -> str:
    """Fetches the jars when they are not there yet, and returns Java's class path for them."""
    command = [str(ROOT / "scripts" / "artifacts"), *([version] if version else [])]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip() + "/*"


def write_site(path: Path, properties: Mapping[str, object]) -> None:
    """One of Hadoop's *-site.xml."""
    rows = (f"<property><name>{escape(name)}</name><value>{escape(str(value))}</value></property>" for name, value in properties.items())
    path.write_text("<configuration>\n" + "\n".join(rows) + "\n</configuration>\n")


def write_conf_dir(path: Path, sites: Mapping[str, Mapping[str, object]]) -> None:
    """A configuration directory; it also stands for the web pages that the jars lack."""
    for page in ("hdfs", "datanode", "static"):
        (path / "webapps" / page).mkdir(parents=True, exist_ok=True)
    (path / "log4j.properties").write_text(_LOG4J)
    for name, properties in sites.items():
        write_site(path / name, properties)


class Daemon:
    """One JVM. `start` returns at once; who starts it also waits for what shows that it serves."""

    def __init__(
        self, name: str, main: str, conf: Path, jars: str, scratch: Path, heap: str = "256m", *, options: Sequence[str] = ()
    ) -> None:
        self.name, self._main, self._conf, self._jars = name, main, conf, jars
        self._java = ["java", f"-Xmx{heap}", *_JVM, *options]
        self.log = scratch / f"{name}.log"
        self._scratch = scratch
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, *arguments: str) -> None:
        self._process = self._spawn(arguments)

    def run(self, *arguments: str) -> None:
        """For what ends by itself, such as a format."""
        if self._spawn(arguments).wait(_DEADLINE_S) != 0:
            raise RigError(f"{self.name} {' '.join(arguments)} failed\n{self.tail()}")

    def _spawn(self, arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        # What Java and Jetty put aside goes where the rest is, so that the end of the directory is the end of all.
        (self._scratch / "tmp").mkdir(exist_ok=True)
        places = [f"-Dhadoop.log.dir={self._scratch}", f"-Djava.io.tmpdir={self._scratch / 'tmp'}"]
        command = [*self._java, *places, "-cp", f"{self._conf}:{self._jars}", self._main]
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*command, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._scratch, start_new_session=True
            )

    def kill(self) -> None:
        """kill -9; returns when the process is gone."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        self._end(signal.SIGTERM)

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _end(self, number: int) -> None:
        if self._process is None or self._process.poll() is not None:
            return
        self._process.send_signal(number)
        try:
            self._process.wait(15)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(15)

    def tail(self, lines: int = 30) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def await_running(self, what: str, check: Callable[[], Any]) -> Any:
        """`until`, but an ended process ends the wait with its log."""

        def alive() -> Any:
            if not self.running:
                raise RigError(f"{self.name} ended before {what}\n{self.tail()}")
            return check()

        try:
            return until(f"{self.name}: {what}", alive)
        except RigError as error:
            raise RigError(f"{error}\n{self.tail()}") from error


def jmx(address: str, query: str) -> dict[str, Any]:
    """The first bean of a daemon's JMX page; empty while it does not answer."""
    try:
        with urllib.request.urlopen(f"http://{address}/jmx?qry={query}", timeout=5) as answer:
            beans = json.load(answer)["beans"]
    except (OSError, ValueError, KeyError):
        return {}
    return dict(beans[0]) if beans else {}


class Hdfs:
    """A NameNode and a DataNode. Blocks are small on request (`block_size` of `put`), so that many-block files need few bytes."""

    def __init__(self, scratch: Path, version: str = "") -> None:
        self.scratch, self.conf = scratch, scratch / "conf"
        self.rpc = f"127.0.0.1:{free_port()}"
        self.http = f"127.0.0.1:{free_port()}"
        self._core = {"fs.defaultFS": f"hdfs://{self.rpc}", "hadoop.tmp.dir": scratch / "tmp"}
        self._hdfs = {
            "dfs.namenode.rpc-address": self.rpc,
            "dfs.namenode.http-address": self.http,
            "dfs.namenode.name.dir": scratch / "name",
            "dfs.datanode.data.dir": scratch / "data",
            "dfs.datanode.address": "127.0.0.1:0",
            "dfs.datanode.http.address": "127.0.0.1:0",
            "dfs.datanode.ipc.address": "127.0.0.1:0",
            "dfs.datanode.hostname": "127.0.0.1",
            "dfs.namenode.datanode.registration.ip-hostname-check": "false",
            "dfs.replication": 1,
            "dfs.permissions.enabled": "true",
            "dfs.namenode.fs-limits.min-block-size": 4096,
            "dfs.namenode.safemode.extension": 0,
            "dfs.namenode.edits.noeditlogchannelflush": "true",
            "dfs.heartbeat.interval": 1,
            # Delegation tokens without Kerberos too, so that their calls are tried on the real NameNode.
            "dfs.namenode.delegation.token.always-use": "true",
        }
        write_conf_dir(self.conf, {"core-site.xml": self._core, "hdfs-site.xml": self._hdfs})
        jars = classpath(version)
        # Writes go over WebHDFS: the DataNode's Java client waits for a block to be reported before it asks for the next.
        self._writer = InsecureClient(f"http://{self.http}", user=getpass.getuser(), timeout=_DEADLINE_S)
        package = "org.apache.hadoop.hdfs.server"
        self.namenode = Daemon("namenode", f"{package}.namenode.NameNode", self.conf, jars, scratch)
        self.datanode = Daemon("datanode", f"{package}.datanode.DataNode", self.conf, jars, scratch)

    def start(self) -> None:
        self.begin()
        self.await_serving()

    def begin(self) -> None:
        """As `start`, without the wait."""
        self.namenode.run("-format", "-nonInteractive", "-force")
        self.namenode.start()
        self.datanode.start()

    def start_namenode(self) -> None:
        """And waits until files can be read again."""
        self.namenode.start()
        self.await_serving()

    def await_serving(self) -> None:
        self.namenode.await_running("is operational with its DataNode", self._serves)

    def _serves(self) -> bool:
        bean = jmx(self.http, "Hadoop:service=NameNode,name=FSNamesystemState")
        return bean.get("FSState") == "Operational" and int(bean.get("NumLiveDataNodes", 0)) >= 1

    def close(self) -> None:
        for daemon in (self.datanode, self.namenode):
            daemon.stop()

    @property
    def url(self) -> str:
        return f"hdfs://{self.rpc}"

    @property
    def client(self) -> hdfs_native.Client:
        """As the superuser: the user who runs the tests."""
        return hdfs_native.Client(self.url)

    def put(self, path: str, data: bytes, block_size: int = 1 << 20) -> str:
        """Writes a file (its parents too, an older one replaced) and returns the path."""
        self._writer.write(path, data=data, overwrite=True, blocksize=block_size)
        return path

    def put_tree(self, path: str, files: Mapping[str, bytes | None], block_size: int = 1 << 20) -> str:
        """Writes a directory of files; None makes an empty directory. Returns the URL of the directory."""
        self.client.mkdirs(path, 0o755, True)

        def one(item: tuple[str, bytes | None]) -> None:
            name, data = item
            if data is None:
                self.client.mkdirs(f"{path}/{name}", 0o755, True)
            else:
                self.put(f"{path}/{name}", data, block_size)

        # Side by side, because each writer waits a third of a second for the report of its last block.
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, files.items()))
        return f"{self.url}{path}"

    def put_directory(self, path: str, local: Path) -> str:
        """Copies a local directory up."""
        files = {str(file.relative_to(local)): file.read_bytes() if file.is_file() else None for file in sorted(local.rglob("*"))}
        return self.put_tree(path, files)

    def delete(self, path: str) -> None:
        self.client.delete(path, True)

    def chmod(self, path: str, mode: int) -> None:
        self.client.set_permission(path, mode)

    def chown(self, path: str, owner: str, group: str | None = None) -> None:
        self.client.set_owner(path, owner, group)

    def block_files(self) -> list[Path]:
        """The DataNode's own files of block data, newest last: for tests that damage one."""
        found = [file for file in (self.scratch / "data").rglob("blk_*") if file.suffix != ".meta"]
        return sorted(found, key=lambda file: file.stat().st_mtime_ns)


@pytest.fixture(scope="session")
def hdfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hdfs]:
    """The one HDFS of a test session. A test that stops a daemon starts it again."""
    scratch = tmp_path_factory.mktemp("hdfs")
    rig = Hdfs(scratch)
    try:
        rig.start()
        yield rig
    finally:
        rig.close()
        shutil.rmtree(scratch / "data", ignore_errors=True)
