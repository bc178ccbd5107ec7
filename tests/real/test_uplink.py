"""The agent's stream against Application Masters of every kind: right, wrong, hung, deaf, babbling and half-open."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from structlog.testing import capture_logs

from tarn_agent.finder import Finder
from tarn_agent.settings import AgentSettings
from tarn_agent.uplink import Proof, Uplink
from tarn_common.wire import agent_pb2 as pb
from tests.rigs.am import HandAm
from tests.rigs.wait import eventually

pytestmark = pytest.mark.real

CONTAINER = "container_1700000000000_0001_01_000002"


class Voice:
    """The agent's side: remembers what the uplink says."""

    def __init__(self) -> None:
        self.accepted_by: list[str] = []
        self.refusals: list[str] = []
        self.losses = 0
        self.heard: list[pb.AmMessage] = []

    def hello(self) -> pb.AgentMessage:
        return pb.AgentMessage(hello=pb.Hello(protocol=1, container_id=CONTAINER, phase=pb.PhaseChange(phase=pb.READY)))

    def accepted(self, welcome: pb.Welcome) -> None:
        self.accepted_by.append(welcome.am_incarnation)

    def refused(self, reason: str) -> None:
        self.refusals.append(reason)

    def lost(self) -> None:
        self.losses += 1

    def told(self, message: pb.AmMessage) -> None:
        self.heard.append(message)


