"""A real Supervisor over a cluster and agents in memory: what the Fleet port's contract is shown on beside the fake."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tarn_am.core.events import AgentHello, AgentPhase, Report
from tarn_am.core.model import ModelState, Phase
from tarn_am.core.roster import FleetPolicy
from tarn_am.ports import Allocated, ClusterSink, CommandFailed, Completed, LaunchSpec, ModelAction, NotConnected, Running
from tarn_am.supervisor import Charge, Supervisor
from tarn_common.clock import SystemClock
from tarn_common.endpoint import Endpoint
from tarn_common.ids import ContainerId
from tests.rigs.fake_fleet import APPLICATION, container
from tests.rigs.wait import eventually


class MemoryCluster:
    """Gives a container for each ask at once; who is launched becomes an agent of `MemoryAgents`."""

    def __init__(self, agents: MemoryAgents) -> None:
        self._agents, self._number = agents, 0

    async def start(self, sink: ClusterSink) -> list[Running]:
        self._sink = sink
        return []

    async def request(self, ask_id: str) -> None:
        self._number += 1
        self._sink(Allocated(ask_id, container(self._number), f"node{self._number}"))

    async def cancel(self, ask_id: str) -> None:
        return

    async def launch(self, container_id: ContainerId, spec: LaunchSpec) -> None:
        await self._agents.begin(container_id)

    async def stop(self, container_id: ContainerId) -> None:
        self._agents.connected.discard(container_id)
        self._sink(Completed(container_id, 100, "stopped"))

    async def release(self, container_id: ContainerId) -> None:
        return

    async def finish(self, succeeded: bool, message: str) -> None:
        return


class MemoryAgents:
    """The agents' side of the stream: they become READY at once, drain when told, and answer orders."""

    def __init__(self) -> None:
        self.connected: set[ContainerId] = set()
        self.logs: dict[ContainerId, list[str]] = {}
        self.broken_models: dict[str, str] = {}
        self.tails_open = 0
        self.supervisor: Supervisor | None = None

    async def begin(self, container_id: ContainerId) -> None:
        self.connected.add(container_id)
        assert self.supervisor is not None
        number = int(container_id.rpartition("_")[2])
        self.supervisor.offer(AgentHello(container_id, f"node{number}", f"agent{number}", Report(Phase.LAUNCHED)))
        for phase in (Phase.STAGING, Phase.STARTING):
            self.supervisor.offer(AgentPhase(container_id, Report(phase)))
        endpoint = Endpoint("127.0.0.1", 20000 + number, 30000 + number, 40000 + number)
        models = (ModelState("identity", "READY", "", ("1",)),)
        self.supervisor.offer(AgentPhase(container_id, Report(Phase.READY, endpoint=endpoint, models=models, announced=True)))

    def drain(self, container_id: ContainerId, deadline_s: float, grace_s: float, reason: str) -> bool:
        if container_id not in self.connected or self.supervisor is None:
            return False
        self.supervisor.offer(AgentPhase(container_id, Report(Phase.DRAINING)))
        return True

    def stop(self, container_id: ContainerId, reason: str) -> bool:
        return container_id in self.connected

    async def model(self, container_id: ContainerId, action: ModelAction, model: str) -> None:
        self._check(container_id)
        if model in self.broken_models:
            raise CommandFailed(self.broken_models[model])

    async def tail(self, container_id: ContainerId, source: str, lines: int, follow: bool) -> AsyncIterator[str]:
        self._check(container_id)
        self.tails_open += 1
        try:
            for line in self.logs.get(container_id, [])[-lines:]:
                yield f"{source}: {line}"
            if follow:
                await asyncio.Event().wait()
        finally:
            self.tails_open -= 1

    def _check(self, container_id: ContainerId) -> None:
        if container_id not in self.connected:
            raise NotConnected(f"the agent of {container_id} is not connected now")


@asynccontextmanager
async def supervised(wanted: int) -> AsyncIterator[tuple[Supervisor, MemoryAgents]]:
    """A supervisor with `wanted` READY instances in containers 1, 2, …, between 0 and 10."""
    agents = MemoryAgents()
    charge = Charge(APPLICATION, "am1", FleetPolicy(min_instances=0, max_instances=10), wanted, lambda target: None)
    supervisor = Supervisor(charge, MemoryCluster(agents), agents, LaunchSpec({}, b""), SystemClock())
    agents.supervisor = supervisor
    await supervisor.adopt()
    loop = asyncio.ensure_future(supervisor.run())
    try:
        await eventually(lambda: supervisor.view().counts.ready == wanted, f"{wanted} instances are READY")
        yield supervisor, agents
    finally:
        loop.cancel()
        await asyncio.gather(loop, return_exceptions=True)
        await supervisor.close()
