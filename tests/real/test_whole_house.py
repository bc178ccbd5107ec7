"""The whole house under constant load while one part of it is killed: what a client may notice, and what must come back.

Real tritonservers, agents under supervisord, the real Application Master process, a real ZooKeeper.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kazoo.client import KazooClient
from kazoo.exceptions import NoNodeError

from tests.rigs.house import LocalFleet
from tests.rigs.load import Load
from tests.rigs.wait import eventually
from tests.rigs.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.real
ZK_PATH = "/house/instances"


@pytest.fixture
async def fleet(tmp_path: Path, own_zookeeper: ZooKeeperServer) -> AsyncIterator[LocalFleet]:
    house = LocalFleet(
        tmp_path / "house",
        TARN_ZK_ENSEMBLE=own_zookeeper.connect,
        TARN_ZK_PATH=ZK_PATH,
        TARN_ZK_SESSION_S="4",
        TARN_MIN_INSTANCES="1",
        TARN_MAX_INSTANCES="4",
    )
    await house.start()
    try:
        yield house
    finally:
        await house.end()


class Znodes:
    """What ZooKeeper holds under the instances' path, seen by a client of its own."""

    def __init__(self, server: ZooKeeperServer) -> None:
        self._client = KazooClient(server.connect, timeout=10)

    def __enter__(self) -> Znodes:
        self._client.start(timeout=60)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.stop()
        self._client.close()

    def all(self) -> dict[str, str]:
        found: dict[str, str] = {}
        if self._client.exists(ZK_PATH):
            for name in self._client.get_children(ZK_PATH):
                # One that goes between the two questions is not there.
                with contextlib.suppress(NoNodeError):
                    found[name] = self._client.get(f"{ZK_PATH}/{name}")[0].decode()
        return found


def http_of(instance: dict[str, Any]) -> str:
    return f"{instance['endpoint']['host']}:{instance['endpoint']['http_port']}"


class TestAgentKilledUnderLoad:
    async def test_no_request_fails_and_the_same_triton_serves_on(self, fleet: LocalFleet, own_zookeeper: ZooKeeperServer) -> None:
        (instance,) = await fleet.ready(1)
        container = instance["container_id"]
        before = fleet.pids(container)
        async with Load(fleet) as load:
            with Znodes(own_zookeeper) as znodes:
                await eventually(lambda: znodes.all() == {container: http_of(instance)}, "the znode stands")
                os.kill(before["agent"], signal.SIGKILL)
                await fleet.until("a new agent said hello", lambda s: s["instances"][0]["incarnation"] != instance["incarnation"])
                await fleet.ready(1)
                await load.more(50)
                await eventually(lambda: znodes.all() == {container: http_of(instance)}, "the znode is there")
        assert load.failures == []
        after = fleet.pids(container)
        assert after["triton"] == before["triton"]
        assert after["agent"] != before["agent"]


class TestTritonKilled:
    async def test_its_znode_goes_and_comes_back_with_a_new_triton(self, fleet: LocalFleet, own_zookeeper: ZooKeeperServer) -> None:
        (instance,) = await fleet.ready(1)
        container = instance["container_id"]
        before = fleet.pids(container)
        with Znodes(own_zookeeper) as znodes:
            await eventually(lambda: container in znodes.all(), "the znode stands")
            os.kill(before["triton"], signal.SIGKILL)
            await eventually(lambda: znodes.all() == {}, "the znode is gone")
            assert await fleet.listed() == [] or fleet.pids(container)["triton"] != before["triton"]
            await fleet.until("Triton is back", lambda s: s["instances"][0]["triton_restarts"] == 1 and s["counts"]["ready"] == 1)
            await eventually(lambda: container in znodes.all(), "the znode is back")
        assert fleet.pids(container)["triton"] != before["triton"]


class TestTritonHangs:
    async def test_it_is_out_of_discovery_while_it_hangs_and_back_when_it_answers(self, fleet: LocalFleet) -> None:
        (instance,) = await fleet.ready(1)
        triton = fleet.pids(instance["container_id"])["triton"]
        os.kill(triton, signal.SIGSTOP)
        try:
            await fleet.until("UNREADY with its reason", lambda s: s["instances"][0]["phase"] == "UNREADY" and s["instances"][0]["reason"])
            assert await fleet.listed() == []
        finally:
            os.kill(triton, signal.SIGCONT)
        await fleet.ready(1)


