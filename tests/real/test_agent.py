"""The whole agent against real parts: supervisord, tritonserver, ZooKeeper, and an Application Master in the test's hand."""

from __future__ import annotations

import asyncio
import os
import signal
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from kazoo.client import KazooClient

from tarn_agent.core.stats import parse
from tarn_common.endpoint import am_path, instance_path
from tarn_common.exits import Exit
from tarn_common.ids import ApplicationId, ContainerId
from tarn_common.wire import agent_pb2 as pb
from tests.rigs.am import HandAm
from tests.rigs.triton import Container, Containers, exists, infer, repository
from tests.rigs.wait import eventually
from tests.rigs.zookeeper import ZooKeeperServer

pytestmark = pytest.mark.real

CONTAINER = ContainerId("container_1700000000000_0001_01_000002")
APPLICATION = ApplicationId("application_1700000000000_0001")


class Rig:
    """One container with a real agent, its Application Master, and an eye on ZooKeeper from outside."""

    def __init__(self, containers: Containers, am: HandAm, zookeeper: ZooKeeperServer, zk_path: str, root: Path) -> None:
        self.containers, self.am, self.zookeeper, self.zk_path, self.root = containers, am, zookeeper, zk_path, root
        self.znode = instance_path(zk_path, CONTAINER)
        self.eye: Any = KazooClient(zookeeper.connect)
        self.container: Container

    async def launch(self, *models: str, secret: str = "", **more: str) -> Container:
        """A container of the named models; the agent knows its Application Master by the first guess."""
        found = repository(self.root / "models", *(models or ("identity",)))
        values = {
            "TARN_AM": f"127.0.0.1:{self.am.port}",
            "TARN_ZK_ENSEMBLE": self.zookeeper.connect,
            "TARN_ZK_PATH": self.zk_path,
            "TARN_PROBE_INTERVAL_S": "0.3",
            "TARN_PROBE_DEADLINE_S": "1",
            "TARN_DRAIN_GRACE_S": "0",
            **more,
        }
        environ = self.containers.environ(found, **{name: value for name, value in values.items() if value})
        self.am.credentials(
            Path(environ["HADOOP_TOKEN_FILE_LOCATION"]), secret=secret, digest="tarn:pw-of-tarn" if "TARN_ZK_AUTH" in more else ""
        )
        self.container = await self.containers.start_with(environ, ())
        return self.container

    async def serving(self, *models: str, **more: str) -> pb.PhaseChange:
        await self.launch(*models, **more)
        phase = await self.am.reached("READY")
        await eventually(lambda: self.standing() is not None, "the znode stands")
        return phase

    def standing(self) -> str | None:
        """The znode's data."""
        self.eye.start()
        return self.eye.get(self.znode)[0].decode() if self.eye.exists(self.znode) else None

    @property
    def triton_pid(self) -> int:
        return int(self.am.latest.hello.triton_pid)

    def tritons(self) -> list[psutil.Process]:
        return [child for child in self.container.children() if child.name().startswith("tritonserver")]

    def close(self) -> None:
        self.eye.stop()
        self.eye.close()


@pytest.fixture
async def am() -> AsyncIterator[HandAm]:
    found = HandAm()
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
def rig(containers: Containers, am: HandAm, zookeeper: ZooKeeperServer, zk_path: str, tmp_path: Path) -> Iterator[Rig]:
    found = Rig(containers, am, zookeeper, zk_path, tmp_path)
    yield found
    found.close()


class Load:
    """Requests one after another until it is ended; what failed is kept."""

    def __init__(self, port: int, model: str = "identity") -> None:
        self.port, self.model, self.failures, self.answered = port, model, list[str](), 0
        self._over = asyncio.Event()
        self._task = asyncio.ensure_future(self._run())

    async def _run(self) -> None:
        while not self._over.is_set():
            try:
                status, answer = await asyncio.to_thread(infer, self.port, self.model, INPUT=[1.0])
                self.failures += [] if status == 200 else [f"{status}: {answer}"]
                self.answered += 1
            except OSError as error:
                self.failures.append(str(error))

    async def end(self) -> None:
        self._over.set()
        await self._task


