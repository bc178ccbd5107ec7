"""Peers that are slow, broken, lying or not Hadoop at all: one clear error or a repeat each, and never a hang.

They are small servers on loopback; what a well-behaved daemon does is tested on real ones.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest

from tarn_am.hadoop.errors import CallLost, CallTimeout, HadoopError, NotHadoop, ProtocolError, RemoteError, TooLarge, Unreachable
from tarn_am.hadoop.ipc import frames
from tarn_am.hadoop.ipc.client import HadoopClient, Patience
from tarn_am.hadoop.ipc.connection import Limits
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.pb import hdfs_pb2, rpc_pb2
from tarn_am.hadoop.protocols import CLIENT_NAMENODE, RpcProtocol
from tarn_common.backoff import Backoff
from tarn_common.credentials import Token
from tarn_common.endpoint import HostPort

SIMPLE = Login("alice")
BY_TOKEN = Login("alice", token=Token("HDFS_DELEGATION_TOKEN", "", b"id", b"pw"))
ONCE = RpcProtocol(CLIENT_NAMENODE.name, 1, frozenset())
"""A protocol of which nothing may be sent twice."""
QUICK = Limits(open_s=0.3, call_s=0.3, ping_s=30.0, idle_s=30.0)
CALM = Limits(open_s=20.0, call_s=20.0, ping_s=30.0, idle_s=30.0)
HASTY = Patience(give_up_s=0.0)
KEEN = Patience(give_up_s=20.0, backoff=Backoff(first_s=0.01, limit_s=0.05))


@dataclass(frozen=True)
class Call:
    """A request as the peer sees it."""

    call_id: int
    retry: int
    method: str
    client_id: bytes


@dataclass
class Line:
    """The peer's end of one connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    preamble: bytes = b""

    async def greet(self) -> None:
        self.preamble = await self.reader.readexactly(7)
        await self.header()

    async def header(self) -> tuple[rpc_pb2.RpcRequestHeaderProto, list[bytes]]:
        length = int.from_bytes(await self.reader.readexactly(4), "big")
        first, *rest = frames.split(await self.reader.readexactly(length))
        return rpc_pb2.RpcRequestHeaderProto.FromString(first), rest

    async def call(self) -> Call:
        header, bodies = await self.header()
        method = rpc_pb2.RequestHeaderProto.FromString(bodies[0]).methodName
        return Call(header.callId, header.retryCount, method, header.clientId)

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    def answer(self, call_id: int, mark: str = "") -> None:
        """A getFileInfo answer whose owner is `mark`."""
        status = hdfs_pb2.HdfsFileStatusProto(
            fileType=hdfs_pb2.HdfsFileStatusProto.IS_DIR, path=b"", length=0, permission=hdfs_pb2.FsPermissionProto(perm=0),
            owner=mark, group="", modification_time=0, access_time=0,
        )  # fmt: skip
        header = rpc_pb2.RpcResponseHeaderProto(callId=call_id & 0xFFFFFFFF, status=rpc_pb2.RpcResponseHeaderProto.SUCCESS)
        body = hdfs_pb2.GetFileInfoResponseProto(fs=status).SerializeToString()
        self._frame(frames.delimited(header.SerializeToString()) + frames.delimited(body))

    def refuse(self, call_id: int, name: str, *, fatal: bool = False) -> None:
        status = rpc_pb2.RpcResponseHeaderProto.FATAL if fatal else rpc_pb2.RpcResponseHeaderProto.ERROR
        header = rpc_pb2.RpcResponseHeaderProto(callId=call_id & 0xFFFFFFFF, status=status, exceptionClassName=name, errorMsg="no")
        self._frame(frames.delimited(header.SerializeToString()))

    def _frame(self, content: bytes) -> None:
        self.send(len(content).to_bytes(4, "big") + content)

    async def silence(self) -> None:
        """Until the client goes away."""
        while await self.reader.read(1 << 16):
            pass


Behaviour = Callable[[Line], Awaitable[None]]


