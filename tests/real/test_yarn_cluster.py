"""The YARN back end on a real ResourceManager and three NodeManagers: placement, launch, and what dies around it."""

from __future__ import annotations

import os
import signal
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from tarn_am.cluster.yarn import unmanaged
from tarn_am.cluster.yarn.placement import Mode
from tarn_am.core import diagnosis
from tarn_am.hadoop import credentials
from tarn_am.hadoop.ipc.client import HadoopClient, Patience
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.pb import yarn_pb2
from tarn_am.ports import AskRefused, ClusterError, Completed, LaunchSpec, LostCharge
from tests.rigs.wait import eventually
from tests.rigs.yarn import Yarn
from tests.rigs.yarn_masters import ME, NODES, SECRET, Master, heard_of, kill, master_on, notes, spec, submit_managed

pytestmark = pytest.mark.real
HANDLER = "yarn.resourcemanager.placement-constraints.handler"


@pytest.fixture
async def master(yarn3: Yarn, tmp_path: Path) -> AsyncIterator[Master]:
    async with master_on(yarn3, tmp_path / "out") as found:
        yield found


def on_nodes(master: Master, *asks: str) -> list[str]:
    return sorted(master.heard.allocated()[ask].node for ask in asks)


async def used_containers(master: Master) -> int:
    report = await unmanaged.look(master.rm, master.app.application_id)
    return report.app_resource_Usage.num_used_containers


class TestLaunch:
    async def test_a_program_gets_its_environment_and_its_credentials_and_no_more(self, master: Master) -> None:
        cluster = await master.begin()
        [one] = await master.running(cluster, "a", TARN_NAME="fleet-1")
        said = await master.said(one.container_id)
        environ = said["environ"]
        assert environ["TARN_NAME"] == "fleet-1"
        assert (environ["CONTAINER_ID"], environ["NM_HOST"]) == (one.container_id, one.node)
        assert (environ["LANG"], environ["PATH"]) == ("C.UTF-8", "/usr/local/bin:/usr/bin:/bin")
        assert environ["TARN_LOG_DIR"].endswith(f"/logs/{master.app.application_id}/{one.container_id}")
        assert environ["TARN_DATA_DIR"] == f"{said['cwd']}/data"
        assert len(environ["TARN_RUN_DIR"]) < 40
        assert SECRET not in repr(environ)
        assert SECRET not in repr(psutil.Process(said["pid"]).cmdline())
        assert said["mode"] == stat.S_IRUSR | stat.S_IWUSR
        held = credentials.decode(bytes.fromhex(said["credentials"]))
        assert held.secrets == {"tarn.agent.secret": SECRET.encode()}
        # `exec`: the signals of YARN reach the program itself, not a shell before it.
        assert psutil.Process(said["pid"]).parent() is not None
        assert int(environ["JVM_PID"]) == said["pid"]
        await cluster.stop(one.container_id)
        assert (await master.completed(one.container_id)).exit_status == -105
        assert diagnosis.code(-105) == "stopped"

    async def test_an_end_is_told_with_status_and_last_words(self, master: Master) -> None:
        cluster = await master.begin()
        [one] = await master.allocated(cluster, "a")
        await cluster.launch(one.container_id, spec(master.out, TARN_DOES="exit-104"))
        end = await master.completed(one.container_id)
        assert end.exit_status == 104
        assert "the last words of a container" in end.diagnostics
        assert await used_containers(master) == 0

    async def test_a_command_that_is_not_there_is_told_by_its_status(self, master: Master) -> None:
        cluster = await master.begin(command=("/nowhere/python3",))
        [one] = await master.allocated(cluster, "a")
        await cluster.launch(one.container_id, spec(master.out))
        end = await master.completed(one.container_id)
        assert (end.exit_status, diagnosis.code(end.exit_status, end.diagnostics)) == (127, "status_127")

    async def test_a_value_that_a_shell_would_execute_is_refused_here(self, master: Master) -> None:
        cluster = await master.begin()
        [one] = await master.allocated(cluster, "a")
        with pytest.raises(ClusterError, match=r"TARN_NAME='\$\(id\)' holds '\$'"):
            await cluster.launch(one.container_id, LaunchSpec({"TARN_NAME": "$(id)"}, b""))
        await cluster.release(one.container_id)
        await eventually(lambda: _none_used(master), "the container is given back")
        assert not master.heard.completed()