class TestStart:
    async def test_ready_is_announced_exactly_and_told_in_order(self, rig: Rig) -> None:
        ready = await rig.serving()
        assert rig.standing() == f"127.0.0.1:{ready.endpoint.http_port}"
        told = [pb.Phase.Name(phase.phase) for phase in rig.am.latest.phases]
        assert [name for at, name in enumerate(told) if at == 0 or told[at - 1] != name] == ["LAUNCHED", "STAGING", "STARTING", "READY"]
        assert [(model.name, model.state, model.wanted) for model in ready.models] == [("identity", "READY", True)]
        assert (await asyncio.to_thread(infer, ready.endpoint.http_port, "identity", INPUT=[1.0]))[0] == 200
        await eventually(lambda: rig.am.latest.phase.announced, "the Application Master hears of the znode")
        await eventually(lambda: any(stats.triton_known for stats in rig.am.latest.bodies("stats")), "Triton's rates are reported")
        assert rig.am.latest.hello.node == "127.0.0.1"

    async def test_nothing_is_taken_before_an_application_master_accepts(self, rig: Rig) -> None:
        rig.am.accepts = False
        container = await rig.launch()
        assert await container.status() == Exit.REFUSED
        assert "this container is not known here" in container.last_words
        assert container.log("triton") == ""
        assert rig.standing() is None
        assert not (container.run_dir / "triton.json").exists()

    async def test_a_digest_guards_the_znode(self, rig: Rig) -> None:
        await rig.serving(TARN_ZK_AUTH="digest")
        acls = {str(acl.id.scheme) for acl in rig.eye.get_acls(rig.znode)[0]}
        assert acls == {"digest", "world"}


class TestModelThatFails:
    async def test_strict_ends_the_container_with_tritons_reason(self, rig: Rig) -> None:
        container = await rig.launch("identity", "broken")
        failed = await rig.am.reached("FAILED")
        assert failed.reason_code == "model"
        assert "broken: " in failed.reason
        assert "no weights at /models/weights.bin" in failed.reason
        assert await container.status() == Exit.MODEL
        assert "no weights at /models/weights.bin" in container.last_words
        assert rig.standing() is None

    async def test_partial_serves_the_rest(self, rig: Rig) -> None:
        ready = await rig.serving("identity", "broken", TARN_MODEL_FAILURE="partial")
        assert {model.name: model.state for model in ready.models} == {"identity": "READY", "broken": "UNAVAILABLE"}
        assert "no weights" in ready.reason

    async def test_one_that_hangs_on_load_is_named(self, rig: Rig) -> None:
        container = await rig.launch("identity", "stuck", TARN_LOAD_STALL_S="3")
        failed = await rig.am.reached("FAILED")
        assert "stuck" in failed.reason
        assert "identity" not in failed.reason.partition("did not load")[0]
        assert await container.status() == Exit.MODEL


class TestAgentKilled:
    async def test_triton_serves_on_and_its_znode_never_blinks(self, rig: Rig) -> None:
        ready = await rig.serving()
        born, triton, agent = rig.eye.exists(rig.znode).czxid, rig.tritons()[0].pid, rig.container.agent_pid()
        assert agent is not None
        first = rig.am.latest
        load = Load(ready.endpoint.http_port)
        os.kill(agent, signal.SIGKILL)
        await eventually(lambda: rig.am.latest is not first, "another agent says hello")
        hello = rig.am.latest.hello
        assert pb.Phase.Name(hello.phase.phase) == "READY"
        assert (hello.triton_pid, hello.phase.endpoint) == (triton, ready.endpoint)
        assert hello.incarnation != first.hello.incarnation
        assert hello.versions["triton"] == hello.phase.triton_version == ready.triton_version != ""
        await eventually(lambda: rig.am.latest.phase.announced, "the znode is the new agent's")
        await load.end()
        assert rig.eye.exists(rig.znode).czxid == born
        assert load.failures == []
        assert load.answered > 0

    async def test_with_the_application_master_away_the_next_one_serves_on_too(self, rig: Rig) -> None:
        await rig.serving()
        triton, agent = rig.tritons()[0].pid, rig.container.agent_pid()
        assert agent is not None
        await rig.am.stop()
        os.kill(agent, signal.SIGKILL)
        await eventually(lambda: rig.container.log("agent").count('"was": "STARTING"') == 2, "the next agent is READY")
        assert rig.standing() is not None
        assert rig.tritons()[0].pid == triton

    async def test_a_triton_that_died_meanwhile_is_not_left_announced(self, rig: Rig) -> None:
        await rig.serving()
        agent = psutil.Process(rig.container.agent_pid())
        triton = rig.tritons()[0].pid
        agent.suspend()
        os.kill(triton, signal.SIGKILL)
        agent.kill()
        await eventually(lambda: rig.tritons() and rig.tritons()[0].pid != triton, "another Triton runs")
        await rig.am.reached("READY")
        await eventually(lambda: rig.standing() is not None, "the znode is back")