class TestAmKilledUnderLoad:
    async def test_serving_is_undisturbed_and_the_next_am_knows_all(self, fleet: LocalFleet) -> None:
        await fleet.post("/scale", {"instances": 2})
        instances = await fleet.ready(2)
        before = {i["container_id"]: fleet.pids(i["container_id"]) for i in instances}
        async with Load(fleet) as load:
            await fleet.kill()
            await load.more(50)
            await fleet.start()
            again = await fleet.ready(2)
            await load.more(50)
        assert load.failures == []
        assert {i["container_id"]: fleet.pids(i["container_id"]) for i in again} == before
        assert (await fleet.status())["counts"]["wanted"] == 2


class TestZooKeeperAwayLongerThanTheSession:
    async def test_serving_goes_on_and_each_znode_is_back_once(self, fleet: LocalFleet, own_zookeeper: ZooKeeperServer) -> None:
        (instance,) = await fleet.ready(1)
        wanted = {instance["container_id"]: http_of(instance)}
        async with Load(fleet) as load:
            with Znodes(own_zookeeper) as znodes:
                await eventually(lambda: znodes.all() == wanted, "the znode stands")
            own_zookeeper.stop()
            await fleet.until("the session has outlived its time-out", lambda s: not s["instances"][0]["announced"])
            await load.more(50)
            own_zookeeper.start()
            with Znodes(own_zookeeper) as znodes:
                await eventually(lambda: znodes.all() == wanted, "the znode is back, once")
            await fleet.until("announced again", lambda s: s["instances"][0]["announced"])
        assert load.failures == []


class TestScaleUnderLoad:
    async def test_one_to_four_to_one_loses_no_request(self, fleet: LocalFleet, own_zookeeper: ZooKeeperServer) -> None:
        await fleet.ready(1)
        async with Load(fleet, workers=6) as load:
            await fleet.post("/scale", {"instances": 4})
            await fleet.ready(4)
            assert len(await fleet.listed()) == 4
            await load.more(100)
            await fleet.post("/scale", {"instances": 1})
            (last,) = await fleet.ready(1)
            await load.more(50)
        assert load.failures == []
        with Znodes(own_zookeeper) as znodes:
            await eventually(lambda: set(znodes.all()) == {last["container_id"]}, "one znode is left")


class TestDrainOfOneInstance:
    async def test_it_is_replaced_and_no_request_is_lost(self, fleet: LocalFleet) -> None:
        (instance,) = await fleet.ready(1)
        await fleet.post("/scale", {"instances": 2})
        await fleet.ready(2)
        async with Load(fleet) as load:
            await fleet.post("/drain", {"instance": instance["container_id"]})
            await fleet.until(
                "the drained one is over and another is READY",
                lambda s: s["counts"]["ready"] == 2 and all(i["container_id"] != instance["container_id"] for i in s["instances"]),
            )
            await load.more(30)
        assert load.failures == []


class TestContainerKilled:
    async def test_the_whole_container_is_replaced(self, fleet: LocalFleet) -> None:
        (instance,) = await fleet.ready(1)
        family = fleet.pids(instance["container_id"])
        os.kill(family["init"], signal.SIGKILL)
        await fleet.until(
            "another container is READY",
            lambda s: s["counts"]["ready"] == 1 and s["instances"][0]["container_id"] != instance["container_id"],
        )
        await eventually(lambda: not any(psutil.pid_exists(pid) for pid in family.values()), "nothing of the dead container runs on")


class TestStop:
    async def test_all_is_drained_and_nothing_is_left(self, fleet: LocalFleet, own_zookeeper: ZooKeeperServer) -> None:
        await fleet.ready(1)
        assert await fleet.stop() == 0
        assert fleet.leftovers() == []
        with Znodes(own_zookeeper) as znodes:
            assert znodes.all() == {}


class TestRepositoryThatIsMissing:
    async def test_the_fleet_stops_asking_and_says_why(self, tmp_path: Path) -> None:
        house = LocalFleet(tmp_path / "house", TARN_MODEL_REPOSITORY=str(tmp_path / "nowhere"), TARN_CRASH_LIMIT="2")
        try:
            await house.start()
            status = await house.until("halted with the reason", lambda s: s["halted"])
            assert "nowhere" in status["halted"]
            assert status["counts"]["failed_total"] == 2
            assert await house.stop() == 0
        finally:
            await house.end()
