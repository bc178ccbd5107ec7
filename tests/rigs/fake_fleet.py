"""A fleet in memory: the Fleet port without containers, for the API's tests and benchmarks, and views of any size.

It passes the same contract suite as the supervisor (tests/contract/test_fleet_port.py).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from typing import Any

from tarn_am.core.model import (
    Counts,
    DrainOrder,
    FleetView,
    GpuSample,
    Happening,
    Instance,
    ModelSample,
    ModelState,
    Phase,
    Sample,
    Staging,
)
from tarn_am.ports import BadRequest, CommandFailed, ModelAction, NotConnected, UnknownInstance
from tarn_common.endpoint import Endpoint
from tarn_common.ids import ContainerId, make_application_id, make_container_id

STARTED_AT = 1_700_000_000.0
APPLICATION = make_application_id(1_700_000_000_000, 1)


@dataclass
class SetClock:
    """A clock that stands still until it is moved."""

    now: float = STARTED_AT + 100

    def wall(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.now


def container(number: int) -> ContainerId:
    return make_container_id(APPLICATION, 1, number)


def gpu(number: int = 0, **changed: Any) -> GpuSample:
    whole = GpuSample(f"GPU-{number:08x}", "NVIDIA H100 80GB HBM3", 0.5, 40 << 30, 80 << 30, 51.0, 412.5, 0, 0)
    return replace(whole, **changed)


def sample(at: float = STARTED_AT + 100, **changed: Any) -> Sample:
    rates = ModelSample("identity", "1", 12.5, 0.0, 0.002, 0.011, 1, 1.5, 1000, 2)
    whole = Sample(at, (gpu(0), gpu(1)), True, "", (rates,), 1.5, 0.25, True, 10.0)
    return replace(whole, **changed)


def ready(number: int, **changed: Any) -> Instance:
    """A READY instance that serves the model `identity` on 127.0.0.1:20000+number."""
    whole = Instance(
        ask_id=f"ask-{number}",
        phase=Phase.READY,
        since_at=STARTED_AT + 40,
        asked_at=STARTED_AT + 1,
        container_id=container(number),
        node=f"node{number}",
        endpoint=Endpoint("127.0.0.1", 20000 + number % 10_000, 30000 + number % 10_000, 40000 + number % 10_000),
        models=(ModelState("identity", "READY", "", ("1",)),),
        sample=sample(),
        connected=True,
        announced=True,
        incarnation=f"agent{number}",
        phases={Phase.REQUESTED: STARTED_AT + 1, Phase.READY: STARTED_AT + 40},
    )
    return replace(whole, **changed)


def staging(number: int, **changed: Any) -> Instance:
    progress = Staging(3 << 30, 4 << 30, 7, 9, 220e6, "resnet/1/model.onnx", STARTED_AT + 50)
    whole = ready(number, phase=Phase.STAGING, since_at=STARTED_AT + 50, endpoint=None, sample=None, models=(), staging=progress)
    return replace(whole, **changed)


def counts(wanted: int, instances: tuple[Instance, ...], failed_total: int = 0, replaced_total: int = 0) -> Counts:
    by = Counter(i.phase for i in instances)
    return Counts(
        wanted, by[Phase.REQUESTED], by[Phase.ALLOCATED], by[Phase.LAUNCHED], by[Phase.STAGING], by[Phase.STARTING],
        by[Phase.READY], by[Phase.UNREADY], by[Phase.DRAINING], failed_total, replaced_total,
    )  # fmt: skip


def fleet_view(*instances: Instance, wanted: int | None = None, number: int = 1, **changed: Any) -> FleetView:
    """A view with these instances, and everything else well."""
    whole = FleetView(
        application_id=APPLICATION,
        incarnation="am1",
        started_at=STARTED_AT,
        at=STARTED_AT + 100,
        version=f"am1-{number}",
        listing_version=f"am1-{number}",
        min_instances=0,
        max_instances=10,
        counts=counts(len(instances) if wanted is None else wanted, instances),
        instances=instances,
        ended=(),
        happenings=(Happening(STARTED_AT + 40, "the first instance is READY"),),
        verdict="nothing to do: as many instances as wanted are READY",
    )
    return replace(whole, **changed)


def large_view(count: int) -> FleetView:
    """`count` READY instances with two GPUs and one model each."""
    return fleet_view(*(ready(number) for number in range(1, count + 1)), max_instances=10_000)


@dataclass
class FakeFleet:
    """`put` makes a view the present one. Orders change the view as the port says, at once; `orders` remembers them."""

    current: FleetView = field(default_factory=lambda: fleet_view(ready(1), ready(2)))
    orders: list[tuple[str, ...]] = field(default_factory=list)
    logs: dict[ContainerId, list[str]] = field(default_factory=dict)
    disconnected: set[ContainerId] = field(default_factory=set)
    broken_models: dict[str, str] = field(default_factory=dict)
    tails_open: int = 0
    tails_ended: asyncio.Event = field(default_factory=asyncio.Event)
    more: asyncio.Queue[str] = field(default_factory=asyncio.Queue)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)
    _number: int = 1

    def put(self, view: FleetView) -> FleetView:
        self.current = view
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()
        return view

    def change(self, **changed: Any) -> FleetView:
        """The same view with some fields changed, under a new version; a new listing version when the list is another."""
        self._number += 1
        version = f"{self.current.incarnation}-{self._number + 1}"
        new = replace(self.current, **{"version": version, **changed})
        if _list(new) != _list(self.current):
            new = replace(new, listing_version=version)
        return self.put(replace(new, counts=counts(new.counts.wanted, new.instances)))

    async def turn(self) -> None:
        """The owner's loop: while it runs, views say that it does. Without it the fleet's time stands still."""
        while True:
            await asyncio.sleep(0.1)
            self.current = replace(self.current, at=self.current.at + 0.1)

    def view(self) -> FleetView:
        return self.current

    async def changed(self, version: str) -> FleetView:
        return await self._until(lambda view: view.version != version)

    async def listing_changed(self, listing_version: str) -> FleetView:
        return await self._until(lambda view: view.listing_version != listing_version)

    async def _until(self, holds: Callable[[FleetView], bool]) -> FleetView:
        while not holds(self.current):
            await self._moved.wait()
        return self.current

    async def scale(self, wanted: int, who: str) -> FleetView:
        low, high = self.current.min_instances, self.current.max_instances
        if not low <= wanted <= high:
            raise BadRequest(f"{wanted} instances are not between the minimum {low} and the maximum {high}")
        self.orders.append(("scale", str(wanted), who))
        return self.current if wanted == self.current.counts.wanted else self.change(counts=replace(self.current.counts, wanted=wanted))

    async def drain(self, container_id: ContainerId, who: str) -> FleetView:
        found = self._find(container_id)
        self.orders.append(("drain", container_id, who))
        if found.phase is Phase.DRAINING:
            return self.current
        at = self.current.at
        drained = replace(found, phase=Phase.DRAINING, since_at=at, drain=DrainOrder(at, at + 120, 3, f"ordered by {who}"))
        return self.change(instances=tuple(drained if i is found else i for i in self.current.instances))

    async def shut_down(self, who: str) -> None:
        self.orders.append(("stop", who))
        self.change(shutting_down=True)

    async def model(self, container_id: ContainerId, action: ModelAction, model: str) -> None:
        self._connected(container_id)
        if model in self.broken_models:
            raise CommandFailed(self.broken_models[model])
        self.orders.append(("model", container_id, action.value, model))

    async def tail(self, container_id: ContainerId, source: str, lines: int, follow: bool) -> AsyncIterator[str]:
        self._connected(container_id)
        self.tails_open += 1
        try:
            for line in self.logs.get(container_id, [])[-lines or 10**9 :]:
                yield f"{source}: {line}"
            while follow:
                yield await self.more.get()
        finally:
            self.tails_open -= 1
            self.tails_ended.set()

    def _find(self, container_id: ContainerId) -> Instance:
        for instance in self.current.instances:
            if instance.container_id == container_id:
                return instance
        there = ", ".join(str(i.container_id) for i in self.current.instances) or "none"
        raise UnknownInstance(f"there is no instance {container_id}; there are: {there}")

    def _connected(self, container_id: ContainerId) -> None:
        self._find(container_id)
        if container_id in self.disconnected:
            raise NotConnected(f"the agent of {container_id} is not connected now")


def _list(view: FleetView) -> list[tuple[ContainerId | None, Endpoint | None]]:
    return [(i.container_id, i.endpoint) for i in view.ready]
