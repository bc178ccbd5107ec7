"""A real agents' server with a fleet that only listens, and agents in a test's hand that speak to it over real TLS and gRPC."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import grpc

from tarn_am.agents import AgentServer, Terms
from tarn_am.core.events import AgentHello, AgentLost, AgentPhase, AgentReports, Event
from tarn_am.state import make_identity
from tarn_common.clock import SystemClock
from tarn_common.ids import ApplicationId, ContainerId
from tarn_common.wire import agent_pb2 as pb
from tarn_common.wire import agent_pb2_grpc
from tarn_common.wire.limits import TLS_NAME

APPLICATION = ApplicationId("application_1700000000000_0001")
SECRET = "the-secret-of-this-application"
DEADLINE_S = 60.0


@dataclass
class Listener:
    """A Door that admits the known and remembers what it was told."""

    known: set[ContainerId] = field(default_factory=set)
    told: list[Event] = field(default_factory=list)
    reports: list[AgentReports] = field(default_factory=list)

    async def admit(self, container: ContainerId) -> str:
        return "" if container in self.known else f"{container} is not one of this fleet"

    async def tell(self, event: AgentHello | AgentPhase | AgentLost) -> None:
        self.told.append(event)

    def offer(self, event: AgentReports) -> None:
        self.reports.append(event)

    def heard(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.told if isinstance(event, kind)]


class HandAgent:
    """One stream, written and read by hand."""

    def __init__(self, port: int, certificate: bytes, container: str, secret: str = SECRET, **options: Any) -> None:
        credentials = grpc.ssl_channel_credentials(certificate)
        named = [("grpc.ssl_target_name_override", TLS_NAME), ("grpc.use_local_subchannel_pool", 1), *options.items()]
        self._channel = grpc.aio.secure_channel(f"127.0.0.1:{port}", credentials, options=named)
        self.container = container
        metadata = (("authorization", f"Bearer {secret}"), ("tarn-container-id", container))
        self.call: Any = agent_pb2_grpc.UplinkStub(self._channel).Connect(metadata=metadata)  # type: ignore[no-untyped-call]

    async def send(self, **body: Any) -> None:
        await self.call.write(pb.AgentMessage(**body))

    async def read(self) -> pb.AmMessage:
        message = await asyncio.wait_for(self.call.read(), DEADLINE_S)
        assert isinstance(message, pb.AmMessage), "the stream ended"
        return message

    async def hello(self, **more: Any) -> pb.Welcome:
        values = {"protocol": 1, "application_id": APPLICATION, "container_id": self.container, "incarnation": "one", "node": "node1"}
        values["phase"] = pb.PhaseChange(phase=pb.LAUNCHED)
        await self.send(hello=pb.Hello(**{**values, **more}))
        return (await self.read()).welcome

    async def end(self) -> tuple[grpc.StatusCode, str]:
        """How the server ended the stream."""
        code = await asyncio.wait_for(self.call.code(), DEADLINE_S)
        return code, str(await self.call.details())

    async def close(self) -> None:
        await self._channel.close(None)


class AgentsRig:
    """A server on a free port of loopback."""

    def __init__(self) -> None:
        self.door = Listener()
        self.identity = make_identity()
        self.server = AgentServer(Terms(APPLICATION, "incarnation", 1.0, 600.0, SECRET), SystemClock())
        self.port = self.server.bind("127.0.0.1", [0], self.identity.key, self.identity.certificate)
        self._agents: list[HandAgent] = []

    def container(self, number: int) -> ContainerId:
        found = ContainerId(f"container_1700000000000_0001_01_{number:06d}")
        self.door.known.add(found)
        return found

    def agent(self, container: str, secret: str = SECRET) -> HandAgent:
        agent = HandAgent(self.port, self.identity.certificate, container, secret)
        self._agents.append(agent)
        return agent

    async def welcomed(self, number: int = 2) -> HandAgent:
        agent = self.agent(self.container(number))
        assert (await agent.hello()).accepted
        return agent

    async def close(self) -> None:
        for agent in self._agents:
            await agent.close()
        await self.server.close()


async def agents_rig() -> AsyncIterator[AgentsRig]:
    rig = AgentsRig()
    await rig.server.start(rig.door)
    try:
        yield rig
    finally:
        await rig.close()