class TestTritonKilled:
    async def test_the_znode_goes_and_comes_back_with_it(self, rig: Rig) -> None:
        ready = await rig.serving()
        gone = asyncio.Event()
        loop = asyncio.get_running_loop()
        rig.eye.exists(rig.znode, watch=lambda _event: loop.call_soon_threadsafe(gone.set))
        os.kill(rig.tritons()[0].pid, signal.SIGKILL)
        await asyncio.wait_for(gone.wait(), 60)
        await eventually(lambda: rig.standing() is not None, "the znode is back")
        again = await rig.am.reached("READY")
        # Usually the same ports; others where a model's process has not let go of an inherited socket yet.
        assert (again.endpoint.host, again.triton_restarts) == (ready.endpoint.host, 1)
        assert rig.standing() == f"127.0.0.1:{again.endpoint.http_port}"
        unready = next(phase for phase in rig.am.latest.phases if phase.phase == pb.UNREADY)
        assert "tritonserver ended once" in unready.reason

    async def test_while_its_repository_is_away_it_comes_back_with_it(self, rig: Rig) -> None:
        await rig.serving()
        repository, away = rig.root / "models", rig.root / "away"
        repository.rename(away)
        os.kill(rig.tritons()[0].pid, signal.SIGKILL)
        await eventually(lambda: "does not exist on this node" in rig.am.latest.phase.reason, "the reason tells it")
        assert rig.am.latest.phase.phase == pb.UNREADY
        away.rename(repository)
        assert (await rig.am.reached("READY")).triton_restarts == 1

    async def test_it_is_given_up_with_the_end_of_its_log(self, rig: Rig) -> None:
        await rig.serving(TARN_TRITON_RESTART_LIMIT="0")
        os.kill(rig.tritons()[0].pid, signal.SIGKILL)
        failed = await rig.am.reached("FAILED")
        assert failed.reason_code == "triton"
        assert "its log ends: " in failed.reason
        assert await rig.container.status() == Exit.TRITON


class TestTritonHung:
    async def test_it_is_hidden_at_once_then_killed_and_started_again(self, rig: Rig) -> None:
        await rig.serving(TARN_HANG_S="2")
        hung = rig.tritons()[0]
        hung.suspend()
        await eventually(lambda: rig.standing() is None, "the znode is gone")
        assert exists(hung.pid)
        await eventually(lambda: not exists(hung.pid), "the hung one was killed")
        await rig.am.reached("READY")
        await eventually(lambda: rig.standing() is not None, "the znode is back")


class TestZooKeeperAway:
    async def test_stopped_for_longer_than_the_session(
        self, containers: Containers, am: HandAm, own_zookeeper: ZooKeeperServer, zk_path: str, tmp_path: Path
    ) -> None:
        rig = Rig(containers, am, own_zookeeper, zk_path, tmp_path)
        ready = await rig.serving(TARN_ZK_SESSION_S="1")
        load = Load(ready.endpoint.http_port)
        await asyncio.to_thread(own_zookeeper.stop)
        await eventually(lambda: not am.latest.phase.announced, "the agent knows that its znode stands no more")
        await asyncio.to_thread(own_zookeeper.start)
        await eventually(lambda: am.latest.phase.announced, "the znode is back")
        assert rig.eye.get_children(zk_path) == [CONTAINER]
        assert pb.Phase.Name(am.latest.phase.phase) == "READY"
        await load.end()
        assert load.failures == []
        rig.close()