async def _none_used(master: Master) -> bool:
    return await used_containers(master) == 0


class TestWhatNoNodeCouldGive:
    async def test_a_resource_that_the_cluster_does_not_have_is_named(self, master: Master) -> None:
        cluster = await master.begin(gpus=1, gpu_resource="yarn.io/gpus")
        with pytest.raises(ClusterError, match=r"no resource yarn\.io/gpus; it has memory-mb, vcores: set --gpu-resource") as error:
            await cluster.request("a")
        assert not error.value.retry

    async def test_more_than_the_largest_node_has_is_never_asked_for(self, master: Master) -> None:
        cluster = await master.begin(memory_mb=4096)
        with pytest.raises(ClusterError, match=r"no node of the cluster can hold .* 4096 MiB.*2048 of 4096 memory-mb") as error:
            await cluster.request("a")
        assert error.value.retry


class TestSurplus:
    async def test_what_an_earlier_process_asked_for_is_given_back(self, master: Master) -> None:
        first = await master.begin()
        await master.allocated(first, "a", "b", "c")
        await first.request("d")
        await first.close()
        second = await master.begin()
        assert len(master.found) == 3
        for container in master.found:
            await second.stop(container)
        # The old asks and containers are nobody's: each delivery of theirs goes back, and the nodes are free for new asks.
        await eventually(lambda: len(master.heard.completed()) == 3, "the three are over")
        await master.allocated(second, "e")
        await eventually(lambda: _used_is(master, 1), "one container is held")

    async def test_a_cancelled_ask_leaves_nothing_behind(self, master: Master) -> None:
        cluster = await master.begin()
        for ask in ("a", "b", "c"):
            await cluster.request(ask)
        await cluster.cancel("b")
        await master.allocated(cluster, "d")
        await eventually(lambda: len(master.heard.allocated()) == 3, "three are answered")
        assert set(master.heard.allocated()) == {"a", "c", "d"}
        await eventually(lambda: _used_is(master, 3), "no more are held")


async def _used_is(master: Master, number: int) -> bool:
    return await used_containers(master) == number


class TestAFailingNode:
    async def test_it_wastes_few_launches_and_can_be_used_again_by_order(self, master: Master) -> None:
        cluster = await master.begin(bad_node_failures=2)
        bad, wanted, asks, wasted = "127.0.0.3", 2, 0, 0
        serving: set[str] = set()
        while len(serving) < wanted:
            asks += 1
            [one] = await master.allocated(cluster, f"ask-{asks}")
            await cluster.launch(one.container_id, spec(master.out, TARN_FAIL_ON=bad))
            if one.node != bad:
                await master.said(one.container_id)
                serving.add(one.node)
            else:
                assert (await master.completed(one.container_id)).exit_status == 105
                wasted += 1
        assert serving == set(NODES) - {bad}
        assert wasted <= 3
        while not cluster.view().avoided:
            [one] = await master.allocated(cluster, f"more-{wasted}")
            assert one.node == bad
            await cluster.launch(one.container_id, spec(master.out, TARN_FAIL_ON=bad))
            await master.completed(one.container_id)
            wasted += 1
        [avoided] = cluster.view().avoided
        assert (avoided.node, avoided.times, wasted) == (bad, 1, 2)
        await cluster.request("after")
        await eventually(lambda: "after" in master.heard.reasons(), "the reason is told")
        assert f"avoided after failures: {bad}" in master.heard.reasons()["after"]
        assert cluster.lift(bad)
        await eventually(lambda: "after" in master.heard.allocated(), "the node is used again")
        assert on_nodes(master, "after") == [bad]


