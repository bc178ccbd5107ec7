"""An Application Master in a test's hand: a real gRPC server over TLS that speaks the agents' contract and remembers all it hears.

It decides nothing by itself: a test says whether it accepts, orders what it wants, goes away, and comes back on another port.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc

from tarn_am.state import Identity, make_identity
from tarn_common import credentials
from tarn_common.credentials import AGENT_SECRET, AM_CERTIFICATE, ZK_DIGEST, Credentials
from tarn_common.endpoint import HostPort, Rendezvous
from tarn_common.wire import agent_pb2 as pb
from tarn_common.wire import agent_pb2_grpc
from tarn_common.wire.limits import MAX_MESSAGE_BYTES
from tests.rigs.secrets import planted
from tests.rigs.wait import eventually

_OPTIONS = [
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.so_reuseport", 0),
]


@dataclass
class Conversation:
    """One stream: what came up, and what goes down."""

    hello: pb.Hello
    heard: list[pb.AgentMessage] = field(default_factory=list)
    down: asyncio.Queue[pb.AmMessage | None] = field(default_factory=asyncio.Queue)
    over: bool = False

    @property
    def phases(self) -> list[pb.PhaseChange]:
        return [self.hello.phase, *(message.phase for message in self.heard if message.HasField("phase"))]

    @property
    def phase(self) -> pb.PhaseChange:
        return self.phases[-1]

    def bodies(self, name: str) -> list[Any]:
        return [getattr(message, name) for message in self.heard if message.HasField(name)]  # type: ignore[arg-type]

    def order(self, **body: Any) -> None:
        self.down.put_nowait(pb.AmMessage(**body))


class HandAm:
    """Certificate and secret stay the same through `stop` and `start`."""

    def __init__(self, incarnation: str = "am-1") -> None:
        self.identity: Identity = make_identity()
        self.secret = planted("am")
        self.incarnation = incarnation
        self.accepts = True
        self.refusal = "this container is not known here"
        self.interval_s, self.lease_s = 0.3, 600.0
        self.conversations: list[Conversation] = []
        self.turned_away = 0
        self._server: grpc.aio.Server | None = None
        self.port = 0

    # --- its life

    async def start(self, port: int = 0) -> None:
        server = grpc.aio.server(options=_OPTIONS)
        agent_pb2_grpc.add_UplinkServicer_to_server(self, server)  # type: ignore[no-untyped-call]
        self.port = server.add_secure_port(
            f"127.0.0.1:{port}", grpc.ssl_server_credentials([(self.identity.key, self.identity.certificate)])
        )
        await server.start()
        self._server = server

    async def stop(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            await server.stop(0)

    @property
    def rendezvous(self) -> Rendezvous:
        return Rendezvous(HostPort("127.0.0.1", self.port), "http://127.0.0.1:1", self.incarnation)

    def credentials(self, path: Path, *, secret: str = "", digest: str = "") -> None:
        """Writes what a container of this application is given."""
        secrets = {AGENT_SECRET: (secret or self.secret).encode(), AM_CERTIFICATE: self.identity.certificate}
        if digest:
            secrets[ZK_DIGEST] = digest.encode()
        credentials.write(path, Credentials(secrets=secrets))

    # --- what it heard

    @property
    def latest(self) -> Conversation:
        return self.conversations[-1]

    async def reached(self, phase: str, patience_s: float = 60.0) -> pb.PhaseChange:
        """Waits until the latest conversation's phase is that one."""
        wanted = pb.Phase.Value(phase)
        await eventually(
            lambda: self.conversations and self.latest.phase.phase == wanted,
            f"the agent is {phase}; it said {[pb.Phase.Name(p.phase) + ' ' + p.reason for c in self.conversations for p in c.phases]}",
            patience_s,
        )
        return self.latest.phase

    async def Connect(self, requests: AsyncIterator[pb.AgentMessage], context: Any) -> AsyncIterator[pb.AmMessage]:  # noqa: N802
        shown = dict(context.invocation_metadata() or ())
        if shown.get("authorization") != f"Bearer {self.secret}":
            self.turned_away += 1
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "the application's secret is wanted")
        first = await requests.__anext__()
        conversation = Conversation(first.hello)
        if not self.accepts:
            self.conversations.append(conversation)
            yield pb.AmMessage(welcome=pb.Welcome(accepted=False, reason=self.refusal))
            return
        welcome = pb.Welcome(accepted=True, report_interval=self.interval_s, lease=self.lease_s, am_incarnation=self.incarnation)
        yield pb.AmMessage(welcome=welcome)
        self.conversations.append(conversation)
        hearing = asyncio.ensure_future(self._hear(requests, conversation))
        try:
            while (message := await conversation.down.get()) is not None:
                yield message
        finally:
            hearing.cancel()

    async def _hear(self, requests: AsyncIterator[pb.AgentMessage], conversation: Conversation) -> None:
        try:
            async for message in requests:
                conversation.heard.append(message)
        finally:
            conversation.over = True
            conversation.down.put_nowait(None)


__all__ = ["Conversation", "HandAm"]
