"""The one loop with a cluster in memory and agents that only listen: events in, actions out, views published, failures borne."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import pytest

from tarn_am.core.events import AgentHello, AgentPhase, AgentReports, Report
from tarn_am.core.model import Instance, Phase, Sample
from tarn_am.core.roster import FleetPolicy
from tarn_am.ports import BadRequest, LaunchSpec, ModelAction, NotConnected, UnknownInstance
from tarn_am.supervisor import Charge, Supervisor
from tarn_common.clock import SystemClock
from tarn_common.ids import ContainerId
from tests.rigs.fake_cluster import (
    APPLICATION,
    FakeCluster,
    FakeWorld,
    NodesThatRefuseEveryLaunch,
    NothingCanBeAskedFor,
    TheQueueIsFullAtFirst,
)
from tests.rigs.fleet import ready
from tests.rigs.wait import eventually

SPEC = LaunchSpec({}, b"")


@dataclass
class Link:
    """Agents that are all connected and remember their orders."""

    drains: list[ContainerId] = field(default_factory=list)
    stops: list[ContainerId] = field(default_factory=list)

    def drain(self, container_id: ContainerId, deadline_s: float, grace_s: float, reason: str) -> bool:
        self.drains.append(container_id)
        return True

    def stop(self, container_id: ContainerId, reason: str) -> bool:
        self.stops.append(container_id)
        return True

    async def model(self, container_id: ContainerId, action: ModelAction, model: str) -> None:
        raise NotConnected(container_id)

    async def tail(self, container_id: ContainerId, source: str, lines: int, follow: bool) -> AsyncIterator[str]:
        yield source


class House:
    """A supervisor at work."""

    def __init__(self, cluster: FakeCluster, wanted: int, kept: int | None = None, crash_limit: int = 3) -> None:
        self.cluster, self.link, self.kept = cluster, Link(), list[int | None]()
        policy = FleetPolicy(min_instances=min(1, wanted), max_instances=10, crash_limit=crash_limit)
        charge = Charge(APPLICATION, "one", policy, wanted if kept is None else kept, self.kept.append)
        self.supervisor = Supervisor(charge, cluster, self.link, SPEC, SystemClock())
        self._loop: asyncio.Task[None] | None = None

    async def open(self) -> None:
        await self.supervisor.adopt()
        self._loop = asyncio.create_task(self.supervisor.run())

    async def close(self) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)
        await self.supervisor.close()

    @property
    def instances(self) -> tuple[Instance, ...]:
        return self.supervisor.view().instances

    def containers(self, phase: Phase) -> list[ContainerId]:
        return [i.container_id for i in self.instances if i.phase is phase and i.container_id]

    async def launched(self, number: int) -> list[ContainerId]:
        await eventually(lambda: len(self.containers(Phase.LAUNCHED)) == number)
        return self.containers(Phase.LAUNCHED)

    async def serve(self, container: ContainerId) -> None:
        await self.supervisor.tell(AgentHello(container, "node1", "a", ready()))

    async def serving(self, number: int) -> list[ContainerId]:
        containers = await self.launched(number)
        for container in containers:
            await self.serve(container)
        return containers


@contextlib.asynccontextmanager
async def house(cluster: FakeCluster | None = None, wanted: int = 1, kept: int | None = None) -> AsyncIterator[House]:
    found = House(cluster or FakeCluster(), wanted, kept)
    await found.open()
    try:
        yield found
    finally:
        await found.close()


class TestTheWantedNumberRuns:
    async def test_from_nothing_to_ready(self) -> None:
        async with house(wanted=3) as h:
            await h.serving(3)
            view = h.supervisor.view()
            assert (view.counts.wanted, view.counts.ready, len(view.ready)) == (3, 3, 3)
            assert all(spec is SPEC for _, spec in h.cluster.launches)

    async def test_a_dead_one_is_replaced(self) -> None:
        async with house(wanted=2) as h:
            first, second = await h.serving(2)
            h.cluster.end(first, 137)
            await eventually(lambda: len(h.containers(Phase.LAUNCHED)) == 1)
            assert h.containers(Phase.READY) == [second]
            assert h.supervisor.view().ended[0].exit_status == 137

    async def test_scaling_is_bounded_kept_and_answered_with_the_new_view(self) -> None:
        async with house() as h:
            view = await h.supervisor.scale(4, "a test")
            assert view.counts.wanted == 4
            await h.launched(4)
            await eventually(lambda: h.kept == [4])
            for wrong in (0, 11, -1):
                with pytest.raises(BadRequest, match=f"{wrong} instances are outside 1 to 10"):
                    await h.supervisor.scale(wrong, "a test")

    async def test_a_kept_target_is_taken_up(self) -> None:
        async with house(kept=5) as h:
            await h.launched(5)


class TestTheClusterFails:
    async def test_every_launch(self) -> None:
        async with house(NodesThatRefuseEveryLaunch()) as h:
            await eventually(lambda: bool(h.supervisor.view().halted))
            assert "the node does not answer" in h.supervisor.view().halted
            assert len(h.supervisor.view().ended) == 3

    async def test_an_ask_for_good(self) -> None:
        async with house(NothingCanBeAskedFor()) as h:
            await eventually(lambda: "no node has 9 GPUs" in h.supervisor.view().halted)
            await h.supervisor.scale(1, "a test")
            await eventually(lambda: sum("no node has 9 GPUs" in line.sentence for line in h.supervisor.view().happenings) == 2)

    async def test_an_ask_for_now(self) -> None:
        async with house(TheQueueIsFullAtFirst()) as h:
            await h.launched(1)
            assert "the queue is full" in h.supervisor.view().happenings[0].sentence


class TestWhoWaitsIsWoken:
    async def test_by_a_change_of_the_listing(self) -> None:
        async with house() as h:
            (container,) = await h.launched(1)
            before = h.supervisor.view().listing_version
            waiter = asyncio.create_task(h.supervisor.listing_changed(before))
            await h.supervisor.tell(AgentHello(container, "node1", "a", Report(Phase.STARTING)))
            assert (await h.supervisor.changed("")).listing_version == before
            assert not waiter.done()
            await h.supervisor.tell(AgentPhase(container, ready()))
            assert [i.container_id for i in (await waiter).ready] == [container]

    async def test_at_once_when_it_knew_nothing_or_another_masters_version(self) -> None:
        async with house() as h:
            view = await h.supervisor.listing_changed("of-another-7")
            assert view.listing_version.startswith("one-")

    async def test_a_cancelled_waiter_takes_nobody_with_it(self) -> None:
        async with house() as h:
            (container,) = await h.launched(1)
            version = h.supervisor.view().listing_version
            gone, stays = (asyncio.create_task(h.supervisor.listing_changed(version)) for _ in range(2))
            await asyncio.sleep(0)
            gone.cancel()
            await h.serve(container)
            assert (await stays).ready

    async def test_reports_do_not_build_a_view_each(self) -> None:
        async with house() as h:
            (container,) = await h.serving(1)
            seen = {h.supervisor.view().version}
            for number in range(2_000):
                h.supervisor.offer(AgentReports(samples={container: Sample(1.0, in_flight=float(number))}))
                await asyncio.sleep(0)
                seen.add(h.supervisor.view().version)
            await eventually(lambda: (s := h.instances[0].sample) is not None and s.in_flight == 1999.0)
            assert len(seen) < 500


class TestOrdersToOneInstance:
    async def test_a_stranger_is_named_and_so_are_those_that_there_are(self) -> None:
        async with house() as h:
            (container,) = await h.serving(1)
            nobody = ContainerId("container_1700000000000_0001_01_000999")
            with pytest.raises(UnknownInstance, match=rf"there is no instance {nobody}; there are: {container}"):
                await h.supervisor.drain(nobody, "a test")
            with pytest.raises(UnknownInstance):
                h.supervisor.tail(nobody, "triton", 1, False)
            with pytest.raises(UnknownInstance):
                await h.supervisor.model(nobody, ModelAction.LOAD, "m")

    async def test_a_drain_is_sent_and_the_instance_replaced(self) -> None:
        async with house() as h:
            (container,) = await h.serving(1)
            view = await h.supervisor.drain(container, "a test")
            assert view.ready == ()
            assert h.link.drains == [container]
            await h.launched(1)


class TestWhoIsAdmitted:
    async def test_only_what_runs_now(self) -> None:
        async with house() as h:
            (container,) = await h.serving(1)
            assert await h.supervisor.admit(container) == ""
            h.cluster.end(container, 105)
            await h.launched(1)
            assert "is not one of the containers" in await h.supervisor.admit(container)

    async def test_nobody_before_the_running_ones_are_known(self) -> None:
        world = FakeWorld({ContainerId("container_1700000000000_0001_01_000002")}, 2)
        h = House(FakeCluster(world), 1)
        early = asyncio.create_task(h.supervisor.admit(next(iter(world.running))))
        await asyncio.sleep(0)
        assert not early.done(), "an answer now would make a living agent end itself"
        await h.open()
        assert await early == ""
        await h.close()


class TestTheMasterIsRestarted:
    async def test_what_runs_is_taken_up_and_nothing_is_asked_for(self) -> None:
        world = FakeWorld()
        async with house(FakeCluster(world), wanted=2) as first:
            containers = await first.serving(2)
        async with house(FakeCluster(world), wanted=2) as second:
            gathered = asyncio.create_task(second.supervisor.heard_of_all())
            assert second.containers(Phase.LAUNCHED) == containers
            for container in containers:
                await second.serve(container)
            await asyncio.wait_for(gathered, 60)
            assert second.containers(Phase.READY) == containers
            assert second.cluster.launches == []


class TestTheEnd:
    async def test_all_drain_then_the_cluster_is_told_then_it_is_finished(self) -> None:
        async with house(wanted=2) as h:
            containers = await h.serving(2)
            await h.supervisor.shut_down("a test")
            assert h.link.drains == containers
            with pytest.raises(BadRequest, match="is shutting down"):
                await h.supervisor.scale(3, "a test")
            for container in containers:
                h.cluster.end(container, 100)
            finish = await asyncio.wait_for(h.supervisor.finished(), 60)
            assert finish.succeeded
            assert h.cluster.finished == (True, "shut down as ordered")
            await eventually(lambda: h.kept == [None])