class TestDrain:
    async def test_no_request_in_flight_is_lost(self, rig: Rig) -> None:
        ready = await rig.serving("slow")
        flights = await in_flight(ready, 1.5)
        rig.am.latest.order(drain=pb.Drain(deadline=60, grace=0.2, reason="scaled down"))
        await rig.am.reached("DRAINING")
        await eventually(lambda: rig.standing() is None, "the znode is gone")
        assert not flights[0].done()
        assert [(await flight)[0] for flight in flights] == [200, 200]
        assert await rig.container.status() == Exit.DRAINED
        assert rig.container.last_words == "tarn: drained: scaled down"
        assert [pb.Phase.Name(phase.phase) for phase in rig.am.latest.phases][-1] == "STOPPED"
        assert rig.am.latest.phase.reason_code == "drained"

    async def test_its_deadline_bounds_it(self, rig: Rig) -> None:
        ready = await rig.serving("slow")
        flights = await in_flight(ready, 30.0)
        rig.am.latest.order(drain=pb.Drain(deadline=4, grace=0, reason="hurry"))
        assert await rig.container.status() == Exit.DRAINED
        ends = await asyncio.gather(*flights, return_exceptions=True)
        assert all(isinstance(end, OSError) or (isinstance(end, tuple) and end[0] != 200) for end in ends)

    async def test_a_drain_is_finished_by_the_next_agent(self, rig: Rig) -> None:
        ready = await rig.serving("slow")
        flights = await in_flight(ready, 4.0)
        rig.am.latest.order(drain=pb.Drain(deadline=60, grace=0, reason="scaled down"))
        await rig.am.reached("DRAINING")
        agent = rig.container.agent_pid()
        assert agent is not None
        os.kill(agent, signal.SIGKILL)
        assert [(await flight)[0] for flight in flights] == [200, 200]
        assert await rig.container.status() == Exit.DRAINED
        assert rig.standing() is None

    async def test_stop_ends_at_once(self, rig: Rig) -> None:
        await rig.serving("slow")
        rig.am.latest.order(stop=pb.Stop(reason="replaced"))
        assert await rig.container.status() == Exit.ORDERED
        assert rig.standing() is None

    async def test_a_term_to_the_container_drains_too(self, rig: Rig) -> None:
        ready = await rig.serving("slow")
        flights = await in_flight(ready, 1.0)
        rig.container.term()
        assert [(await flight)[0] for flight in flights] == [200, 200]
        assert await rig.container.status() == Exit.TERMINATED
        assert rig.standing() is None
        assert rig.am.latest.phase.reason_code == "terminated"


class TestApplicationMasterAway:
    async def test_a_new_one_is_found_by_its_file_and_told_everything(self, rig: Rig) -> None:
        record = rig.root / "am.json"
        record.write_bytes(rig.am.rendezvous.encode())
        ready = await rig.serving(TARN_RENDEZVOUS=str(record), TARN_AM="")
        triton = rig.tritons()[0].pid
        await rig.am.stop()
        other = HandAm("am-2")
        other.identity, other.secret = rig.am.identity, rig.am.secret
        await other.start()
        replaced = record.with_suffix(".new")
        replaced.write_bytes(other.rendezvous.encode())
        replaced.replace(record)
        await other.reached("READY")
        hello = other.latest.hello
        assert (hello.phase.endpoint, hello.triton_pid) == (ready.endpoint, triton)
        assert [(model.name, model.state) for model in hello.phase.models] == [("identity", "READY")]
        assert hello.HasField("stats")
        await other.stop()

    async def test_a_new_one_is_found_by_its_znode_while_the_old_one_stands(self, rig: Rig) -> None:
        path = am_path(rig.zk_path, APPLICATION)
        rig.eye.start()
        rig.eye.create(path, rig.am.rendezvous.encode(), makepath=True)
        await rig.serving(TARN_AM="")
        other = HandAm("am-2")
        other.identity, other.secret = rig.am.identity, rig.am.secret
        await other.start()
        rig.eye.set(path, other.rendezvous.encode())
        await other.reached("READY")
        await eventually(lambda: rig.am.latest.over, "the old one's stream is over")
        await other.stop()

    async def test_orphans_drain_and_end(self, rig: Rig) -> None:
        await rig.serving(TARN_LEASE_S="5")
        await rig.am.stop()
        assert await rig.container.status() == Exit.ORPHANED
        assert rig.standing() is None

    async def test_a_wrong_secret_is_told_once_and_takes_nothing(self, rig: Rig) -> None:
        container = await rig.launch(secret="not-the-secret-of-this-application", TARN_ACCEPT_S="6")
        assert await container.status() == Exit.ORPHANED
        assert rig.am.turned_away > 1
        assert container.log("agent").count("am_is_not_ours") == 1
        assert "not-the-secret" not in container.log("agent")
        assert container.log("triton") == ""

    async def test_a_stranger_with_another_certificate_is_told_nothing(self, rig: Rig, am: HandAm) -> None:
        stranger = HandAm()
        await stranger.start()
        record = rig.root / "am.json"
        record.write_bytes(stranger.rendezvous.encode())
        await rig.serving(TARN_RENDEZVOUS=str(record))
        assert stranger.conversations == []
        assert stranger.turned_away == 0
        await stranger.stop()


