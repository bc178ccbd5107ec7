"""The Application Master's beacon on a real ZooKeeper: lit, taken over by its successor, and out at the end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from kazoo.client import KazooClient

from tarn_am.beacon import Beacon
from tarn_am.settings import AmSettings
from tarn_am.state import StateDir
from tarn_common.endpoint import HostPort, Rendezvous, am_path
from tests.rigs.wait import eventually
from tests.rigs.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.real

FIRST = Rendezvous(HostPort("node1", 5000), "http://node1:8888", "one")
SECOND = Rendezvous(HostPort("node2", 5001), "http://node2:8889", "two")


class Sky:
    """Where beacons are seen from: ZooKeeper by a client of its own, and the state directory."""

    def __init__(self, server: ZooKeeperServer, zk_path: str, state: StateDir) -> None:
        self.settings = AmSettings(model_repository="/models", zk_ensemble=server.connect, zk_path=zk_path, zk_session_s=10.0)
        self.state = state
        self.client = KazooClient(server.connect, timeout=10)
        self.client.start(timeout=60)

    def beacon(self) -> Beacon:
        return Beacon(self.settings, self.state, None)

    def znode(self) -> bytes | None:
        path = am_path(self.settings.zk_path, self.state.application_id)
        return bytes(self.client.get(path)[0]) if self.client.exists(path) else None


@pytest.fixture
def sky(zookeeper: ZooKeeperServer, zk_path: str, tmp_path: Path) -> Iterator[Sky]:
    found = Sky(zookeeper, zk_path, StateDir(tmp_path / "state"))
    yield found
    found.client.stop()
    found.client.close()


async def test_lit_and_out(sky: Sky) -> None:
    beacon = sky.beacon()
    beacon.light(FIRST)
    assert sky.state.rendezvous() == FIRST
    await eventually(lambda: sky.znode() == FIRST.encode())
    await beacon.close()
    assert sky.znode() is None, "gone with the close, not with the session's end"
    assert sky.state.rendezvous() is None


async def test_the_successor_of_a_killed_one_is_seen_long_before_the_old_session_ends(sky: Sky) -> None:
    killed = sky.beacon()
    killed.light(FIRST)
    await eventually(lambda: sky.znode() == FIRST.encode())
    successor = sky.beacon()
    successor.light(SECOND)
    await eventually(lambda: sky.znode() == SECOND.encode())
    assert sky.state.rendezvous() == SECOND
    await successor.close()
    await killed.close()


async def test_without_an_ensemble_there_is_the_file_alone(tmp_path: Path) -> None:
    state = StateDir(tmp_path / "state")
    beacon = Beacon(AmSettings(model_repository="/models"), state, None)
    beacon.light(FIRST)
    assert state.rendezvous() == FIRST
    await beacon.close()
    assert state.rendezvous() is None