@dataclass
class Peer:
    """Behaves in its first connection as the first behaviour says, and so on; the last one is for all that follow."""

    address: HostPort
    lines: list[Line] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


@asynccontextmanager
async def peer(*behaviours: Behaviour) -> AsyncIterator[Peer]:
    made: list[Peer] = []

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        line = Line(reader, writer)
        made[0].lines.append(line)
        made[0].tasks.append(asyncio.current_task())  # type: ignore[arg-type]
        try:
            await behaviours[min(len(made[0].lines), len(behaviours)) - 1](line)
        except (asyncio.IncompleteReadError, OSError):
            pass
        except Exception as error:  # noqa: BLE001 - the test looks at it
            made[0].faults.append(error)
        finally:
            writer.close()

    server = await asyncio.start_server(connected, "127.0.0.1", 0)
    made.append(Peer(HostPort("127.0.0.1", server.sockets[0].getsockname()[1])))
    try:
        yield made[0]
    finally:
        server.close()
        for line in made[0].lines:
            line.writer.transport.abort()
        await asyncio.wait_for(asyncio.gather(*made[0].tasks), 20)
    assert made[0].faults == []


def says(data: bytes, *, close: bool = False) -> Behaviour:
    """Sends `data` whatever it hears, then is silent or goes."""

    async def behave(line: Line) -> None:
        line.send(data)
        await line.writer.drain()
        if not close:
            await line.silence()

    return behave


async def goes_at_once(line: Line) -> None:
    line.writer.transport.abort()


async def goes_after_the_call(line: Line) -> None:
    await line.greet()
    await line.call()


async def serves(line: Line) -> None:
    """As it should be; the owner in the answer tells the retry count."""
    await line.greet()
    while True:
        call = await line.call()
        line.answer(call.call_id, str(call.retry))


async def info(client: HadoopClient, protocol: RpcProtocol = CLIENT_NAMENODE, timeout_s: float | None = None) -> str:
    """The owner that the peer answered with."""
    request = hdfs_pb2.GetFileInfoRequestProto(src="/")
    answer = await client.call(protocol, "getFileInfo", request, hdfs_pb2.GetFileInfoResponseProto, timeout_s=timeout_s)
    return answer.fs.owner


async def failure(behaviour: Behaviour, login: Login, limits: Limits = CALM, protocol: RpcProtocol = ONCE) -> HadoopError:
    """The error of one call, which names the peer."""
    async with peer(behaviour) as hostile, HadoopClient([hostile.address], login, limits, HASTY) as client:
        with pytest.raises(HadoopError) as caught:
            await info(client, protocol)
        assert str(hostile.address) in str(caught.value)
        return caught.value


class TestNotHadoop:
    @pytest.mark.parametrize("login", [SIMPLE, BY_TOKEN], ids=["simple", "token"])
    @pytest.mark.parametrize(
        ("data", "words"),
        [
            (b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "answers HTTP"),
            (bytes.fromhex("15030100020228"), "answers TLS"),
            (b"SSH-2.0-OpenSSH_9.2\r\n", "SSH-2.0"),
            (bytes(range(200, 256)), "first bytes"),
        ],
    )
    async def test_it_is_named_and_not_asked_again(self, login: Login, data: bytes, words: str) -> None:
        async with peer(says(data)) as hostile, HadoopClient([hostile.address], login, CALM, KEEN) as client:
            with pytest.raises(NotHadoop, match=words):
                await info(client)
            assert len(hostile.lines) == 1

    @pytest.mark.parametrize("login", [SIMPLE, BY_TOKEN], ids=["simple", "token"])
    async def test_garbage_within_a_frame_is_a_protocol_error(self, login: Login) -> None:
        assert isinstance(await failure(says(b"\x00\x00\x00\x04abcd"), login), ProtocolError)