class TestADeadNode:
    async def test_its_container_is_told_lost_and_the_next_waits_for_a_node_that_comes(self, yarn3: Yarn, master: Master) -> None:
        cluster = await master.begin()
        found = await master.running(cluster, "a", "b", "c")
        lost = next(one for one in found if one.node == NODES[2])
        pid = (await master.said(lost.container_id))["pid"]
        yarn3.nodemanagers[2].kill()
        try:
            end = await master.completed(lost.container_id)
            assert (end.exit_status, diagnosis.code(end.exit_status, end.diagnostics)) == (-100, "node_lost")
            assert not diagnosis.is_failure(end.exit_status, end.diagnostics)
            # What the cluster calls lost lives on there: only its own lease ends it.
            assert psutil.pid_exists(pid)
            await cluster.request("d")
            await eventually(lambda: "d" in master.heard.reasons(), "the reason is told")
            assert master.heard.reasons()["d"].startswith("2 of 2 nodes have its instance already, and no node may have more")
        finally:
            os.kill(pid, signal.SIGKILL)
            yarn3.nodemanagers[2].start()
        await eventually(lambda: "d" in master.heard.allocated(), "the third node has come")
        assert on_nodes(master, "d") == [NODES[2]]
        await cluster.launch(master.heard.allocated()["d"].container_id, spec(master.out))
        await master.said(master.heard.allocated()["d"].container_id)


class TestAFrozenNode:
    async def test_a_launch_there_ends_in_time_and_what_came_of_it_is_given_back(self, yarn3: Yarn, master: Master) -> None:
        cluster = await master.begin(node_call_s=1.0)
        [one] = await master.allocated(cluster, "a")
        node = yarn3.nodemanagers[NODES.index(one.node)]
        node.freeze()
        try:
            with pytest.raises(ClusterError, match=r"did not answer|did not finish the greeting"):
                await cluster.launch(one.container_id, spec(master.out))
            await cluster.release(one.container_id)
        finally:
            node.thaw()
        await eventually(lambda: _used_is(master, 0), "it is given back")
        [two] = await master.running(cluster, "b")
        assert [event for event in master.heard.events if isinstance(event, Completed)] == []
        await cluster.stop(two.container_id)
        await master.completed(two.container_id)


class TestTheResourceManagerIsKilled:
    async def test_what_runs_goes_on_and_what_was_asked_meanwhile_is_given_after(self, yarn3: Yarn, master: Master) -> None:
        cluster = await master.begin(trust_s=2.0, node_call_s=2.0)
        [one, two] = await master.running(cluster, "a", "b")
        yarn3.resourcemanager.kill()
        await eventually(lambda: cluster.view().trouble, "the outage is noticed")
        await cluster.request("c")
        await eventually(lambda: "c" in master.heard.reasons(), "the reason is told")
        assert "the ResourceManager has not answered for" in master.heard.reasons()["c"]
        await eventually(lambda: (cluster.view().silent_s or 0) > 2.0, "the trust has run out")
        with pytest.raises(ClusterError, match="nothing is started or stopped while the ResourceManager does not answer"):
            await cluster.stop(two.container_id)
        yarn3.start_resourcemanager()
        await eventually(lambda: "c" in master.heard.allocated(), "the ask is served")
        assert on_nodes(master, "a", "b", "c") == list(NODES)
        assert not master.heard.completed()
        three = master.heard.allocated()["c"].container_id
        await cluster.launch(three, spec(master.out))
        await master.said(three)
        for container in (one.container_id, two.container_id, three):
            await cluster.stop(container)
            assert (await master.completed(container)).exit_status == -105