class Rig:
    """An uplink that knows its Application Master by a file."""

    def __init__(self, am: HandAm, root: Path) -> None:
        self.am, self.file, self.voice = am, root / "am.json", Voice()
        settings = AgentSettings(
            container_id=CONTAINER,
            application_id="application_1700000000000_0001",
            credentials="",
            log_dir="",
            run_dir="",
            data_dir="",
            model_repository="",
            rendezvous=str(self.file),
        )
        self.uplink = Uplink(Proof(CONTAINER, am.secret, am.identity.certificate), Finder(settings, None), self.voice)
        self.task = asyncio.ensure_future(self.uplink.run())

    def point_to(self, am: HandAm, port: int = 0) -> None:
        temporary = self.file.with_suffix(".tmp")
        text = am.rendezvous.encode().decode().replace(f":{am.port}", f":{port or am.port}")
        temporary.write_text(text)
        temporary.replace(self.file)

    async def connected(self) -> None:
        await eventually(lambda: self.uplink.connected, "the stream stands")

    async def close(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@pytest.fixture
async def am() -> AsyncIterator[HandAm]:
    found = HandAm()
    await found.start()
    yield found
    await found.stop()


@pytest.fixture
async def rig(am: HandAm, tmp_path: Path) -> AsyncIterator[Rig]:
    found = Rig(am, tmp_path)
    yield found
    await found.close()


class TestRightOne:
    async def test_is_found_as_soon_as_it_is_named(self, rig: Rig) -> None:
        await asyncio.sleep(0)
        rig.point_to(rig.am)
        await rig.connected()
        assert rig.voice.accepted_by == ["am-1"]
        rig.am.latest.order(drain=pb.Drain(deadline=1))
        await eventually(lambda: rig.voice.heard, "its order is heard")
        rig.uplink.send(pb.AgentMessage(phase=pb.PhaseChange(phase=pb.DRAINING)))
        await eventually(lambda: rig.am.latest.phase.phase == pb.DRAINING, "the answer is heard")

    async def test_that_goes_and_comes_is_told_everything_again(self, rig: Rig) -> None:
        rig.point_to(rig.am)
        await rig.connected()
        port = rig.am.port
        for times in range(1, 4):
            await rig.am.stop()
            await eventually(lambda: not rig.uplink.connected, "the loss is seen")
            await rig.am.start(port)
            await rig.connected()
            assert rig.voice.losses == times
        assert len(rig.am.conversations) == 4

    async def test_is_told_the_last_words(self, rig: Rig) -> None:
        rig.point_to(rig.am)
        await rig.connected()
        for number in range(50):
            rig.uplink.send(pb.AgentMessage(phase=pb.PhaseChange(phase=pb.STOPPED, since=number)))
        await rig.uplink.finish(30.0)
        assert rig.am.latest.over
        assert [phase.since for phase in rig.am.latest.phases[1:]] == list(range(50))

    async def test_that_refuses_is_obeyed_and_not_asked_again(self, rig: Rig) -> None:
        rig.am.accepts = False
        rig.point_to(rig.am)
        await eventually(lambda: rig.voice.refusals, "the refusal is heard")
        assert rig.voice.refusals == ["this container is not known here"]
        assert len(rig.am.conversations) == 1
        assert rig.voice.accepted_by == []


class TestAway:
    async def test_last_words_to_nobody_take_no_time(self, rig: Rig) -> None:
        await rig.uplink.finish(0.5)

    async def test_is_tried_at_a_pace_and_told_once(self, rig: Rig, am: HandAm) -> None:
        port = am.port
        await am.stop()
        with capture_logs() as logs:
            rig.point_to(am)
            await eventually(lambda: len([line for line in logs if line["event"] == "am_not_reached"]) > 3, "it is tried again")
        assert len([line for line in logs if line["event"] == "am_not_reached" and line["log_level"] != "debug"]) == 1
        await am.start(port)
        await rig.connected()


class TestWrongOne:
    async def test_garbage_on_the_port_is_passed_over(self, rig: Rig) -> None:
        async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n" + bytes(range(256)) * 20)
            writer.close()

        stranger = await asyncio.start_server(babble, "127.0.0.1", 0)
        rig.point_to(rig.am, stranger.sockets[0].getsockname()[1])
        with capture_logs() as logs:
            await eventually(lambda: [line for line in logs if line["event"] in ("am_is_not_ours", "am_not_reached")], "it is told")
        rig.point_to(rig.am)
        await rig.connected()
        stranger.close()

    async def test_one_with_another_certificate_sees_no_secret(self, rig: Rig) -> None:
        stranger = HandAm()
        stranger.secret = rig.am.secret
        await stranger.start()
        with capture_logs() as logs:
            rig.point_to(stranger)
            await eventually(lambda: [line for line in logs if line["event"] == "am_is_not_ours"], "it is told")
        assert (stranger.conversations, stranger.turned_away) == ([], 0)
        rig.point_to(rig.am)
        await rig.connected()
        await stranger.stop()

    async def test_one_that_says_what_is_no_message_loses_only_its_stream(self, rig: Rig) -> None:
        raw = _Raw(rig.am, [b"\xff\xff\xff\xff"])
        await raw.start()
        rig.point_to(rig.am, raw.port)
        await eventually(lambda: raw.streams > 1, "it is tried again")
        rig.point_to(rig.am)
        await rig.connected()
        await raw.stop()

    async def test_one_that_never_says_welcome_is_left(self, rig: Rig) -> None:
        raw = _Raw(rig.am, [])
        await raw.start()
        rig.point_to(rig.am, raw.port)
        await eventually(lambda: raw.streams > 0, "it was asked")
        with capture_logs() as logs:
            await eventually(lambda: any("no welcome" in line.get("details", "") for line in logs), "it is left")
        rig.point_to(rig.am)
        await rig.connected()
        await raw.stop()


class TestDeafOne:
    async def test_what_waits_for_it_does_not_grow(self, rig: Rig) -> None:
        welcome = pb.AmMessage(welcome=pb.Welcome(accepted=True, am_incarnation="deaf")).SerializeToString()
        raw = _Raw(rig.am, [welcome])
        await raw.start()
        rig.point_to(rig.am, raw.port)
        await rig.connected()
        long = "x" * 900_000
        for _ in range(400):
            rig.uplink.offer(pb.AgentMessage(stats=pb.Stats(gpus_unknown_reason=long)))
            rig.uplink.send(pb.AgentMessage(phase=pb.PhaseChange(reason=long)))
        await eventually(lambda: rig.voice.losses > 0, "its stream is given up")
        await raw.stop()


class TestOneWhoseStreamsBreak:
    async def test_while_much_is_said_is_come_back_to_every_time(self, rig: Rig) -> None:
        """A write may find its call over before the reader does."""
        raw = _Breaking(rig.am, [pb.AmMessage(welcome=pb.Welcome(accepted=True, am_incarnation="short")).SerializeToString()])
        await raw.start()
        rig.point_to(rig.am, raw.port)

        def said_and_sixty() -> bool:
            rig.uplink.send(pb.AgentMessage(phase=pb.PhaseChange(reason="x")))
            return raw.streams > 60 or rig.task.done()

        talking = asyncio.ensure_future(_at_every_turn(said_and_sixty))
        await asyncio.wait_for(talking, 120.0)
        assert not rig.task.done()
        rig.point_to(rig.am)
        await eventually(lambda: "am-1" in rig.voice.accepted_by, "the right one is found")
        await raw.stop()


class TestHalfOpenConnection:
    async def test_is_noticed_at_rest(self, rig: Rig) -> None:
        wire = _Wire(rig.am.port)
        await wire.start()
        rig.point_to(rig.am, wire.port)
        await rig.connected()
        wire.cut.set()
        await eventually(lambda: rig.voice.losses > 0, "the loss is seen")
        rig.point_to(rig.am)
        await rig.connected()
        await wire.stop()


class _Raw:
    """A server with the right certificate that answers a stream with the bytes given, and reads nothing after the hello."""

    def __init__(self, am: HandAm, answers: list[bytes]) -> None:
        self._am, self._answers = am, answers
        self.streams = 0

    async def start(self) -> None:
        handler = grpc.stream_stream_rpc_method_handler(self._serve)
        self._server = grpc.aio.server()
        self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("tarn.agent.v1.Uplink", {"Connect": handler}),))
        credentials = grpc.ssl_server_credentials([(self._am.identity.key, self._am.identity.certificate)])
        self.port = self._server.add_secure_port("127.0.0.1:0", credentials)
        await self._server.start()

    async def _serve(self, _requests: Any, context: Any) -> None:
        self.streams += 1
        await context.read()
        for answer in self._answers:
            await context.write(answer)
        await asyncio.Event().wait()

    async def stop(self) -> None:
        await self._server.stop(0)


class _Breaking(_Raw):
    """Aborts each stream as soon as it has heard a few messages, each time another number."""

    async def _serve(self, _requests: Any, context: Any) -> None:
        self.streams += 1
        await context.read()
        for answer in self._answers:
            await context.write(answer)
        for _ in range(self.streams % 7):
            await context.read()
        await context.abort(grpc.StatusCode.UNAVAILABLE, "it breaks")


async def _at_every_turn(done: Callable[[], bool]) -> None:
    """Calls it at each turn of the event loop, until it says so."""
    while not done():
        await asyncio.sleep(0)


class _Wire:
    """A TCP connection passed on byte for byte, until it is cut: then nothing passes, and nobody is told."""

    def __init__(self, to: int) -> None:
        self._to = to
        self.cut = asyncio.Event()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                if self.cut.is_set():
                    await asyncio.Event().wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    async def stop(self) -> None:
        self._server.close()