class TestSilence:
    async def test_no_greeting_is_unreachable_after_its_time(self) -> None:
        error = await failure(says(b""), BY_TOKEN, QUICK)
        assert isinstance(error, Unreachable)
        assert "accepted the connection but did not finish the greeting within 0.3 s" in str(error)

    async def test_no_answer_is_a_timeout_after_its_time(self) -> None:
        error = await failure(says(b""), SIMPLE, QUICK)
        assert isinstance(error, CallTimeout)
        assert "did not answer getFileInfo within 0.3 s" in str(error)

    async def test_half_an_answer_is_no_answer(self) -> None:
        assert isinstance(await failure(says(b"\x00\x00\x00\x50half"), SIMPLE, QUICK), CallTimeout)

    async def test_a_connection_on_which_nothing_came_is_not_used_again(self) -> None:
        async with peer(says(b""), serves) as half_open, HadoopClient([half_open.address], SIMPLE, QUICK, HASTY) as client:
            with pytest.raises(CallTimeout):
                await info(client, ONCE)
            assert await info(client, timeout_s=20.0) == "0"
            assert len(half_open.lines) == 2

    async def test_one_slow_call_leaves_the_connection_to_the_others(self) -> None:
        async def slow_with_the_first(line: Line) -> None:
            await line.greet()
            await line.call()
            line.answer((await line.call()).call_id, "second")
            late = await line.call()
            line.answer(0, "first, too late")
            line.answer(late.call_id, "third")
            await line.silence()

        async with peer(slow_with_the_first) as busy, HadoopClient([busy.address], SIMPLE, CALM, HASTY) as client:
            first = asyncio.ensure_future(info(client, ONCE, timeout_s=0.3))
            await asyncio.sleep(0)
            assert await info(client, ONCE) == "second"
            with pytest.raises(CallTimeout):
                await first
            assert await info(client, ONCE) == "third"
            assert len(busy.lines) == 1


class TestPeersThatGo:
    async def test_one_that_goes_before_the_greeting_is_unreachable(self) -> None:
        assert isinstance(await failure(goes_at_once, BY_TOKEN), Unreachable)

    async def test_a_call_that_may_not_be_repeated_is_lost(self) -> None:
        assert isinstance(await failure(goes_after_the_call, SIMPLE), CallLost)

    async def test_a_call_that_may_be_repeated_is_with_the_same_id(self) -> None:
        seen: list[Call] = []

        async def counts(line: Line) -> None:
            await line.greet()
            seen.append(await line.call())
            if len(seen) == 3:
                line.answer(seen[-1].call_id, "at last")
                await line.silence()

        async with peer(counts) as unsteady, HadoopClient([unsteady.address], SIMPLE, CALM, KEEN) as client:
            assert await info(client) == "at last"
        assert [call.retry for call in seen] == [0, 1, 2]
        assert len({(call.call_id, call.client_id) for call in seen}) == 1

    async def test_every_call_in_flight_hears_of_it(self) -> None:
        async def two_then_gone(line: Line) -> None:
            await line.greet()
            await line.call()
            await line.call()

        async with peer(two_then_gone) as gone, HadoopClient([gone.address], SIMPLE, CALM, HASTY) as client:
            found = await asyncio.gather(info(client, ONCE), info(client, ONCE), return_exceptions=True)
        assert [type(error) for error in found] == [CallLost, CallLost]
        assert found[0] is not found[1]

    async def test_the_end_within_a_frame_is_told_from_the_end_between_two(self) -> None:
        async def torn(line: Line) -> None:
            await line.greet()
            await line.call()
            line.send(b"\x00\x00\x00\x50half")

        error = await failure(torn, SIMPLE)
        assert isinstance(error, ProtocolError)
        assert "in the middle of a frame, after 8 bytes" in str(error)

    async def test_closing_the_client_ends_its_calls(self) -> None:
        arrived = asyncio.Event()

        async def hears_one(line: Line) -> None:
            await line.greet()
            await line.call()
            arrived.set()
            await line.silence()

        async with peer(hears_one) as patient:
            client = HadoopClient([patient.address], SIMPLE, CALM, KEEN)
            waiting = asyncio.ensure_future(info(client))
            await arrived.wait()
            await client.close()
            with pytest.raises((CallLost, Unreachable)):
                await waiting
            with pytest.raises(Unreachable, match="closed"):
                await info(client)


