"""Application Masters on the rig's YARN: unmanaged ones in the test's own process, and one in a container of its own."""

from __future__ import annotations

import getpass
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from tarn_am.cluster.yarn import unmanaged
from tarn_am.cluster.yarn.cluster import YarnCluster
from tarn_am.cluster.yarn.settings import Runtime, YarnSettings
from tarn_am.cluster.yarn.unmanaged import Unmanaged
from tarn_am.hadoop.conf import RM_PRINCIPAL, login
from tarn_am.hadoop.ipc.client import HadoopClient, Patience
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.pb import yarn_pb2, yarn_services_pb2
from tarn_am.hadoop.protocols import APPLICATION_CLIENT
from tarn_am.ports import Allocated, AskRefused, AskWaits, ClusterEvent, Completed, LaunchSpec
from tarn_common.credentials import Credentials, encode
from tarn_common.hadoop_conf import HadoopConf, read
from tarn_common.ids import ApplicationId, ContainerId, make_application_id
from tests.rigs.hadoop import ROOT
from tests.rigs.wait import eventually
from tests.rigs.yarn import Yarn

ME = getpass.getuser()
SECRET = "only-in-the-credentials-file"
PROGRAM = (sys.executable, str(ROOT / "tests/rigs/container_program.py"))
MASTER = "tests.rigs.yarn_master_program"
NODES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
_SITE = {
    "yarn.resourcemanager.recovery.enabled": "true",
    "yarn.resourcemanager.store.class": "org.apache.hadoop.yarn.server.resourcemanager.recovery.FileSystemRMStateStore",
    "yarn.nm.liveness-monitor.expiry-interval-ms": 6000,
    "yarn.resourcemanager.nm.liveness-monitor.interval-ms": 1000,
    "yarn.resourcemanager.placement-constraints.handler": "scheduler",
}


def settings(**changes: Any) -> YarnSettings:
    chosen: dict[str, Any] = {"memory_mb": 128, "vcores": 1, "gpus": 0, "runtime": Runtime.PROCESS, "command": PROGRAM, **changes}
    return YarnSettings(**chosen)


def spec(out: Path, **environ: str) -> LaunchSpec:
    return LaunchSpec({"TARN_OUT": str(out), **environ}, encode(Credentials(secrets={"tarn.agent.secret": SECRET.encode()})))


class Heard:
    """A sink that remembers, and what is asked of it."""

    def __init__(self) -> None:
        self.events: list[ClusterEvent] = []

    def allocated(self) -> dict[str, Allocated]:
        return {event.ask_id: event for event in self.events if isinstance(event, Allocated)}

    def completed(self) -> dict[ContainerId, Completed]:
        return {event.container_id: event for event in self.events if isinstance(event, Completed)}

    def reasons(self) -> dict[str, str]:
        return {event.ask_id: event.reason for event in self.events if isinstance(event, AskWaits | AskRefused)}


class Master:
    """One application with an unmanaged AM on the rig, and its successive `YarnCluster`s."""

    def __init__(self, yarn: Yarn, conf: HadoopConf, rm: HadoopClient, app: Unmanaged, out: Path) -> None:
        self.yarn, self.conf, self.rm, self.app, self.out = yarn, conf, rm, app, out
        self.heard = Heard()
        self.found: list[ContainerId] = []
        self._open: list[YarnCluster] = []

    async def begin(self, **changes: Any) -> YarnCluster:
        cluster = self.make(**changes)
        await self.adopt(cluster)
        return cluster

    def make(self, memory: Path | None = None, **changes: Any) -> YarnCluster:
        self.heard = Heard()
        proof = login(self.conf, ME, RM_PRINCIPAL, self.app.token)
        return YarnCluster(
            settings(**changes),
            self.conf,
            proof,
            self.app.application_id,
            self.app.attempt_id,
            client_login=Login(ME),
            memory=memory,
        )

    async def adopt(self, cluster: YarnCluster) -> None:
        self._open.append(cluster)
        self.found = [running.container_id for running in await cluster.start(self.heard.events.append)]

    async def allocated(self, cluster: YarnCluster, *asks: str) -> list[Allocated]:
        for ask in asks:
            await cluster.request(ask)
        await eventually(lambda: set(asks) <= set(self.heard.allocated()), f"{asks} are answered")
        return [self.heard.allocated()[ask] for ask in asks]

    async def running(self, cluster: YarnCluster, *asks: str, **environ: str) -> list[Allocated]:
        found = await self.allocated(cluster, *asks)
        for each in found:
            await cluster.launch(each.container_id, spec(self.out, **environ))
            await self.said(each.container_id)
        return found

    async def said(self, container: ContainerId) -> dict[str, Any]:
        """What the container's program was given."""
        file = self.out / f"{container}.json"
        await eventually(file.exists, f"{container} runs")
        return dict(json.loads(file.read_text()))

    async def completed(self, container: ContainerId) -> Completed:
        await eventually(lambda: container in self.heard.completed(), f"the end of {container} is told")
        return self.heard.completed()[container]

    async def close(self) -> None:
        for cluster in self._open:
            await cluster.close()
        await unmanaged.kill(self.rm, self.app.application_id)


