"""The Fleet port, as the HTTP API relies on it: the fake that the API's tests use, and the supervisor, behave alike."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any, TypeVar, cast

import pytest

from tarn_am.core.model import Phase
from tarn_am.ports import BadRequest, CommandFailed, Fleet, ModelAction, NotConnected, UnknownInstance
from tarn_common.ids import ContainerId
from tests.rigs.fake_fleet import FakeFleet, container, fleet_view, ready
from tests.rigs.supervised import MemoryAgents, supervised
from tests.rigs.wait import eventually

T = TypeVar("T")


@dataclass
class Subject:
    """A fleet with instances 1 and 2 READY and 0 to 10 allowed, and a hand on its agents."""

    fleet: Fleet
    agents: FakeFleet | MemoryAgents

    def disconnect(self, container_id: ContainerId) -> None:
        if isinstance(self.agents, FakeFleet):
            self.agents.disconnected.add(container_id)
        else:
            self.agents.connected.discard(container_id)


@pytest.fixture(params=["fake", "supervisor"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Subject]:
    if request.param == "fake":
        fake = FakeFleet(fleet_view(ready(1), ready(2)))
        turning = asyncio.ensure_future(fake.turn())
        yield Subject(fake, fake)
        turning.cancel()
    else:
        async with supervised(2) as (supervisor, agents):
            yield Subject(supervisor, agents)


async def soon(waited: Awaitable[T]) -> T:
    return await asyncio.wait_for(waited, 30)


def listed(fleet: Fleet) -> list[ContainerId | None]:
    return [instance.container_id for instance in fleet.view().ready]


class TestTheView:
    async def test_shows_what_is_ready_in_order(self, subject: Subject) -> None:
        assert listed(subject.fleet) == [container(1), container(2)]
        view = subject.fleet.view()
        assert (view.counts.wanted, view.counts.ready) == (2, 2)
        assert (view.min_instances, view.max_instances) == (0, 10)

    async def test_is_no_older_than_the_loops_last_turn_even_at_rest(self, subject: Subject) -> None:
        seen: dict[str, set[float]] = {}

        def newer_though_unchanged() -> bool:
            view = subject.fleet.view()
            seen.setdefault(view.version, set()).add(view.at)
            return any(len(times) > 1 for times in seen.values())

        await eventually(newer_though_unchanged, "two views of one version, one newer than the other", 15)


class TestWaitingForAChange:
    async def test_returns_at_once_when_the_version_is_another(self, subject: Subject) -> None:
        for version in ("", "am0-1", "nonsense"):
            assert (await soon(subject.fleet.changed(version))).version != version
            assert (await soon(subject.fleet.listing_changed(version))).listing_version != version

    async def test_returns_when_something_changed(self, subject: Subject) -> None:
        version = subject.fleet.view().version
        waiting = asyncio.ensure_future(subject.fleet.changed(version))
        await subject.fleet.scale(3, "test")
        view = await soon(waiting)
        assert view.version != version

    async def test_for_the_list_returns_when_the_list_changed_and_not_before(self, subject: Subject) -> None:
        version = subject.fleet.view().listing_version
        waiting = asyncio.ensure_future(subject.fleet.listing_changed(version))
        await subject.fleet.scale(2, "test")
        await asyncio.sleep(0)
        assert not waiting.done()
        await subject.fleet.drain(container(1), "test")
        view = await soon(waiting)
        assert container(1) not in [instance.container_id for instance in view.ready]

    async def test_can_be_given_up(self, subject: Subject) -> None:
        waiting = asyncio.ensure_future(subject.fleet.changed(subject.fleet.view().version))
        await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await subject.fleet.scale(3, "test")

    async def test_wakes_all_who_wait(self, subject: Subject) -> None:
        version = subject.fleet.view().listing_version
        waiting = [asyncio.ensure_future(subject.fleet.listing_changed(version)) for _ in range(50)]
        await subject.fleet.drain(container(1), "test")
        assert all(view.listing_version != version for view in await soon(asyncio.gather(*waiting)))


class TestScale:
    async def test_sets_the_target_and_shows_it(self, subject: Subject) -> None:
        assert (await subject.fleet.scale(4, "test")).counts.wanted == 4
        assert subject.fleet.view().counts.wanted == 4

    async def test_to_what_is_set_already_is_fine(self, subject: Subject) -> None:
        assert (await subject.fleet.scale(2, "test")).counts.wanted == 2

    @pytest.mark.parametrize("wanted", [-1, 11, 10**30])
    async def test_outside_the_limits_is_refused_with_them(self, subject: Subject, wanted: int) -> None:
        with pytest.raises(BadRequest, match="10"):
            await subject.fleet.scale(wanted, "test")
        assert subject.fleet.view().counts.wanted == 2


class TestDrain:
    async def test_takes_the_instance_off_the_list_and_leaves_the_target(self, subject: Subject) -> None:
        version = subject.fleet.view().listing_version
        await subject.fleet.drain(container(1), "test")
        view = await soon(subject.fleet.listing_changed(version))
        assert container(1) not in [instance.container_id for instance in view.ready]
        assert view.counts.wanted == 2
        assert [i.phase for i in view.instances if i.container_id == container(1)] == [Phase.DRAINING]

    async def test_twice_is_fine(self, subject: Subject) -> None:
        await subject.fleet.drain(container(1), "test")
        await subject.fleet.drain(container(1), "test")

    async def test_of_nobody_names_who_is_there(self, subject: Subject) -> None:
        with pytest.raises(UnknownInstance, match=container(1)):
            await subject.fleet.drain(container(99), "test")


class TestShutDown:
    async def test_is_shown(self, subject: Subject) -> None:
        await soon(subject.fleet.shut_down("test"))
        assert subject.fleet.view().shutting_down


class TestAModel:
    async def test_is_ordered(self, subject: Subject) -> None:
        await subject.fleet.model(container(1), ModelAction.RELOAD, "identity")

    async def test_that_fails_says_why(self, subject: Subject) -> None:
        subject.agents.broken_models["resnet"] = "no weights"
        with pytest.raises(CommandFailed, match="no weights"):
            await subject.fleet.model(container(1), ModelAction.LOAD, "resnet")

    async def test_of_an_agent_that_is_away_is_refused(self, subject: Subject) -> None:
        subject.disconnect(container(1))
        with pytest.raises(NotConnected):
            await subject.fleet.model(container(1), ModelAction.LOAD, "identity")

    async def test_of_nobody_is_refused(self, subject: Subject) -> None:
        with pytest.raises(UnknownInstance):
            await subject.fleet.model(container(99), ModelAction.LOAD, "identity")


class TestALog:
    async def read(self, subject: Subject, container_id: ContainerId, lines: int) -> list[str]:
        return [line async for line in subject.fleet.tail(container_id, "triton", lines, False)]

    async def test_is_its_last_lines(self, subject: Subject) -> None:
        subject.agents.logs[container(1)] = ["one", "two", "three"]
        assert await self.read(subject, container(1), 2) == ["triton: two", "triton: three"]

    async def test_of_nobody_or_of_an_agent_that_is_away_is_refused(self, subject: Subject) -> None:
        with pytest.raises(UnknownInstance):
            await self.read(subject, container(99), 2)
        subject.disconnect(container(1))
        with pytest.raises(NotConnected):
            await self.read(subject, container(1), 2)

    async def test_is_let_go_when_its_reader_goes(self, subject: Subject) -> None:
        subject.agents.logs[container(1)] = ["one"]
        tail = cast("Any", subject.fleet.tail(container(1), "agent", 5, True))
        async with aclosing(tail):
            assert await tail.__anext__() == "agent: one"
            assert subject.agents.tails_open == 1
        assert subject.agents.tails_open == 0