class TestOrders:
    async def test_models_come_and_go_while_the_others_serve(self, rig: Rig) -> None:
        ready = await rig.serving("identity", "slow", TARN_MODELS="identity")
        load = Load(ready.endpoint.http_port)
        rig.am.latest.order(model=pb.ModelCommand(request_id=1, action=pb.ModelCommand.LOAD, model="slow"))
        await _answered(rig.am, 1)
        await eventually(lambda: _states(rig.am) == {"identity": "READY", "slow": "READY"}, "slow is READY")
        rig.am.latest.order(model=pb.ModelCommand(request_id=2, action=pb.ModelCommand.RELOAD, model="slow"))
        rig.am.latest.order(model=pb.ModelCommand(request_id=3, action=pb.ModelCommand.UNLOAD, model="slow"))
        rig.am.latest.order(model=pb.ModelCommand(request_id=4, action=pb.ModelCommand.LOAD, model="nothing"))
        results = [await _answered(rig.am, number) for number in (2, 3, 4)]
        assert [result.ok for result in results] == [True, True, False]
        assert "nothing" in results[2].error
        await load.end()
        assert load.failures == []
        assert pb.UNREADY not in [phase.phase for phase in rig.am.latest.phases]

    async def test_logs_are_shown_and_followed(self, rig: Rig) -> None:
        await rig.serving()
        rig.am.latest.order(tail_logs=pb.TailLogs(request_id=1, source="triton", lines=5))
        rig.am.latest.order(tail_logs=pb.TailLogs(request_id=2, source="agent", lines=0, follow=True))
        rig.am.latest.order(tail_logs=pb.TailLogs(request_id=3, source="../../etc/passwd", lines=5))
        await eventually(lambda: {part.request_id for part in _log_parts(rig.am) if part.end} == {1, 3}, "both that end have ended")
        assert sum(len(part.lines) for part in _log_parts(rig.am) if part.request_id == 1) == 5
        assert next(part for part in _log_parts(rig.am) if part.request_id == 3).error.startswith("there is no log")
        rig.am.latest.order(model=pb.ModelCommand(request_id=9, action=pb.ModelCommand.RELOAD, model="identity"))
        await eventually(
            lambda: any("model_ordered" in line for part in _log_parts(rig.am) for line in part.lines if part.request_id == 2), "it follows"
        )

    async def test_what_is_not_known_is_passed_over(self, rig: Rig) -> None:
        await rig.serving()
        rig.am.latest.down.put_nowait(pb.AmMessage())
        rig.am.latest.down.put_nowait(pb.AmMessage.FromString(b"\xf2\x3f\x02\x08\x01"))
        rig.am.latest.order(model=pb.ModelCommand(request_id=1, action=77, model="identity"))  # type: ignore[arg-type]
        assert "77" in (await _answered(rig.am, 1)).error


class TestSettings:
    async def test_a_missing_secret_is_one_line_and_one_status(self, rig: Rig) -> None:
        environ = rig.containers.environ(repository(rig.root / "models", "identity"))
        container = await rig.containers.start_with(environ, ())
        assert await container.status() == Exit.SETTINGS
        assert "holds no secret 'tarn.am.certificate'" in container.last_words
        assert "Traceback" not in container.log("agent")

    async def test_a_missing_repository_is_told_with_its_path(self, rig: Rig) -> None:
        container = await rig.launch(TARN_MODEL_REPOSITORY=str(rig.root / "nowhere"))
        assert "nowhere" in (await rig.am.reached("FAILED")).reason
        assert await container.status() == Exit.STAGING


async def in_flight(ready: pb.PhaseChange, delay_s: float) -> list[asyncio.Task[tuple[int, Any]]]:
    """Two requests to the model `slow`, which has one instance: when one of them waits in the queue, the other executes."""
    both = [asyncio.ensure_future(asyncio.to_thread(infer, ready.endpoint.http_port, "slow", DELAY=[delay_s])) for _ in range(2)]

    def one_waits() -> bool:
        with urllib.request.urlopen(f"http://127.0.0.1:{ready.endpoint.metrics_port}/metrics", timeout=60) as page:
            return parse(page.read().decode()).models["slow", "1"].pending == 1

    await eventually(lambda: asyncio.to_thread(one_waits), "one request executes and one waits")
    return both


def _states(am: HandAm) -> dict[str, str]:
    return {model.name: model.state for model in am.latest.phase.models}


def _log_parts(am: HandAm) -> list[pb.LogLines]:
    return list(am.latest.bodies("log_lines"))


async def _answered(am: HandAm, request_id: int) -> pb.CommandResult:
    found: Callable[[], list[pb.CommandResult]] = lambda: [r for r in am.latest.bodies("result") if r.request_id == request_id]  # noqa: E731
    await eventually(found, f"an answer to {request_id}")
    return found()[0]
