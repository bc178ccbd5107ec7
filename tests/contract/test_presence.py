"""The Presence port: what holds for the adapter over a real ZooKeeper and for the fake that other tests use."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from kazoo.client import KazooClient

from tarn_agent.ports import Presence
from tarn_agent.presence import NoPresence, ZooKeeperPresence, open_zookeeper
from tarn_agent.settings import AgentSettings
from tarn_common.credentials import Credentials
from tarn_common.endpoint import instance_path
from tarn_common.ids import container_id
from tests.rigs.presence import FakePresence
from tests.rigs.wait import eventually
from tests.rigs.zookeeper import ZooKeeperServer

CONTAINER = "container_1700000000000_0001_01_000002"


class Case:
    """A presence and what a client would find."""

    def __init__(self, presence: Presence, found: Callable[[], str | None]) -> None:
        self.presence, self.found = presence, found


def _real(server: ZooKeeperServer, zk_path: str, run_dir: Path, eye: Any) -> Case:
    settings = AgentSettings(
        container_id=CONTAINER,
        application_id="application_1700000000000_0001",
        credentials="",
        log_dir="",
        run_dir=str(run_dir),
        data_dir="",
        model_repository="",
        zk_ensemble=server.connect,
        zk_path=zk_path,
    )
    zookeeper = open_zookeeper(settings, Credentials())
    assert zookeeper is not None
    znode = instance_path(zk_path, container_id(CONTAINER))
    return Case(ZooKeeperPresence(settings, zookeeper), lambda: eye.get(znode)[0].decode() if eye.exists(znode) else None)


@pytest.fixture(params=["fake", pytest.param("real", marks=pytest.mark.real)])
async def case(request: pytest.FixtureRequest, zk_path: str, tmp_path: Path) -> AsyncIterator[Case]:
    if request.param == "fake":
        fake = FakePresence()
        await fake.start()
        yield Case(fake, lambda: fake.standing)
        return
    server = request.getfixturevalue("zookeeper")
    eye = KazooClient(server.connect)
    eye.start()
    case = _real(server, zk_path, tmp_path, eye)
    await case.presence.start()
    yield case
    await case.presence.close()
    eye.stop()
    eye.close()


async def standing(case: Case, text: str) -> None:
    await eventually(lambda: case.presence.announced and case.found() == text, f"{text} is announced")


class TestPresence:
    async def test_nothing_stands_before_it_is_announced(self, case: Case) -> None:
        assert not case.presence.announced
        assert case.found() is None

    async def test_what_is_announced_stands_with_exactly_this_text(self, case: Case) -> None:
        case.presence.announce("node7:8000")
        await standing(case, "node7:8000")

    async def test_saying_it_twice_changes_nothing(self, case: Case) -> None:
        for _ in range(2):
            case.presence.announce("node7:8000")
            await standing(case, "node7:8000")
        for _ in range(2):
            await case.presence.withdraw()
            assert not case.presence.announced
            assert case.found() is None

    async def test_withdrawn_is_gone_when_it_returns(self, case: Case) -> None:
        case.presence.announce("node7:8000")
        await standing(case, "node7:8000")
        await case.presence.withdraw()
        assert case.found() is None
        assert not case.presence.announced

    async def test_the_latest_wish_counts(self, case: Case) -> None:
        case.presence.announce("node7:8000")
        await case.presence.withdraw()
        case.presence.announce("node7:9000")
        await standing(case, "node7:9000")
        case.presence.announce("node7:9001")
        await standing(case, "node7:9001")

    async def test_closing_takes_it_away(self, case: Case) -> None:
        case.presence.announce("node7:8000")
        await standing(case, "node7:8000")
        await case.presence.close()
        assert case.found() is None


class TestWithoutZooKeeper:
    async def test_everything_may_be_said_and_nothing_stands(self) -> None:
        presence: Presence = NoPresence()
        await presence.start()
        presence.announce("node7:8000")
        assert not presence.announced
        await presence.withdraw()
        await presence.close()
