"""The agents' gRPC server over real TLS: the well-behaved, the strangers, the absurd and the dead."""

from __future__ import annotations

import asyncio
import io
import logging
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from tarn_am.agent_stream import OUTGOING_KEPT, TAIL_LINES_KEPT
from tarn_am.agents import AgentServer, AgentServerError, Terms
from tarn_am.core.events import AgentHello, AgentLost, AgentPhase
from tarn_am.core.model import Phase
from tarn_am.ports import CommandFailed, ModelAction, NotConnected
from tarn_common import logs
from tarn_common.clock import SystemClock
from tarn_common.ids import ContainerId
from tarn_common.wire import agent_pb2 as pb
from tests.rigs.agents import APPLICATION, SECRET, AgentsRig, HandAgent, agents_rig
from tests.rigs.wait import eventually

pytestmark = pytest.mark.real


@pytest.fixture
async def rig() -> AsyncIterator[AgentsRig]:
    async for found in agents_rig():
        yield found


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the process logs."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    stream = io.StringIO()
    logs.configure("INFO", stream, json=True)
    yield stream
    root.handlers[:] = before
    root.setLevel(level)


class TestAConversation:
    async def test_hello_phase_and_end(self, rig: AgentsRig) -> None:
        agent = rig.agent(rig.container(2))
        welcome = await agent.hello()
        assert (welcome.accepted, welcome.report_interval, welcome.lease, welcome.am_incarnation) == (True, 1.0, 600.0, "incarnation")
        await agent.send(phase=pb.PhaseChange(phase=pb.STAGING, reason="copies"))
        await eventually(lambda: bool(rig.door.heard(AgentPhase)))
        assert rig.door.heard(AgentPhase)[0].report.phase is Phase.STAGING
        await agent.close()
        await eventually(lambda: bool(rig.door.heard(AgentLost)))
        assert [type(event) for event in rig.door.told] == [AgentHello, AgentPhase, AgentLost]

    async def test_of_many_reports_the_fleet_hears_the_newest(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        for number in range(500):
            await agent.send(stats=pb.Stats(in_flight=float(number)))
        await eventually(lambda: bool(rig.door.reports) and rig.door.reports[-1].samples[rig.container(2)].in_flight == 499.0)
        assert len(rig.door.reports) < 250

    async def test_fields_and_bodies_of_a_newer_agent_are_ignored(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        unknown = b"\xfa\x3e\x03new"  # field 1007, three bytes
        await agent.call.write(pb.AgentMessage.FromString(unknown))
        await agent.call.write(
            pb.AgentMessage.FromString(pb.AgentMessage(phase=pb.PhaseChange(phase=pb.STAGING)).SerializeToString() + unknown)
        )
        await eventually(lambda: bool(rig.door.heard(AgentPhase)))

    async def test_orders_reach_their_agent(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        assert rig.server.drain(rig.container(2), 120.0, 3.0, "scaled down")
        assert (await agent.read()).drain == pb.Drain(deadline=120.0, grace=3.0, reason="scaled down")
        assert rig.server.stop(rig.container(2), "now")
        assert (await agent.read()).stop.reason == "now"
        assert not rig.server.drain(rig.container(3), 1.0, 1.0, "nobody there")


class TestCommands:
    async def test_an_answer(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        order = asyncio.create_task(rig.server.model(rig.container(2), ModelAction.RELOAD, "mnist"))
        command = (await agent.read()).model
        assert (command.action, command.model) == (pb.ModelCommand.RELOAD, "mnist")
        await agent.send(result=pb.CommandResult(request_id=command.request_id + 1, ok=False, error="not asked"))
        await agent.send(result=pb.CommandResult(request_id=command.request_id, ok=True))
        await order

    async def test_a_refusal_carries_the_agents_reason(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        order = asyncio.create_task(rig.server.model(rig.container(2), ModelAction.LOAD, "mnist"))
        command = (await agent.read()).model
        await agent.send(result=pb.CommandResult(request_id=command.request_id, error="no such model\x1b[2J"))
        with pytest.raises(CommandFailed, match=r"no such model \[2J"):
            await order

    async def test_nobody_there(self, rig: AgentsRig) -> None:
        with pytest.raises(NotConnected):
            await rig.server.model(rig.container(2), ModelAction.LOAD, "mnist")

    async def test_the_agent_dies_before_it_answers(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        order = asyncio.create_task(rig.server.model(rig.container(2), ModelAction.LOAD, "mnist"))
        await agent.read()
        await agent.close()
        with pytest.raises(NotConnected):
            await order


class TestLogs:
    async def test_lines_until_the_end(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        reader = asyncio.create_task(_all(rig.server.tail(rig.container(2), "triton", 10, False)))
        wanted = (await agent.read()).tail_logs
        assert (wanted.source, wanted.lines, wanted.follow) == ("triton", 10, False)
        await agent.send(log_lines=pb.LogLines(request_id=wanted.request_id, lines=["one", "two\x07"]))
        await agent.send(log_lines=pb.LogLines(request_id=wanted.request_id, lines=["three"], end=True))
        assert await reader == ["one", "two", "three"]

    async def test_a_reader_that_goes_away_ends_the_tail(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        lines: Any = rig.server.tail(rig.container(2), "triton", 1, True)
        first = asyncio.ensure_future(anext(lines))
        wanted = (await agent.read()).tail_logs
        await agent.send(log_lines=pb.LogLines(request_id=wanted.request_id, lines=["one"]))
        assert await first == "one"
        await lines.aclose()
        assert (await agent.read()).tail_logs == pb.TailLogs(request_id=wanted.request_id, cancel=True)

    async def test_a_log_faster_than_its_reader_loses_lines_and_says_so(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        lines: Any = rig.server.tail(rig.container(2), "triton", 1, True)
        first = asyncio.ensure_future(anext(lines))
        wanted = (await agent.read()).tail_logs
        for batch in range(60):
            await agent.send(log_lines=pb.LogLines(request_id=wanted.request_id, lines=[f"{batch}"] * 100))
        await agent.send(phase=pb.PhaseChange(phase=pb.STAGING))
        await eventually(lambda: bool(rig.door.heard(AgentPhase)))
        await first
        for _ in range(TAIL_LINES_KEPT - 1):
            await anext(lines)
        await agent.send(log_lines=pb.LogLines(request_id=wanted.request_id, lines=["last"], end=True))
        rest = [line async for line in lines]
        assert "lines left out" in rest[-2]
        assert rest[-1] == "last"

    async def test_an_error_of_the_agent(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        reader = asyncio.create_task(_all(rig.server.tail(rig.container(2), "nonsense", 1, False)))
        wanted = (await agent.read()).tail_logs
        await agent.send(log_lines=pb.LogLines(request_id=wanted.request_id, error="there is no log 'nonsense'"))
        with pytest.raises(CommandFailed, match="nonsense"):
            await reader


async def _all(lines: AsyncIterator[str]) -> list[str]:
    return [line async for line in lines]


class TestStrangers:
    @pytest.mark.parametrize("secret", ["", "wrong", SECRET[:-1], SECRET + "x", SECRET.upper()])
    async def test_a_wrong_secret(self, rig: AgentsRig, secret: str) -> None:
        agent = rig.agent(rig.container(2), secret)
        assert (await agent.end())[0] is grpc.StatusCode.UNAUTHENTICATED
        assert rig.door.told == []

    async def test_it_is_logged_once_and_without_the_secret(self, rig: AgentsRig, log: io.StringIO) -> None:
        for _ in range(10):
            assert (await rig.agent(rig.container(2), "a-wrong-secret").end())[0] is grpc.StatusCode.UNAUTHENTICATED
        out = log.getvalue()
        assert out.count("agent_turned_away") == 1
        assert "a-wrong-secret" not in out
        assert SECRET not in out
        assert "Traceback" not in out

    async def test_an_unknown_container_is_told_why(self, rig: AgentsRig) -> None:
        agent = rig.agent("container_1700000000000_0001_01_000077")
        welcome = await agent.hello()
        assert not welcome.accepted
        assert "is not one of this fleet" in welcome.reason
        assert rig.door.told == []

    async def test_another_application(self, rig: AgentsRig) -> None:
        agent = rig.agent(rig.container(2))
        welcome = await agent.hello(application_id="application_1_0001")
        assert not welcome.accepted
        assert "not of application_1_0001" in welcome.reason

    @pytest.mark.parametrize("container", ["x", "container_1", "../../etc/passwd"])
    async def test_a_container_id_that_is_none(self, rig: AgentsRig, container: str) -> None:
        agent = rig.agent(container)
        assert (await agent.end())[0] is grpc.StatusCode.INVALID_ARGUMENT

    async def test_a_hello_for_somebody_else(self, rig: AgentsRig) -> None:
        agent = rig.agent(rig.container(2))
        await agent.send(hello=pb.Hello(protocol=1, application_id=APPLICATION, container_id=rig.container(3)))
        assert (await agent.end())[0] is grpc.StatusCode.INVALID_ARGUMENT

    @pytest.mark.parametrize("first", [{"phase": pb.PhaseChange(phase=pb.READY)}, {"hello": pb.Hello()}, {}])
    async def test_no_hello_first(self, rig: AgentsRig, first: dict[str, Any]) -> None:
        agent = rig.agent(rig.container(2))
        await agent.send(**first)
        assert (await agent.end())[0] is grpc.StatusCode.INVALID_ARGUMENT


class TestAbsurdMessages:
    async def test_bytes_that_are_no_message(self, rig: AgentsRig, capfd: pytest.CaptureFixture[str]) -> None:
        steady = await rig.welcomed(3)
        channel = grpc.aio.secure_channel(
            f"127.0.0.1:{rig.port}",
            grpc.ssl_channel_credentials(rig.identity.certificate),
            options=[("grpc.ssl_target_name_override", "tarn-am")],
        )
        raw: Any = channel.stream_stream("/tarn.agent.v1.Uplink/Connect", None, None)
        call = raw(metadata=(("authorization", f"Bearer {SECRET}"), ("tarn-container-id", rig.container(2))))
        await call.write(b"\xff\xff\xff not protobuf")
        assert await asyncio.wait_for(call.code(), 60) is grpc.StatusCode.INVALID_ARGUMENT
        await channel.close(None)
        await _still_served(rig, steady)
        assert "Traceback" not in capfd.readouterr().err

    async def test_a_hundred_megabytes(self, rig: AgentsRig) -> None:
        steady, agent = await rig.welcomed(3), await rig.welcomed(2)
        await agent.send(phase=pb.PhaseChange(phase=pb.STAGING, reason="x" * 100_000_000))
        assert (await agent.end())[0] is grpc.StatusCode.RESOURCE_EXHAUSTED
        await _still_served(rig, steady)

    async def test_absurd_content_is_made_harmless(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        change = pb.PhaseChange(phase=pb.STAGING, reason="\x1b[2J" + "x" * 500_000)
        for number in range(20_000):
            change.models.add(name=f"m{number}")
        await agent.send(phase=change)
        await eventually(lambda: bool(rig.door.heard(AgentPhase)))
        report = rig.door.heard(AgentPhase)[0].report
        assert len(report.models) == 1_000
        assert len(report.reason) == 2_000
        assert "\x1b" not in report.reason

    async def test_an_unknown_phase_is_passed_over(self, rig: AgentsRig) -> None:
        agent = await rig.welcomed()
        await agent.send(phase=pb.PhaseChange(phase=99))  # type: ignore[arg-type]
        await agent.send(phase=pb.PhaseChange(phase=pb.STAGING))
        await eventually(lambda: bool(rig.door.heard(AgentPhase)))
        assert len(rig.door.heard(AgentPhase)) == 1


async def _still_served(rig: AgentsRig, agent: HandAgent) -> None:
    assert rig.server.drain(ContainerId(agent.container), 1.0, 1.0, "are you there")
    assert (await agent.read()).drain.reason == "are you there"


class TestTwoStreamsOfOneContainer:
    async def test_the_newest_wins(self, rig: AgentsRig) -> None:
        old = await rig.welcomed()
        new = await rig.welcomed()
        assert await old.end() == (grpc.StatusCode.ABORTED, "a newer stream of the same container took its place")
        await _still_served(rig, new)
        assert rig.door.heard(AgentLost) == [], "the container has not lost its agent"
        await new.close()
        await eventually(lambda: len(rig.door.heard(AgentLost)) == 1)


class TestAnAgentThatDoesNotRead:
    async def test_loses_its_stream_and_nobody_waits_for_it(self, rig: AgentsRig) -> None:
        steady, deaf = await rig.welcomed(3), await rig.welcomed(2)
        # More than what the transport's windows and the queue hold together.
        sent = 0
        while rig.server.drain(rig.container(2), 1.0, 1.0, "x" * 100_000):
            sent += 1
            assert sent < 100 * OUTGOING_KEPT
            await asyncio.sleep(0)
        await _still_served(rig, steady)
        await eventually(lambda: bool(rig.door.heard(AgentLost)))
        await deaf.close()


class TestIdleAndGarbageConnections:
    async def test_garbage_and_two_thousand_idle_ones_disturb_nobody(self, rig: AgentsRig, capfd: pytest.CaptureFixture[str]) -> None:
        steady = await rig.welcomed(3)
        idle = [socket.create_connection(("127.0.0.1", rig.port)) for _ in range(2_000)]
        try:
            for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 10_000, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", bytes(range(256)) * 100):
                with socket.create_connection(("127.0.0.1", rig.port)) as stranger:
                    stranger.sendall(garbage)
            await _still_served(rig, steady)
            assert (await rig.agent(rig.container(4)).hello()).accepted, "and new ones are let in"
        finally:
            for one in idle:
                one.close()
        assert "Traceback" not in capfd.readouterr().err

    async def test_an_idle_connection_is_closed(self, rig: AgentsRig) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        assert await asyncio.wait_for(reader.read(1), 60) == b"", "no TLS within the handshake's deadline"
        writer.close()

    async def test_garbage_inside_tls(self, rig: AgentsRig) -> None:
        steady = await rig.welcomed(3)
        context = ssl.create_default_context(cadata=rig.identity.certificate.decode())
        context.set_alpn_protocols(["h2"])
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port, ssl=context, server_hostname="tarn-am")
        writer.write(bytes(range(256)) * 1000)
        await asyncio.wait_for(reader.read(), 60)
        writer.close()
        await _still_served(rig, steady)


_STOPPED_AGENT = """
import asyncio, sys
from pathlib import Path
from tests.rigs.agents import HandAgent
async def main():
    agent = HandAgent(int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), sys.argv[3])
    assert (await agent.hello()).accepted
    print("welcomed", flush=True)
    await agent.call.read()
asyncio.run(main())
"""


class TestADeadPeer:
    async def test_a_process_that_stands_still_is_noticed(self, rig: AgentsRig, tmp_path: Path) -> None:
        """Its sockets live on in the kernel; only the missing answer to a ping tells."""
        (tmp_path / "cert.pem").write_bytes(rig.identity.certificate)
        child = subprocess.Popen(
            [sys.executable, "-c", _STOPPED_AGENT, str(rig.port), str(tmp_path / "cert.pem"), rig.container(2)],
            stdout=subprocess.PIPE,
            cwd=Path(__file__).parents[2],
        )
        try:
            await eventually(lambda: bool(rig.door.heard(AgentHello)))
            child.send_signal(signal.SIGSTOP)
            await eventually(lambda: bool(rig.door.heard(AgentLost)))
        finally:
            child.kill()
            child.communicate()


class TestThePort:
    async def test_a_taken_one_is_passed_over_and_the_last_one_named(self, rig: AgentsRig) -> None:
        other = AgentServer(Terms(APPLICATION, "x", 1.0, 1.0, SECRET), SystemClock())
        with pytest.raises(AgentServerError, match=rf"the agents' port {rig.port} cannot be bound on 127\.0\.0\.1"):
            other.bind("127.0.0.1", [rig.port], rig.identity.key, rig.identity.certificate)
        assert other.bind("127.0.0.1", [rig.port, 0], rig.identity.key, rig.identity.certificate) != rig.port
        await other.close()

    async def test_an_address_of_another_machine(self, rig: AgentsRig) -> None:
        other = AgentServer(Terms(APPLICATION, "x", 1.0, 1.0, SECRET), SystemClock())
        with pytest.raises(AgentServerError):
            other.bind("192.0.2.1", [0], rig.identity.key, rig.identity.certificate)
