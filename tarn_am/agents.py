"""The gRPC server that the agents connect to: their reports in, as events; orders out, by container id.

The adapter of grpc, and the boundary where strangers end: a stream without the application's secret, with a container id that
the fleet does not know, with bytes that are no message or too many of them, ends alone, is logged once a minute for each peer,
and disturbs no other. One stream a container: the newest wins, and the log says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import hmac
import re
import socket
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError

from tarn_am import intake
from tarn_am.agent_stream import AgentStream
from tarn_am.core.events import AgentHello, AgentLost, AgentPhase, AgentReports
from tarn_am.gathering import Gathering
from tarn_am.ports import ModelAction, NotConnected
from tarn_common.clock import Clock
from tarn_common.endpoint import HostPort
from tarn_common.ids import ApplicationId, ContainerId, IdError, container_id
from tarn_common.wire import agent_pb2 as pb
from tarn_common.wire import agent_pb2_grpc
from tarn_common.wire.limits import MAX_MESSAGE_BYTES

log = structlog.get_logger(__name__)

COMMAND_DEADLINE_S = 600.0
"""A model may take minutes to load; the agent's own deadlines are shorter."""
HELLO_DEADLINE_S = 10.0
_M_ARENA_MAX = -8
_ARENAS = 2
_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", 8192),
    ("grpc.absolute_max_metadata_size", 16384),
    ("grpc.max_concurrent_streams", 8),
    ("grpc.keepalive_time_ms", 2_000),
    ("grpc.keepalive_timeout_ms", 2_000),
    ("grpc.http2.ping_timeout_ms", 2_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.max_connection_idle_ms", 30_000),
    ("grpc.server_handshake_timeout_ms", 5_000),
)


class AgentServerError(Exception):
    """The server cannot listen; the text names the address and the fix."""


@dataclass(frozen=True)
class Terms:
    """What every agent is told and must show: the Welcome's values, and the application's secret."""

    application_id: ApplicationId
    incarnation: str
    report_interval_s: float
    lease_s: float
    secret: str = field(repr=False)


class Door(Protocol):
    """The fleet's side of the server."""

    async def admit(self, container: ContainerId) -> str:
        """Empty when the container is one of the fleet's; else the sentence for its agent, which then ends itself."""

    async def tell(self, event: AgentHello | AgentPhase | AgentLost) -> None:
        """Waits while the fleet is behind: an agent that floods waits with it."""

    def offer(self, event: AgentReports) -> None: ...


