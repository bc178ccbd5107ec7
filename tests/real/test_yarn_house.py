"""One submitted application under constant load while what it stands on is killed: what a client may notice, and what must come back.

A real NameNode, DataNode, ResourceManager and three NodeManagers, real tritonservers on two of the three nodes. The tests share
the application and leave it with two READY instances; then a node is lost for good, and the application is stopped.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.rigs.cluster import HadoopCluster
from tests.rigs.load import Load
from tests.rigs.submitted import Client, bare_archive, processes, staged, triton_directory
from tests.rigs.triton import repository
from tests.rigs.wait import eventually
from tests.rigs.yarn_house import YarnFleet

pytestmark = pytest.mark.real
_STORE = "org.apache.hadoop.yarn.server.resourcemanager.recovery.FileSystemRMStateStore"
_OPTIONS = {
    "--model-repository": "hdfs:///models",
    "--models": "identity",
    "--min-instances": "2",
    "--max-instances": "3",
    "--drain-grace-s": "1",
    "--silent-s": "2",
    # An agent that was killed is back sooner, and YARN takes ten minutes to call a node lost.
    "--lost-s": "15",
}


@pytest.fixture(scope="module")
def hadoop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HadoopCluster]:
    """Of this module alone: it loses a node."""
    scratch = tmp_path_factory.mktemp("house")
    rig = HadoopCluster(
        scratch,
        nodes=3,
        site={
            "yarn.resourcemanager.recovery.enabled": "true",
            "yarn.resourcemanager.store.class": _STORE,
            "yarn.resourcemanager.fs.state-store.uri": f"file://{scratch}/rm-store",
        },
    )
    try:
        rig.start()
        yield rig
    finally:
        rig.close()
        rig.discard()


@pytest.fixture(scope="module")
def fleet(hadoop: HadoopCluster, tmp_path_factory: pytest.TempPathFactory, triton_runtime: Mapping[str, str]) -> YarnFleet:
    home = tmp_path_factory.mktemp("user")
    token = home / "api-token"
    token.write_text("of-the-house-that-stands-on-yarn\n")
    token.chmod(0o600)
    hadoop.hdfs.put_directory("/models", repository(home / "models", "identity"))
    path = f"{triton_directory(home / 'bin', triton_runtime)}:/usr/bin:/bin"
    house = YarnFleet(Client(home, hadoop, bare_archive(home / "tarn.tar.gz"), path), token)
    house.start(*(word for option in _OPTIONS.items() for word in option))
    return house


async def standing(fleet: YarnFleet) -> dict[str, dict[str, int]]:
    """The two instances, once they are all that there is: the processes of each by its container."""
    return {one["container_id"]: fleet.pids(one["container_id"]) for one in await fleet.ready(2)}


async def another_master(fleet: YarnFleet, than: int) -> None:
    await eventually(lambda: fleet.master_pid() not in (None, than), "another Application Master runs")


class TestTheAgentIsKilled:
    async def test_no_request_fails_and_the_same_triton_serves_on(self, fleet: YarnFleet) -> None:
        before = await standing(fleet)
        spoke = _incarnations(await fleet.status())
        container = min(before)
        async with Load(fleet) as load:
            os.kill(before[container]["agent"], signal.SIGKILL)
            await fleet.until("another agent said hello", lambda s: _incarnations(s).get(container) not in (None, "", spoke[container]))
            after = await standing(fleet)
            await load.more(50)
        assert load.failures == []
        assert after[container]["agent"] != before[container]["agent"]
        assert {name: pids["triton"] for name, pids in after.items()} == {name: pids["triton"] for name, pids in before.items()}


class TestTheMasterIsKilled:
    async def test_it_resumes_in_place_and_knows_all(self, fleet: YarnFleet) -> None:
        before = await standing(fleet)
        master, container = fleet.master().pid, fleet.master_container()
        async with Load(fleet) as load:
            os.kill(master, signal.SIGKILL)
            await load.more(20)
            await another_master(fleet, master)
            assert await standing(fleet) == before
            await load.more(50)
        assert load.failures == []
        assert fleet.master_container() == container
        assert (await fleet.status())["counts"]["wanted"] == 2


class TestTheMastersContainerIsLost:
    async def test_the_next_attempt_takes_over_and_nothing_is_started_again(self, fleet: YarnFleet) -> None:
        before = await standing(fleet)
        master, container = fleet.master().pid, fleet.master_container()
        async with Load(fleet) as load:
            fleet.lose(container)
            await load.more(20)
            await another_master(fleet, master)
            assert await standing(fleet) == before
            await load.more(50)
        assert load.failures == []
        assert "_02_" in fleet.master_container()
        assert (await fleet.status())["counts"]["wanted"] == 2


class TestTheResourceManagerIsKilled:
    async def test_a_scale_up_of_the_outage_is_honoured_after_it(self, fleet: YarnFleet, hadoop: HadoopCluster) -> None:
        before = await standing(fleet)
        master = fleet.master().pid
        async with Load(fleet) as load:
            hadoop.yarn.resourcemanager.kill()
            await fleet.post("/scale", {"instances": 3})
            asked = await fleet.until("the outage is told", lambda s: "the ResourceManager has not answered for" in _reasons(s))
            assert (asked["counts"]["wanted"], asked["counts"]["ready"]) == (3, 2)
            await load.more(50)
            await asyncio.to_thread(hadoop.yarn.start_resourcemanager)
            three = await fleet.ready(3)
            await load.more(50)
            assert len({one["node"] for one in three}) == 3
            assert {name: fleet.pids(name) for name in before} == before
            await fleet.post("/scale", {"instances": 2})
            await fleet.ready(2)
            await load.more(20)
        assert load.failures == []
        assert fleet.master().pid == master


class TestANodeIsLostForGood:
    async def test_its_instance_is_replaced_elsewhere_before_yarn_misses_the_node(self, fleet: YarnFleet, hadoop: HadoopCluster) -> None:
        rows = await fleet.ready(2)
        where = {number: f"127.0.0.{number + 2}" for number in range(3)}
        masters_node = next(number for number in where if f"/nodemanager{number}/" in fleet.master().cwd())
        lost = next(one for one in rows if one["node"] != where[masters_node])
        kept = next(one for one in rows if one is not lost)
        [number] = [number for number, host in where.items() if host == lost["node"]]
        async with Load(fleet) as load:
            await asyncio.to_thread(hadoop.yarn.nodemanagers[number].kill)
            await load.more(50)
            # A NodeManager's containers outlive it, and nobody misses it yet.
            assert load.failures == []
            assert {one["container_id"] for one in await fleet.listed()} == {kept["container_id"], lost["container_id"]}
            fleet.lose(lost["container_id"])
            await eventually(lambda: load.endpoints == [_http(kept)], "the client hears that it is not offered any more")
            await load.more(20)
            failed = len(load.failures)
            again = await fleet.ready(2)
            await load.more(50)
        # Until it was out of the list a client could not know; after that nobody was sent there.
        assert len(load.failures) == failed
        assert all(failure.startswith(f"{_http(lost)}:") for failure in load.failures)
        assert kept["container_id"] in {one["container_id"] for one in again}
        assert lost["node"] not in {one["node"] for one in again}


class TestStop:
    async def test_after_all_that_nothing_is_left(self, fleet: YarnFleet, hadoop: HadoopCluster) -> None:
        run_dirs = [fleet.run_dir(container) for container in await standing(fleet)]
        assert all(path.is_dir() for path in run_dirs)
        ran = await fleet.client.tarn("--application", fleet.application, "stop")
        assert ran.status == 0, ran.err
        await eventually(lambda: not processes(fleet.application), "no process of the application is left")
        assert [path for path in staged(hadoop) if path.startswith("application_")] == []
        assert not any(path.exists() for path in run_dirs)


def _incarnations(status: Any) -> dict[str, str]:
    return {one["container_id"]: one["incarnation"] for one in status["instances"]}


def _reasons(status: Any) -> str:
    return " ".join(str(one["reason"]) for one in status["instances"])


def _http(instance: dict[str, Any]) -> str:
    return f"http://{instance['endpoint']['host']}:{instance['endpoint']['http_port']}"
