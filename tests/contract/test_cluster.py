"""What every cluster keeps, whatever stands behind it: run on the one in memory and on this machine's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from tarn_am.cluster.local import LocalCluster
from tarn_am.ports import Allocated, Cluster, ClusterError, Completed, LaunchSpec
from tarn_common.ids import ContainerId
from tests.rigs.fake_cluster import FakeCluster, FakeWorld
from tests.rigs.local_containers import Heard, local_cluster
from tests.rigs.wait import eventually

SPEC = LaunchSpec({"TARN_NAME": "x"}, b"credentials")
NOBODY = ContainerId("container_1700000000000_0001_01_000999")


class Stage:
    """Clusters over one and the same world, as successive Application Masters have them."""

    def __init__(self, make: Callable[[], Cluster]) -> None:
        self._make = make
        self.heard = Heard()
        self.started: list[Cluster] = []

    async def begin(self) -> Cluster:
        cluster = self._make()
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
        await cluster.launch(container, SPEC)
        if isinstance(cluster, LocalCluster):
            # A program that is stopped before its first line has no say in how it ends.
            await eventually((cluster._place(container).run / "up").exists)
        return container

    async def completed(self, container: ContainerId) -> Completed:
        await eventually(lambda: any(isinstance(event, Completed) and event.container_id == container for event in self.heard.events))
        return next(event for event in self.heard.events if isinstance(event, Completed) and event.container_id == container)


@pytest.fixture(params=["in memory", "local"])
async def stage(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Stage]:
    world = FakeWorld()
    stage = Stage((lambda: FakeCluster(world)) if request.param == "in memory" else (lambda: local_cluster(tmp_path)))
    yield stage
    last = await stage.begin()
    for container in stage.found:
        await last.stop(container)
        await stage.completed(container)
    for cluster in stage.started:
        await cluster.finish(True, "the test is over")


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
    await cluster.launch(container, SPEC)
    await cluster.stop(container)
    await stage.completed(container)
    await asyncio.sleep(0)
    assert sum(isinstance(event, Completed) for event in stage.heard.events) == 1


async def test_a_stop_is_told_as_an_end_and_a_second_stop_does_nothing(stage: Stage) -> None:
    cluster = await stage.begin()
    container = await stage.running(cluster, "a")
    await cluster.stop(container)
    await cluster.stop(container)
    assert (await stage.completed(container)).exit_status == 143
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
        await cluster.launch(container, SPEC)
    await stage.allocated(cluster, "b")
    assert not any(isinstance(event, Completed) for event in stage.heard.events)


async def test_what_was_not_allocated_cannot_be_launched(stage: Stage) -> None:
    cluster = await stage.begin()
    with pytest.raises(ClusterError, match="was not allocated"):
        await cluster.launch(NOBODY, SPEC)


async def test_what_runs_outlives_its_application_master_and_is_found(stage: Stage) -> None:
    first = await stage.begin()
    container = await stage.running(first, "a")
    await first.finish(True, "the master goes, the container stays")
    second = await stage.begin()
    assert stage.found == [container]
    await second.launch(container, SPEC)
    await second.stop(container)
    assert (await stage.completed(container)).exit_status == 143
    await second.finish(True, "")
    await stage.begin()
    assert stage.found == []


async def test_no_id_is_given_twice(stage: Stage) -> None:
    first = await stage.begin()
    used = {await stage.allocated(first, "a"), await stage.allocated(first, "b")}
    await first.finish(True, "")
    second = await stage.begin()
    assert await stage.allocated(second, "a") not in used
