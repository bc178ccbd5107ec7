"""The stream to the Application Master: kept, lost, found again, and on each one the whole state first.

The adapter of grpc on the agent's side. Nothing that happens here touches what Triton serves: an Application Master that is away,
wrong, hung or babbling costs attempts, at a pace, and one line in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import grpc
import structlog
from google.protobuf.message import DecodeError

from tarn_agent.finder import Finder
from tarn_agent.outbox import Outbox, Overflow
from tarn_common.backoff import Backoff
from tarn_common.endpoint import HostPort
from tarn_common.wire import agent_pb2 as pb
from tarn_common.wire.limits import MAX_MESSAGE_BYTES, TLS_NAME

log = structlog.get_logger(__name__)

AWAY = Backoff(first_s=0.2, limit_s=2.0)
WRONG = Backoff(first_s=2.0, limit_s=30.0)
WELCOME_S = 5.0
WRITE_S = 15.0
_FILE_S = 0.25
_SPREAD_S = 0.2
"""A fleet that learns of a new Application Master comes to it spread over this."""
_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.ssl_target_name_override", TLS_NAME),
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    # Half-open connections are noticed by pings, at rest too.
    ("grpc.keepalive_time_ms", 5_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    # The pace of attempts is ours: grpc keeps no memory of an address that failed, and takes no proxy.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_retries", 0),
    ("grpc.enable_http_proxy", 0),
    ("grpc.min_reconnect_backoff_ms", 3_000),
]
_METHOD = f"/{pb.DESCRIPTOR.services_by_name['Uplink'].full_name}/Connect"
_EOF: Any = grpc.aio.EOF  # type: ignore[attr-defined]  # the stubs lack it
_WRONG_CODES = frozenset(
    {
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)


class Outcome(Enum):
    """How an attempt ended: SERVED for a while; AWAY; WRONG, it is not ours or will not have us; REFUSED by one that knows."""

    SERVED = "served"
    AWAY = "away"
    WRONG = "wrong"
    REFUSED = "refused"


@dataclass(frozen=True)
class Proof:
    """How both sides know each other."""

    container_id: str
    secret: str = field(repr=False)
    certificate: bytes = field(repr=False)


class Agent(Protocol):
    """What the stream is about, as the uplink sees it. All called in the event loop, none may wait."""

    def hello(self) -> pb.AgentMessage:
        """The whole state, now."""

    def accepted(self, welcome: pb.Welcome) -> None: ...

    def refused(self, reason: str) -> None: ...

    def lost(self) -> None: ...

    def told(self, message: pb.AmMessage) -> None: ...


class Uplink:
    """`run` is for the daemon's life. What is sent while no stream stands is dropped: the next hello has it all."""

    def __init__(self, proof: Proof, finder: Finder, agent: Agent) -> None:
        self._proof, self._finder, self._agent = proof, finder, agent
        self._credentials = grpc.ssl_channel_credentials(proof.certificate)
        self._outbox = Outbox()
        self._told: set[str] = set()
        self._finishing = False
        self._idle = asyncio.Event()
        self._idle.set()
        self.connected = False

    def send(self, message: pb.AgentMessage) -> None:
        """In order, at once."""
        if self.connected:
            self._outbox.push(message)

    def offer(self, message: pb.AgentMessage) -> None:
        """Stats or progress: a later one takes its place if it still waits."""
        if self.connected:
            self._outbox.latest(message)

    async def send_patiently(self, message: pb.AgentMessage) -> None:
        """Log lines: waits until the stream has taken most of what was sent before."""
        await self._outbox.room()
        self.send(message)

    async def finish(self, deadline_s: float) -> None:
        """Sends what waits, ends the stream in order, and begins no other."""
        self._finishing = True
        self._outbox.finish()
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._idle.wait(), deadline_s)

    async def run(self) -> None:
        failures = 0
        while True:
            outcomes = [await self._attempt(at) for at in self._finder.candidates() if not self._finishing]
            if self._finishing or Outcome.REFUSED in outcomes:
                await asyncio.Event().wait()
            failures = 0 if Outcome.SERVED in outcomes else failures + 1
            pace = WRONG if outcomes and set(outcomes) == {Outcome.WRONG} else AWAY
            await self._pause(pace.delay_s(max(1, failures), random.random()))  # noqa: S311 - jitter

    async def _pause(self, delay_s: float) -> None:
        """Ends early when somebody new is known; the file is looked at often meanwhile."""
        watching = asyncio.ensure_future(self._finder.follow_file(_FILE_S))
        try:
            await asyncio.wait_for(self._finder.changed.wait(), delay_s)
            await asyncio.sleep(random.random() * _SPREAD_S)  # noqa: S311 - jitter
        except asyncio.TimeoutError:
            return
        finally:
            watching.cancel()

    async def _attempt(self, at: HostPort) -> Outcome:
        """One stream, from its connection to its end."""
        self._finder.changed.clear()
        known = self._finder.known
        channel: Any = grpc.aio.secure_channel(str(at), self._credentials, options=_OPTIONS)
        self._idle.clear()
        try:
            # Bytes are read here and not by grpc, which would write a traceback for what is no message.
            connect = channel.stream_stream(_METHOD, request_serializer=pb.AgentMessage.SerializeToString)
            metadata = (("authorization", f"Bearer {self._proof.secret}"), ("tarn-container-id", self._proof.container_id))
            return await self._converse(connect(metadata=metadata), at, known)
        except DecodeError:
            return self._failed(at, grpc.StatusCode.INVALID_ARGUMENT, "it said what is no message")
        except grpc.aio.AioRpcError as error:
            return self._failed(at, error.code(), error.details() or "")
        except grpc.aio.BaseError as error:
            return self._failed(at, grpc.StatusCode.UNKNOWN, str(error))
        except asyncio.TimeoutError:
            return self._failed(at, grpc.StatusCode.DEADLINE_EXCEEDED, f"no welcome within {WELCOME_S:g} s")
        finally:
            await channel.close(None)
            self._idle.set()

    async def _converse(self, call: Any, at: HostPort, known: frozenset[Any]) -> Outcome:
        self._outbox.clear()
        with contextlib.suppress(asyncio.InvalidStateError):  # it has ended already: the read below says how
            await asyncio.wait_for(call.write(self._agent.hello()), WELCOME_S)
        first = await asyncio.wait_for(_message(call), WELCOME_S)
        if first is None:
            return self._failed(at, await call.code(), await call.details() or "it ended the stream")
        if first.WhichOneof("body") != "welcome":
            return self._failed(at, grpc.StatusCode.INVALID_ARGUMENT, "its first message is no welcome")
        if not first.welcome.accepted:
            log.warning("am_refused", am=str(at), reason=first.welcome.reason)
            self._agent.refused(first.welcome.reason)
            return Outcome.REFUSED
        log.info("am_connected", am=str(at), am_incarnation=first.welcome.am_incarnation)
        self._told.clear()
        self.connected = True
        self._agent.accepted(first.welcome)
        try:
            reason = await _first_of((self._read(call), self._write(call), self._moved(known, first.welcome.am_incarnation)))
        finally:
            self.connected = False
            if not self._finishing:
                self._agent.lost()
        log.info("am_stream_ended", am=str(at), reason=reason)
        return Outcome.SERVED

    async def _read(self, call: Any) -> str:
        while (message := await _message(call)) is not None:
            self._agent.told(message)
        code = await call.code()
        return f"{code.name}: {await call.details()}" if code is not grpc.StatusCode.OK else "it ended the stream"

    async def _write(self, call: Any) -> str:
        try:
            while (message := await self._outbox.next()) is not None:
                await asyncio.wait_for(call.write(message), WRITE_S)
        except (Overflow, asyncio.TimeoutError):
            return "it takes nothing any more"
        except asyncio.InvalidStateError:
            return "the stream ended"
        await call.done_writing()
        await asyncio.Event().wait()
        return ""

    async def _moved(self, known: frozenset[Any], incarnation: str) -> str:
        """Returns when somebody else is named than those that were known when this stream began."""
        watching = asyncio.ensure_future(self._finder.follow_file(8 * _FILE_S))
        try:
            while True:
                await self._finder.changed.wait()
                self._finder.changed.clear()
                if any(record not in known and record.incarnation != incarnation for record in self._finder.known):
                    return "there is a new Application Master"
        finally:
            watching.cancel()

    def _failed(self, at: HostPort, code: grpc.StatusCode, details: str) -> Outcome:
        wrong = code in _WRONG_CODES or "handshake" in details.lower() or "certificate" in details.lower()
        outcome = Outcome.WRONG if wrong else Outcome.AWAY
        key = f"{at} {outcome.value}"
        if key in self._told:
            log.debug("am_not_reached", am=str(at), code=code.name, details=details)
            return outcome
        self._told.add(key)
        if wrong:
            log.warning("am_is_not_ours", am=str(at), code=code.name, details=details)
        else:
            log.info("am_not_reached", am=str(at), code=code.name, details=details)
        return outcome


async def _message(call: Any) -> pb.AmMessage | None:
    """The next message; None at the stream's end. Raises DecodeError."""
    data = await call.read()
    return None if data is _EOF else pb.AmMessage.FromString(data)


async def _first_of(bodies: Iterable[Any]) -> str:
    """Runs them together until one ends; its answer, or the text of what it raised. Of several that ended, the first given counts."""
    tasks = [asyncio.ensure_future(body) for body in bodies]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        # A write that is given up cancels the call, and with it the read.
        ended = [task for task in tasks if task.done() and not task.cancelled()]
        try:
            return str(ended[0].result()) if ended else "it was given up"
        except DecodeError:
            return "it said what is no message"
        except grpc.aio.AioRpcError as error:
            return f"{error.code().name}: {error.details()}"
        except grpc.aio.BaseError as error:
            return str(error)
    finally:
        for task in tasks:
            task.cancel()
        done, _ = await asyncio.wait(tasks, timeout=1.0)  # `wait_for` before Python 3.12 may lose a cancellation
        for task in done:
            if not task.cancelled():
                task.exception()  # looked at: what the others died of is no news