@asynccontextmanager
async def master_on(yarn: Yarn, out: Path) -> AsyncIterator[Master]:
    out.mkdir(exist_ok=True)
    conf = read(yarn.conf, {})
    async with HadoopClient([yarn.client], Login(ME), patience=Patience(give_up_s=60.0)) as rm:
        master = Master(yarn, conf, rm, await unmanaged.submit(rm, "a test's own master"), out)
        try:
            yield master
        finally:
            await master.close()


async def submit_managed(rm: HadoopClient, yarn: Yarn, out: Path) -> ApplicationId:
    """An application whose AM runs in a container: tests/rigs/yarn_master_program.py."""
    new = await rm.call(
        APPLICATION_CLIENT,
        "getNewApplication",
        yarn_services_pb2.GetNewApplicationRequestProto(),
        yarn_services_pb2.GetNewApplicationResponseProto,
    )
    environ = {"PYTHONPATH": str(ROOT), "HADOOP_CONF_DIR": str(yarn.conf), "TARN_OUT": str(out), "PATH": os.environ["PATH"]}
    context = yarn_pb2.ApplicationSubmissionContextProto(
        application_id=new.application_id,
        application_name="a master in a container",
        keep_containers_across_application_attempts=True,
        resource=yarn_pb2.ResourceProto(memory=256, virtual_cores=1),
        am_container_spec=yarn_pb2.ContainerLaunchContextProto(
            command=[f"exec {sys.executable} -m {MASTER} 1><LOG_DIR>/stdout 2><LOG_DIR>/stderr"],
            environment=[yarn_pb2.StringStringMapProto(key=key, value=value) for key, value in environ.items()],
        ),
    )
    await rm.call(
        APPLICATION_CLIENT,
        "submitApplication",
        yarn_services_pb2.SubmitApplicationRequestProto(application_submission_context=context),
        yarn_services_pb2.SubmitApplicationResponseProto,
    )
    return make_application_id(new.application_id.cluster_timestamp, new.application_id.id)


def notes(out: Path, name: str) -> dict[str, Any] | None:
    """What a master in a container wrote down under that name; None before it did."""
    file = out / f"{name}.json"
    return dict(json.loads(file.read_text())) if file.exists() else None


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


def heard_of(yarn: Yarn, containers: list[str]) -> bool:
    """Whether the ResourceManager knows them to run: until a NodeManager's next heartbeat it knows only that it gave them."""
    log = yarn.resourcemanager.log.read_text(errors="replace")
    return all(f"{container} Container Transitioned from ACQUIRED to RUNNING" in log for container in containers)


@pytest.fixture(scope="session")
def yarn3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Yarn]:
    """The one YARN with three nodes and a ResourceManager that remembers. A test that stops a daemon starts it again."""
    scratch = tmp_path_factory.mktemp("yarn3")
    site = {**_SITE, "yarn.resourcemanager.fs.state-store.uri": f"file://{scratch}/store"}
    rig = Yarn(scratch, nodes=3, site=site)
    try:
        rig.start()
        yield rig
    finally:
        rig.close()