class AgentServer:
    """Implements ports.AgentLink."""

    def __init__(self, terms: Terms, clock: Clock) -> None:
        self._terms, self._clock = terms, clock
        self._bearer = f"Bearer {terms.secret}".encode()
        self._server: grpc.aio.Server | None = None
        self._door: Door | None = None
        self._streams: dict[ContainerId, AgentStream] = {}
        self._gathering: Gathering | None = None
        self._told: dict[tuple[str, str], float] = {}

    def bind(self, host: str, ports: Sequence[int], key: bytes, certificate: bytes) -> int:
        """Listens on the first port of `ports` that is free (0: any) and returns it; raises AgentServerError. Nobody is answered before `start`."""
        _few_arenas()
        credentials = grpc.ssl_server_credentials([(key, certificate)])
        for port in ports:
            # grpc itself says a failure on stderr, in words of its own.
            if port and not _is_free(host, port):
                continue
            server = grpc.aio.server(options=_OPTIONS)
            agent_pb2_grpc.add_UplinkServicer_to_server(self, server)  # type: ignore[no-untyped-call]
            with contextlib.suppress(RuntimeError):
                bound = server.add_secure_port(str(HostPort(host, port)), credentials)
                if bound:
                    self._server = server
                    return bound
        raise AgentServerError(
            f"the agents' port {ports[-1]} cannot be bound on {host}: it is taken, or the address is not of this machine; "
            "give another --agent-port (0: a free one) or --bind"
        )

    async def start(self, door: Door) -> None:
        assert self._server is not None, "bind comes first"
        self._door, self._gathering = door, Gathering(door.offer, self._clock)
        await self._server.start()

    async def close(self, deadline_s: float = 1.0) -> None:
        """Ends all streams; agents look for an Application Master again."""
        if self._gathering is not None:
            self._gathering.close()
        if self._server is not None:
            await self._server.stop(0)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._server.wait_for_termination(), deadline_s)

    # --- ports.AgentLink

    def drain(self, container_id: ContainerId, deadline_s: float, grace_s: float, reason: str) -> bool:
        return self._send(container_id, pb.AmMessage(drain=pb.Drain(deadline=deadline_s, grace=grace_s, reason=reason)))

    def stop(self, container_id: ContainerId, reason: str) -> bool:
        return self._send(container_id, pb.AmMessage(stop=pb.Stop(reason=reason)))

    async def model(self, container_id: ContainerId, action: ModelAction, model: str) -> None:
        await self._stream(container_id).command(pb.ModelCommand.Action.Value(action.name), model, COMMAND_DEADLINE_S)

    def tail(self, container_id: ContainerId, source: str, lines: int, follow: bool) -> AsyncIterator[str]:
        return self._stream(container_id).tail(source, lines, follow)

    def _send(self, container: ContainerId, message: pb.AmMessage) -> bool:
        stream = self._streams.get(container)
        return stream is not None and stream.send(message)

    def _stream(self, container: ContainerId) -> AgentStream:
        stream = self._streams.get(container)
        if stream is None:
            raise NotConnected(f"the agent of {container} has no stream now")
        return stream

    # --- the service

    async def Connect(self, _requests: object, context: grpc.aio.ServicerContext[pb.AgentMessage, pb.AmMessage]) -> None:  # noqa: N802 - the service's name
        """One agent's stream, from its first byte to its last."""
        try:
            await self._connect(context)
        except (asyncio.CancelledError, grpc.aio.AbortError):
            raise
        except grpc.aio.BaseError as error:
            # The peer went away while it was spoken to; the transport knows already.
            log.debug("agent_stream_broke", peer=context.peer(), error=str(error))
        except DecodeError:
            await self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, "a message that is no AgentMessage")
        except Exception as error:  # noqa: BLE001 - the boundary: a defect ends this one stream, with one line
            log.error("agent_stream_failed", peer=context.peer(), error=repr(error))
            await context.abort(grpc.StatusCode.INTERNAL, "a defect of the Application Master; its log has the cause")

    async def _connect(self, context: grpc.aio.ServicerContext[pb.AgentMessage, pb.AmMessage]) -> None:
        # Asked now: when the transport has ended the call, it no longer knows.
        peer = context.peer()
        container = await self._proved(context)
        try:
            first: Any = await asyncio.wait_for(context.read(), HELLO_DEADLINE_S)
        except asyncio.TimeoutError:
            await self._abort(context, grpc.StatusCode.DEADLINE_EXCEEDED, f"no hello within {HELLO_DEADLINE_S:g} s")
        if not isinstance(first, pb.AgentMessage):
            why = f"the stream ended before its hello, or that was longer than {MAX_MESSAGE_BYTES} bytes"
            await self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, why, peer)
        if not first.HasField("hello") or not first.hello.protocol:
            await self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, "the first message is not a hello")
        if first.hello.container_id != container:
            await self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, "the hello names another container than the call's metadata")
        try:
            hello = intake.hello(container, first.hello)
        except intake.Malformed as error:
            await self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, str(error))
        refusal = await self._refusal(container, first.hello.application_id)
        if refusal:
            if self._seldom(f"{container}", "refused"):
                log.warning("agent_refused", container_id=container, peer=context.peer(), reason=refusal)
            await context.write(pb.AmMessage(welcome=pb.Welcome(accepted=False, reason=refusal)))
            return
        stream = AgentStream(container, context.peer())
        try:
            await self._welcome(stream, hello, first.hello)
            await self._converse(stream, context)
        finally:
            self._over(stream)

    async def _proved(self, context: grpc.aio.ServicerContext[pb.AgentMessage, pb.AmMessage]) -> ContainerId:
        """The container id of a caller that knows the secret; anyone else is turned away before anything is read."""
        said: dict[str, list[bytes]] = {}
        for key, value in context.invocation_metadata() or ():
            said.setdefault(key, []).append(value.encode() if isinstance(value, str) else value)
        shown = said.get("authorization", [])
        if len(shown) != 1 or not hmac.compare_digest(shown[0], self._bearer):
            await self._abort(context, grpc.StatusCode.UNAUTHENTICATED, "the application's secret is wanted")
        try:
            return container_id(b"".join(said.get("tarn-container-id", [])).decode(errors="replace"))
        except IdError as error:
            await self._abort(context, grpc.StatusCode.INVALID_ARGUMENT, intake.text(f"tarn-container-id: {error}"))

    async def _refusal(self, container: ContainerId, application: str) -> str:
        if application != self._terms.application_id:
            return f"this is the Application Master of {self._terms.application_id}, not of {intake.text(application)}"
        assert self._door is not None
        return await self._door.admit(container)

    async def _welcome(self, stream: AgentStream, hello: AgentHello, message: pb.Hello) -> None:
        older = self._streams.get(stream.container)
        if older is not None:
            log.warning("agent_stream_replaced", container_id=stream.container, old_peer=older.peer, new_peer=stream.peer)
            older.end(grpc.StatusCode.ABORTED, "a newer stream of the same container took its place")
            older.over()
        else:
            log.info("agent_connected", container_id=stream.container, peer=stream.peer, phase=hello.report.phase.value)
        self._streams[stream.container] = stream
        stream.send(
            pb.AmMessage(
                welcome=pb.Welcome(
                    accepted=True,
                    report_interval=self._terms.report_interval_s,
                    lease=self._terms.lease_s,
                    am_incarnation=self._terms.incarnation,
                )
            )
        )
        assert self._door is not None
        assert self._gathering is not None
        await self._door.tell(hello)
        if message.HasField("stats"):
            self._gathering.stats(stream.container, message.stats)

    async def _converse(self, stream: AgentStream, context: grpc.aio.ServicerContext[pb.AgentMessage, pb.AmMessage]) -> None:
        """Reads and writes until either side ends it."""
        halves: set[asyncio.Future[Any]] = {
            asyncio.ensure_future(self._listen(stream, context)),
            asyncio.ensure_future(self._pump(stream, context)),
        }
        try:
            done, _ = await asyncio.wait({*halves, stream.ending}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for half in halves:
                half.cancel()
            await asyncio.gather(*halves, return_exceptions=True)
        if stream.ending in done:
            # An agent that does not read does not read this either: the fleet hears of it first.
            self._over(stream)
            await context.abort(*stream.ending.result())
        for half in done:
            half.result()

    async def _listen(self, stream: AgentStream, context: grpc.aio.ServicerContext[pb.AgentMessage, pb.AmMessage]) -> None:
        while True:
            message: object = await context.read()
            if not isinstance(message, pb.AgentMessage):
                return
            if not stream.ending.done():
                await self._hear(stream, message)

    async def _hear(self, stream: AgentStream, message: pb.AgentMessage) -> None:
        assert self._gathering is not None
        body = message.WhichOneof("body")
        if body == "stats":
            self._gathering.stats(stream.container, message.stats)
        elif body == "staging":
            self._gathering.staging(stream.container, message.staging)
        elif body == "result":
            stream.answered(message.result)
        elif body == "log_lines":
            stream.logged(message.log_lines)
        elif body == "phase":
            await self._phase(stream, message.phase)

    async def _phase(self, stream: AgentStream, message: pb.PhaseChange) -> None:
        assert self._door is not None
        try:
            await self._door.tell(AgentPhase(stream.container, intake.report(message)))
        except intake.Malformed as error:
            if self._seldom(stream.container, "malformed"):
                log.warning("agent_message_malformed", container_id=stream.container, error=str(error))

    async def _pump(self, stream: AgentStream, context: grpc.aio.ServicerContext[pb.AgentMessage, pb.AmMessage]) -> None:
        while True:
            await context.write(await stream.outgoing.get())

    def _over(self, stream: AgentStream) -> None:
        stream.over()
        if self._streams.get(stream.container) is not stream:
            return
        del self._streams[stream.container]
        log.info("agent_disconnected", container_id=stream.container, peer=stream.peer)
        assert self._door is not None
        # The handler may be in the middle of its cancellation, where nothing can be awaited.
        asyncio.ensure_future(self._lost(stream.container))  # noqa: RUF006 - short, and it cannot fail

    async def _lost(self, container: ContainerId) -> None:
        assert self._door is not None
        if container not in self._streams:
            await self._door.tell(AgentLost(container))

    # --- strangers

    async def _abort(
        self, context: grpc.aio.ServicerContext[pb.AgentMessage, pb.AmMessage], code: grpc.StatusCode, why: str, peer: str = ""
    ) -> NoReturn:
        host = re.sub(r":\d+$", "", peer or context.peer())
        if self._seldom(host, code.name):
            log.warning("agent_turned_away", peer=host, code=code.name, reason=why)
        await context.abort(code, why)

    def _seldom(self, who: str, what: str) -> bool:
        """True once a minute for each pair."""
        now = self._clock.monotonic()
        if len(self._told) > 1_000:
            self._told = {key: at for key, at in self._told.items() if now - at < 60.0} if len(self._told) < 10_000 else {}
        last = self._told.get((who, what))
        if last is not None and now - last < 60.0:
            return False
        self._told[who, what] = now
        return True


def _few_arenas() -> None:
    """Each of grpc's threads would have a heap of its own that keeps what a burst of strangers' handshakes took (glibc, mallopt(3))."""
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, _ARENAS)


def _is_free(host: str, port: int) -> bool:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
        return True