class TestLies:
    async def test_an_answer_to_a_call_that_was_never_made_ends_the_connection(self) -> None:
        async def lies(line: Line) -> None:
            await line.greet()
            line.answer((await line.call()).call_id + 5)
            await line.silence()

        error = await failure(lies, SIMPLE)
        assert isinstance(error, ProtocolError)
        assert "never made" in str(error)

    async def test_an_answer_before_any_call_is_one_too(self) -> None:
        async def hasty(line: Line) -> None:
            await line.greet()
            line.answer(0)
            await line.silence()

        assert isinstance(await failure(hasty, BY_TOKEN), ProtocolError)

    async def test_an_answer_that_is_another_message_is_a_protocol_error(self) -> None:
        async def nonsense(line: Line) -> None:
            await line.greet()
            call = await line.call()
            header = rpc_pb2.RpcResponseHeaderProto(callId=call.call_id, status=rpc_pb2.RpcResponseHeaderProto.SUCCESS)
            content = frames.delimited(header.SerializeToString()) + frames.delimited(b"\x0a\x02\x08\x01")
            line.send(len(content).to_bytes(4, "big") + content)
            await line.silence()

        with pytest.raises(ProtocolError, match=r"HdfsFileStatusProto|GetFileInfoResponseProto"):
            raise await _unnamed(nonsense)

    async def test_an_endless_answer_is_cut_off(self) -> None:
        async def endless(line: Line) -> None:
            await line.greet()
            line.refuse((await line.call()).call_id, "some.Error")
            await line.call()
            line.send((1 << 20).to_bytes(4, "big"))
            await line.silence()

        limits = Limits(max_bytes=1 << 16)
        async with peer(endless) as flood, HadoopClient([flood.address], SIMPLE, limits, HASTY) as client:
            with pytest.raises(RemoteError, match="Error: no"):
                await info(client, ONCE)
            with pytest.raises(TooLarge, match="1048576"):
                await info(client, ONCE)


async def _unnamed(behaviour: Behaviour) -> HadoopError:
    async with peer(behaviour) as hostile, HadoopClient([hostile.address], SIMPLE, CALM, HASTY) as client:
        with pytest.raises(HadoopError) as caught:
            await info(client, ONCE)
        return caught.value


class TestManyCallsOnOneConnection:
    async def test_answers_in_reverse_find_their_calls(self) -> None:
        async def backwards(line: Line) -> None:
            await line.greet()
            calls = [await line.call() for _ in range(50)]
            for call in reversed(calls):
                line.answer(call.call_id, str(call.call_id))
            await line.silence()

        async with peer(backwards) as server, HadoopClient([server.address], SIMPLE, CALM, HASTY) as client:
            found = await asyncio.gather(*(info(client) for _ in range(50)))
            assert found == [str(number) for number in range(50)]
            assert len(server.lines) == 1

    async def test_a_cancelled_call_disturbs_no_other(self) -> None:
        both, go = asyncio.Event(), asyncio.Event()

        async def waits(line: Line) -> None:
            await line.greet()
            calls = [await line.call() for _ in range(2)]
            both.set()
            await go.wait()
            for call in calls:
                line.answer(call.call_id, str(call.call_id))
            await line.silence()

        async with peer(waits) as server, HadoopClient([server.address], SIMPLE, CALM, HASTY) as client:
            first, second = asyncio.ensure_future(info(client)), asyncio.ensure_future(info(client))
            await both.wait()
            first.cancel()
            with pytest.raises(asyncio.CancelledError):
                await first
            go.set()
            assert await second == "1"

    async def test_a_call_cancelled_while_it_connects_leaves_the_connection_to_the_next(self) -> None:
        async with peer(serves) as server, HadoopClient([server.address], SIMPLE, CALM, HASTY) as client:
            first, second = asyncio.ensure_future(info(client)), asyncio.ensure_future(info(client))
            await asyncio.sleep(0)
            first.cancel()
            assert await second == "0"
            assert first.cancelled()
            assert len(server.lines) == 1

    async def test_a_long_call_is_accompanied_by_pings(self) -> None:
        async def wants_pings(line: Line) -> None:
            await line.greet()
            call = await line.call()
            for _ in range(3):
                header, bodies = await line.header()
                assert (header.callId, bodies) == (frames.CALL_PING, [])
            line.answer(call.call_id, "thank you")
            await line.silence()

        async with peer(wants_pings) as server, HadoopClient([server.address], SIMPLE, Limits(ping_s=0.02), HASTY) as client:
            assert await info(client) == "thank you"

    async def test_a_connection_at_rest_closes_and_the_next_call_opens_another(self) -> None:
        closed = asyncio.Event()

        async def notices(line: Line) -> None:
            await line.greet()
            line.answer((await line.call()).call_id, "one")
            await line.silence()
            closed.set()

        async with peer(notices, serves) as server, HadoopClient([server.address], SIMPLE, Limits(idle_s=0.05), HASTY) as client:
            assert await info(client) == "one"
            await asyncio.wait_for(closed.wait(), 20)
            assert await info(client) == "0"


