"""What every cluster keeps, whatever stands behind it: run on the one in memory, on this machine's own, and on a real YARN."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol

import pytest

from tarn_am.cluster.local import LocalCluster
from tarn_am.cluster.yarn.cluster import YarnCluster
from tarn_am.ports import Allocated, Cluster, ClusterError, Completed, LaunchSpec
from tarn_common.ids import ContainerId
from tests.rigs.fake_cluster import FakeCluster, FakeWorld
from tests.rigs.local_containers import Heard, local_cluster
from tests.rigs.wait import eventually
from tests.rigs.yarn import Yarn
from tests.rigs.yarn_masters import Master, master_on, spec

NOBODY = ContainerId("container_1700000000000_0001_01_000999")
STOPPED = (143, -105)
"""As a process tells it, and as YARN does."""


class World(Protocol):
    """What outlives an Application Master, and how one of its clusters is made and let go."""

    spec: LaunchSpec

    def make(self) -> Cluster: ...

    async def up(self, cluster: Cluster, container: ContainerId) -> None:
        """Returns when the container's program has had its first lines: before them it has no say in how it ends."""

    async def leave(self, cluster: Cluster) -> None:
        """The master goes, what runs stays."""


class InMemory:
    spec = LaunchSpec({"TARN_NAME": "x"}, b"credentials")

    def __init__(self) -> None:
        self._world = FakeWorld()

    def make(self) -> Cluster:
        return FakeCluster(self._world)

    async def up(self, cluster: Cluster, container: ContainerId) -> None:
        return

    async def leave(self, cluster: Cluster) -> None:
        await cluster.finish(True, "the master goes, the container stays")


class OnThisMachine(InMemory):
    def __init__(self, root: Path) -> None:
        self._root = root

    def make(self) -> Cluster:
        return local_cluster(self._root)

    async def up(self, cluster: Cluster, container: ContainerId) -> None:
        assert isinstance(cluster, LocalCluster)
        await eventually((cluster._place(container).run / "up").exists)


class OnYarn:
    def __init__(self, master: Master) -> None:
        self._master = master
        self.spec = spec(master.out, TARN_NAME="x")

    def make(self) -> Cluster:
        return self._master.make()

    async def up(self, cluster: Cluster, container: ContainerId) -> None:
        await self._master.said(container)

    async def leave(self, cluster: Cluster) -> None:
        # To finish is to unregister there, and ends all that runs.
        assert isinstance(cluster, YarnCluster)
        await cluster.close()


class Stage:
    """Clusters over one and the same world, as successive Application Masters have them."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.heard = Heard()
        self.started: list[Cluster] = []

    async def begin(self) -> Cluster:
        cluster = self.world.make()
        self.heard = Heard()
        self.found = [running.container_id for running in await cluster.start(self.heard.sink)]
        self.started.append(cluster)
        return cluster

    async def allocated(self, cluster: Cluster, ask: str) -> ContainerId:
        await cluster.request(ask)
        await eventually(lambda: any(isinstance(event, Allocated) and event.ask_id == ask for event in self.heard.events))
        return next(event.container_id for event in self.heard.events if isinstance(event, Allocated) and event.ask_id == ask)

    async def running(self, cluster: Cluster, ask: str) -> ContainerId:
        container = await self.allocated(cluster, ask)
        await cluster.launch(container, self.world.spec)
        await self.world.up(cluster, container)
        return container

    async def leave(self, cluster: Cluster) -> None:
        self.started.remove(cluster)
        await self.world.leave(cluster)

    async def completed(self, container: ContainerId) -> Completed:
        await eventually(lambda: any(isinstance(event, Completed) and event.container_id == container for event in self.heard.events))
        return next(event for event in self.heard.events if isinstance(event, Completed) and event.container_id == container)


@asynccontextmanager
async def world_of(kind: str, request: pytest.FixtureRequest, path: Path) -> AsyncIterator[World]:
    if kind == "in memory":
        yield InMemory()
    elif kind == "local":
        yield OnThisMachine(path)
    else:
        yarn: Yarn = request.getfixturevalue("yarn3")
        async with master_on(yarn, path / "out") as master:
            yield OnYarn(master)


@pytest.fixture(params=["in memory", "local", pytest.param("yarn", marks=pytest.mark.real)])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    async with world_of(request.param, request, tmp_path) as world:
        stage = Stage(world)
        yield stage
        for cluster in list(stage.started):
            await stage.leave(cluster)
        last = await stage.begin()
        for container in stage.found:
            await last.stop(container)
            await stage.completed(container)
        await last.finish(True, "the test is over")


async def test_an_ask_is_answered_under_its_own_name(stage: Stage) -> None:
    cluster = await stage.begin()
    assert stage.found == []
    first, second = await stage.allocated(cluster, "a"), await stage.allocated(cluster, "b")
    assert first != second


async def test_a_cancelled_ask_is_not_answered(stage: Stage) -> None:
    cluster = await stage.begin()
    await cluster.request("a")
    await cluster.cancel("a")
    await stage.allocated(cluster, "b")
    assert [event.ask_id for event in stage.heard.events if isinstance(event, Allocated)] == ["b"]


async def test_a_launch_twice_is_once(stage: Stage) -> None:
    cluster = await stage.begin()
    container = await stage.running(cluster, "a")
    await cluster.launch(container, stage.world.spec)
    await cluster.stop(container)
    await stage.completed(container)
    await asyncio.sleep(0)
    assert sum(isinstance(event, Completed) for event in stage.heard.events) == 1


async def test_a_stop_is_told_as_an_end_and_a_second_stop_does_nothing(stage: Stage) -> None:
    cluster = await stage.begin()
    container = await stage.running(cluster, "a")
    await cluster.stop(container)
    await cluster.stop(container)
    assert (await stage.completed(container)).exit_status in STOPPED
    await cluster.stop(container)
    await cluster.stop(NOBODY)
    await stage.allocated(cluster, "b")
    assert sum(isinstance(event, Completed) for event in stage.heard.events) == 1


async def test_a_released_allocation_is_heard_of_no_more(stage: Stage) -> None:
    cluster = await stage.begin()
    container = await stage.allocated(cluster, "a")
    await cluster.release(container)
    await cluster.release(NOBODY)
    with pytest.raises(ClusterError):
        await cluster.launch(container, stage.world.spec)
    await stage.allocated(cluster, "b")
    assert not any(isinstance(event, Completed) for event in stage.heard.events)


async def test_what_was_not_allocated_cannot_be_launched(stage: Stage) -> None:
    cluster = await stage.begin()
    with pytest.raises(ClusterError, match="was not allocated"):
        await cluster.launch(NOBODY, stage.world.spec)


async def test_what_runs_outlives_its_application_master_and_is_found(stage: Stage) -> None:
    first = await stage.begin()
    container = await stage.running(first, "a")
    await stage.leave(first)
    second = await stage.begin()
    assert stage.found == [container]
    await second.launch(container, stage.world.spec)
    await second.stop(container)
    assert (await stage.completed(container)).exit_status in STOPPED
    await stage.leave(second)
    await stage.begin()
    assert stage.found == []


async def test_no_id_is_given_twice(stage: Stage) -> None:
    first = await stage.begin()
    used = {await stage.allocated(first, "a"), await stage.allocated(first, "b")}
    await stage.leave(first)
    second = await stage.begin()
    assert await stage.allocated(second, "a") not in used
