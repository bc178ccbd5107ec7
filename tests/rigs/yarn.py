"""A real YARN on loopback: one ResourceManager and NodeManagers that call themselves 127.0.0.2, 127.0.0.3…, each a JVM of its own.

It needs no HDFS (`fs.defaultFS=file:///`: the NodeManagers localise from file: URLs). Every SASL protection is offered, so that a
client may pick any. Waiting times of YARN that only slow a test are set short.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tarn_common.endpoint import HostPort
from tests.rigs.hadoop import Daemon, classpath, free_port, write_conf_dir

_SERVER = "org.apache.hadoop.yarn.server"
_SCHEDULER = {
    "yarn.scheduler.capacity.root.queues": "default",
    "yarn.scheduler.capacity.root.default.capacity": 100,
    "yarn.scheduler.capacity.root.default.user-limit-factor": 10,
    "yarn.scheduler.capacity.maximum-am-resource-percent": 1,
    "yarn.scheduler.capacity.node-locality-delay": 0,
    # Without it only memory counts: neither vcores nor GPUs would be enforced.
    "yarn.scheduler.capacity.resource-calculator": "org.apache.hadoop.yarn.util.resource.DominantResourceCalculator",
}


class Yarn:
    """`site` overrides yarn-site.xml of every daemon, `core` core-site.xml; `options` go to their JVMs. `start` starts `nodes` NodeManagers.

    `gpus` of each node are counted by the scheduler as `yarn.io/gpu`; no device stands behind them.
    """

    def __init__(
        self,
        scratch: Path,
        *,
        nodes: int = 1,
        site: Mapping[str, object] | None = None,
        core: Mapping[str, object] | None = None,
        options: Sequence[str] = (),
        version: str = "",
        gpus: int = 0,
    ) -> None:
        self.scratch, self._gpus = scratch, gpus
        ports = {name: free_port() for name in ("client", "scheduler", "tracker", "admin", "web")}
        self.client, self.scheduler, self.admin, self.web = (
            HostPort("127.0.0.1", ports[name]) for name in ("client", "scheduler", "admin", "web")
        )
        self._core = {
            "fs.defaultFS": "file:///",
            "hadoop.tmp.dir": scratch / "tmp",
            "hadoop.rpc.protection": "authentication,integrity,privacy",
            **(core or {}),
        }
        self._site: dict[str, object] = {
            "yarn.resourcemanager.hostname": "127.0.0.1",
            "yarn.resourcemanager.address": self.client,
            "yarn.resourcemanager.scheduler.address": self.scheduler,
            "yarn.resourcemanager.admin.address": self.admin,
            "yarn.resourcemanager.webapp.address": self.web,
            "yarn.resourcemanager.resource-tracker.address": f"127.0.0.1:{ports['tracker']}",
            "yarn.resourcemanager.connect.retry-interval.ms": 500,
            "yarn.resourcemanager.work-preserving-recovery.scheduling-wait-ms": 500,
            "yarn.scheduler.minimum-allocation-mb": 64,
            "yarn.node-attribute.fs-store.root-dir": f"file://{scratch}/node-attributes",
            "yarn.node-labels.fs-store.root-dir": f"file://{scratch}/node-labels",
            "yarn.nodemanager.resource.memory-mb": 2048,
            "yarn.nodemanager.resource.cpu-vcores": 8,
            "yarn.nodemanager.pmem-check-enabled": "false",
            "yarn.nodemanager.vmem-check-enabled": "false",
            "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": "99.9",
            **(site or {}),
        }
        self._jars, self._options = classpath(version), options
        conf = self._conf_dir("conf", {})
        self.conf = conf
        main = f"{_SERVER}.resourcemanager.ResourceManager"
        self.resourcemanager = Daemon("resourcemanager", main, conf, self._jars, scratch, options=options)
        self.nodemanagers = [self._nodemanager(number) for number in range(nodes)]

    def _conf_dir(self, name: str, site: Mapping[str, object]) -> Path:
        path = self.scratch / name
        sites: dict[str, Mapping[str, object]] = {
            "core-site.xml": self._core,
            "yarn-site.xml": {**self._site, **site},
            "capacity-scheduler.xml": _SCHEDULER,
        }
        if self._gpus:
            sites["resource-types.xml"] = {"yarn.resource-types": "yarn.io/gpu"}
            sites["node-resources.xml"] = {"yarn.nodemanager.resource-type.yarn.io/gpu": self._gpus}
        write_conf_dir(path, sites)
        return path

    def _nodemanager(self, number: int) -> Daemon:
        name, host = f"nodemanager{number}", f"127.0.0.{number + 2}"
        home = self.scratch / name
        site = {
            "yarn.nodemanager.hostname": host,
            "yarn.nodemanager.bind-host": host,
            # Fixed, so that a NodeManager that comes back is the same node.
            "yarn.nodemanager.address": f"{host}:{free_port(host)}",
            "yarn.nodemanager.localizer.address": f"{host}:{free_port(host)}",
            "yarn.nodemanager.webapp.address": f"{host}:{free_port(host)}",
            "yarn.nodemanager.local-dirs": home / "local",
            "yarn.nodemanager.log-dirs": home / "logs",
        }
        main = f"{_SERVER}.nodemanager.NodeManager"
        return Daemon(name, main, self._conf_dir(f"conf-{name}", site), self._jars, self.scratch, "192m", options=self._options)

    def start(self) -> None:
        """All at once, and waits until the ResourceManager has every node."""
        self.begin()
        self.await_nodes(len(self.nodemanagers))

    def begin(self) -> None:
        """As `start`, without the wait."""
        self.resourcemanager.start()
        for node in self.nodemanagers:
            node.start()

    def reconfigure(self, site: Mapping[str, object]) -> None:
        """For the ResourceManager's next start, and for clients that read `conf` after this."""
        self._site = {**self._site, **site}
        self._conf_dir("conf", {})

    def start_resourcemanager(self) -> None:
        """And waits until it answers and has its nodes again."""
        self.resourcemanager.start()
        self.await_nodes(len(self.nodemanagers))

    def await_nodes(self, count: int) -> None:
        self.resourcemanager.await_running(f"has {count} nodes", lambda: self._metrics().get("activeNodes", -1) == count)

    def _metrics(self) -> dict[str, Any]:
        try:
            with urllib.request.urlopen(f"http://{self.web}/ws/v1/cluster/metrics", timeout=5) as answer:
                return dict(json.load(answer)["clusterMetrics"])
        except (OSError, ValueError, KeyError):
            return {}

    def close(self) -> None:
        """Hard, and with the containers: a NodeManager that is asked to end takes ten seconds and leaves what hangs."""
        for node in self.nodemanagers:
            containers = psutil.Process(node.pid).children(recursive=True) if node.running else []
            node.kill()
            for process in containers:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.resourcemanager.kill()


@pytest.fixture(scope="session")
def yarn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yarn]:
    """The one YARN of a test session, with one node. A test that stops a daemon starts it again."""
    scratch = tmp_path_factory.mktemp("yarn")
    rig = Yarn(scratch)
    try:
        rig.start()
        yield rig
    finally:
        rig.close()
        shutil.rmtree(scratch / "nodemanager0" / "local", ignore_errors=True)