def pair(first: Peer, second: Peer) -> HadoopClient:
    return HadoopClient([first.address, second.address], SIMPLE, CALM, KEEN)


class TestFailover:
    async def test_a_refused_address_sends_to_the_next_at_once(self) -> None:
        async with peer(serves) as active, peer(serves) as gone:
            nobody = gone.address
        async with peer(serves) as active, HadoopClient([nobody, active.address], SIMPLE, CALM, KEEN) as client:
            assert await info(client, ONCE) == "1"
            assert client.address == active.address
            assert await info(client, ONCE) == "0"

    @pytest.mark.parametrize("fatal", [False, True])
    async def test_a_standby_sends_to_the_next(self, fatal: bool) -> None:
        async def standby(line: Line) -> None:
            await line.greet()
            line.refuse(-1 if fatal else (await line.call()).call_id, "org.apache.hadoop.ipc.StandbyException", fatal=fatal)
            await line.silence()

        async with peer(standby) as first, peer(serves) as second, pair(first, second) as client:
            assert await info(client, ONCE) == "1"

    async def test_come_back_later_is_asked_again_at_the_same_address(self) -> None:
        async def busy(line: Line) -> None:
            await line.greet()
            line.refuse((await line.call()).call_id, "org.apache.hadoop.ipc.RetriableException")
            call = await line.call()
            line.answer(call.call_id, str(call.retry))
            await line.silence()

        async with peer(busy) as server, peer(serves) as never, pair(server, never) as client:
            assert await info(client, ONCE) == "1"
            assert never.lines == []

    async def test_any_other_exception_is_the_callers_at_once(self) -> None:
        async def refuses(line: Line) -> None:
            await line.greet()
            line.refuse((await line.call()).call_id, "org.apache.hadoop.security.AccessControlException")
            await line.silence()

        async with peer(refuses) as server, HadoopClient([server.address], SIMPLE, CALM, KEEN) as client:
            with pytest.raises(RemoteError) as caught:
                await info(client)
            assert caught.value.kind == "AccessControlException"
            assert len(server.lines) == 1

    async def test_nobody_anywhere_names_all_that_was_tried(self) -> None:
        async with peer(serves) as one, peer(serves) as two:
            addresses = [one.address, two.address]
        async with HadoopClient(addresses, SIMPLE, CALM, Patience(0.3, Backoff(0.01, 0.02))) as client:
            with pytest.raises(Unreachable) as caught:
                await info(client)
        assert all(str(address) in str(caught.value) for address in addresses)
        assert "Connection refused" in str(caught.value)

    async def test_a_new_login_is_used_by_the_next_connection(self) -> None:
        async with peer(goes_at_once, serves) as server, HadoopClient([server.address], BY_TOKEN, CALM, HASTY) as client:
            with pytest.raises(Unreachable):
                await info(client)
            client.use(SIMPLE)
            assert await info(client) == "0"
            assert server.lines[-1].preamble == frames.PREAMBLE_NONE