class TestASecondMaster:
    async def test_a_new_process_and_a_new_attempt_each_take_over_what_runs(self, yarn3: Yarn, tmp_path: Path) -> None:
        async with HadoopClient([yarn3.client], Login(ME), patience=Patience(give_up_s=60.0)) as rm:
            app = await submit_managed(rm, yarn3, tmp_path)
            try:
                await eventually(lambda: notes(tmp_path, "1-1"), "the first process runs")
                first = notes(tmp_path, "1-1")
                assert first is not None
                assert (first["found"], len(first["running"])) == ([], 2)
                kill(first["pid"])
                await eventually(lambda: notes(tmp_path, "1-2"), "the second process goes on")
                second = notes(tmp_path, "1-2")
                assert second is not None
                assert sorted(second["found"]) == sorted(first["running"])
                # One whose start the ResourceManager has not heard of is ended with its attempt.
                await eventually(lambda: heard_of(yarn3, second["running"][-1:]), "the last container is known to run")
                kill(second["parent"])
                kill(second["pid"])
                await eventually(lambda: notes(tmp_path, "2-1"), "the second attempt runs")
                third = notes(tmp_path, "2-1")
                assert third is not None
                assert sorted(third["found"]) == sorted(second["running"])
            finally:
                await unmanaged.kill(rm, app)

    async def test_one_whose_application_is_ended_touches_nothing_and_says_so(self, master: Master) -> None:
        cluster = await master.begin()
        await master.running(cluster, "a")
        await unmanaged.kill(master.rm, master.app.application_id)
        await eventually(lambda: any(isinstance(event, LostCharge) for event in master.heard.events), "it hears that it is over")
        with pytest.raises(ClusterError, match="the ResourceManager has ended appattempt_") as error:
            await cluster.request("b")
        assert not error.value.retry
        with pytest.raises(ClusterError, match="the ResourceManager has ended"):
            await cluster.stop(master.heard.allocated()["a"].container_id)


class TestTheEnd:
    async def test_an_application_ends_with_its_true_status_and_its_containers_with_it(self, master: Master) -> None:
        cluster = await master.begin()
        [one] = await master.running(cluster, "a")
        pid = (await master.said(one.container_id))["pid"]
        await cluster.finish(False, "three instances failed in a row")

        async def failed() -> bool:
            report = await unmanaged.look(master.rm, master.app.application_id)
            return report.final_application_status == yarn_pb2.APP_FAILED and "in a row" in report.diagnostics

        await eventually(failed, "the ResourceManager says FAILED, and why")
        await eventually(lambda: not psutil.pid_exists(pid), "the container is ended")


@pytest.mark.parametrize("handler", ["placement-processor", "disabled", "scheduler"])
class TestEachPlacementHandler:
    async def test_one_instance_a_node_and_the_fourth_waits_with_its_reason(self, yarn3: Yarn, tmp_path: Path, handler: str) -> None:
        yarn3.resourcemanager.kill()
        yarn3.reconfigure({HANDLER: handler})
        yarn3.start_resourcemanager()
        async with master_on(yarn3, tmp_path / "out") as master:
            cluster = await master.begin()
            asks = ("a", "b", "c", "d")
            for ask in asks:
                await cluster.request(ask)
            await eventually(lambda: len(master.heard.allocated()) == 3, "three are answered")
            expected = Mode.LISTED if handler == "disabled" else Mode.TAGGED
            assert cluster.view().placement == expected.value
            served = sorted(master.heard.allocated())
            assert on_nodes(master, *served) == list(NODES)
            left = next(ask for ask in asks if ask not in served)
            await eventually(lambda: left in master.heard.reasons(), "the reason is told")
            assert master.heard.reasons()[left].startswith("3 of 3 nodes have its instance already")
            one = master.heard.allocated()[served[0]]
            await cluster.launch(one.container_id, spec(master.out))
            await cluster.stop(one.container_id)
            await eventually(lambda: left in master.heard.allocated(), "the fourth is served")
            assert on_nodes(master, left) == [one.node]
            assert await used_containers(master) == 3
            assert not any(isinstance(event, AskRefused) for event in master.heard.events)
