"""A cluster in memory, for tests of who uses one. It keeps the contract that tests/contract/test_cluster.py holds all clusters to.

Failures are clusters of their own, named after what goes wrong.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from tarn_am.ports import Allocated, AskRefused, ClusterError, ClusterSink, Completed, LaunchSpec, Running
from tarn_common.ids import ApplicationId, ContainerId, make_container_id

APPLICATION = ApplicationId("application_1700000000000_0001")


@dataclass
class FakeWorld:
    """What outlives an Application Master: the containers, and the number that the last one had."""

    running: set[ContainerId] = field(default_factory=set)
    last_number: int = 1


class FakeCluster:
    """Allocates at once; a container runs until it is stopped or `end` is called."""

    def __init__(self, world: FakeWorld | None = None) -> None:
        self.world = world or FakeWorld()
        self.launches: list[tuple[ContainerId, LaunchSpec]] = []
        self.stops: list[ContainerId] = []
        self.finished: tuple[bool, str] | None = None
        self._asks: set[str] = set()
        self._allocated: set[ContainerId] = set()
        self._sink: ClusterSink | None = None

    async def start(self, sink: ClusterSink) -> list[Running]:
        self._sink = sink
        return [Running(container, "node1", 1_000.0) for container in sorted(self.world.running)]

    async def request(self, ask_id: str) -> None:
        self._asks.add(ask_id)
        asyncio.get_running_loop().call_soon(self._allocate, ask_id)

    async def cancel(self, ask_id: str) -> None:
        self._asks.discard(ask_id)

    async def launch(self, container_id: ContainerId, spec: LaunchSpec) -> None:
        if container_id in self.world.running:
            return
        if container_id not in self._allocated:
            raise ClusterError(f"{container_id} was not allocated", retry=False)
        self._allocated.discard(container_id)
        self.launches.append((container_id, spec))
        self.world.running.add(container_id)

    async def stop(self, container_id: ContainerId) -> None:
        self.stops.append(container_id)
        self.end(container_id, 143, "stopped")

    async def release(self, container_id: ContainerId) -> None:
        self._allocated.discard(container_id)
        await self.stop(container_id)

    async def finish(self, succeeded: bool, message: str) -> None:
        self.finished = (succeeded, message)

    def end(self, container_id: ContainerId, status: int | None, text: str = "") -> None:
        """The container ends by itself."""
        if container_id in self.world.running:
            self.world.running.discard(container_id)
            self.tell(Completed(container_id, status, text))

    def tell(self, event: Allocated | Completed | AskRefused) -> None:
        if self._sink is not None and self.finished is None:
            asyncio.get_running_loop().call_soon(self._sink, event)

    def _allocate(self, ask_id: str) -> None:
        if ask_id in self._asks:
            self._asks.discard(ask_id)
            self.world.last_number += 1
            container = make_container_id(APPLICATION, 1, self.world.last_number)
            self._allocated.add(container)
            self.tell(Allocated(ask_id, container, "node1"))


class NodesThatRefuseEveryLaunch(FakeCluster):
    async def launch(self, container_id: ContainerId, spec: LaunchSpec) -> None:
        raise ClusterError("the node does not answer")


class NothingCanBeAskedFor(FakeCluster):
    async def request(self, ask_id: str) -> None:
        raise ClusterError("no node has 9 GPUs", retry=False)


class TheQueueIsFullAtFirst(FakeCluster):
    """Refuses the first ask for now, as an event."""

    def __init__(self, world: FakeWorld | None = None) -> None:
        super().__init__(world)
        self.refused = 0

    async def request(self, ask_id: str) -> None:
        if self.refused:
            await super().request(ask_id)
            return
        self.refused += 1
        self.tell(AskRefused(ask_id, "the queue is full", retry=True))
