"""A fleet in a test's hand: feeds events to the pure step, keeps the actions, moves time, and plays the agents' part."""

from __future__ import annotations

from typing import TypeVar, cast

from tarn_am.core import fleet
from tarn_am.core.actions import Action
from tarn_am.core.events import (
    AgentHello,
    AgentPhase,
    AgentReports,
    ClusterAllocated,
    ClusterCompleted,
    Event,
    Launched,
    Report,
    Tick,
)
from tarn_am.core.model import Instance, Phase, Sample
from tarn_am.core.roster import FleetPolicy, FleetState
from tarn_common.endpoint import Endpoint
from tarn_common.ids import ContainerId

A = TypeVar("A")


def container(number: int) -> ContainerId:
    return ContainerId(f"container_1700000000000_0001_01_{number:06d}")


def ready(host: str = "node1", port: int = 8000) -> Report:
    return Report(Phase.READY, endpoint=Endpoint(host, port, port + 1, port + 2), announced=True)


class FleetRig:
    """Begins at time 1,000,000."""

    def __init__(self, wanted: int = 1, policy: FleetPolicy | None = None) -> None:
        self.state: FleetState = fleet.begin(policy or FleetPolicy(min_instances=0, max_instances=100), wanted)
        self.now = 1_000_000.0
        self.actions: list[Action] = []

    def feed(self, *events: Event) -> None:
        for event in events:
            self.state, done = fleet.step(self.state, event, self.now)
            self.actions += done

    def wait(self, seconds: float) -> None:
        """Ticks once a second, agents silent."""
        for _ in range(round(seconds)):
            self.now += 1.0
            self.feed(Tick())

    def talk(self, seconds: float) -> None:
        """Ticks once a second while every agent that stands reports."""
        for _ in range(round(seconds)):
            self.now += 1.0
            self.report()
            self.feed(Tick())

    def report(self, in_flight: float | None = None) -> None:
        spoken = {i.container_id: Sample(self.now, in_flight=in_flight) for i in self.instances if i.connected and i.container_id}
        self.feed(AgentReports(samples=spoken))

    def take(self, kind: type[A]) -> list[A]:
        """The actions of a kind since they were last taken."""
        found: list[A] = [cast("A", action) for action in self.actions if isinstance(action, kind)]
        self.actions = [action for action in self.actions if not isinstance(action, kind)]
        return found

    @property
    def instances(self) -> list[Instance]:
        return [member.instance for member in self.state.members.values()]

    def phases(self) -> dict[Phase, int]:
        found: dict[Phase, int] = {}
        for instance in self.instances:
            found[instance.phase] = found.get(instance.phase, 0) + 1
        return found

    def of(self, number: int) -> Instance:
        member = self.state.of(container(number))
        assert member is not None
        return member.instance

    def allocate(self, ask: str, number: int) -> None:
        self.feed(ClusterAllocated(ask, container(number), "node1"))

    def launched(self, ask: str, number: int) -> None:
        self.allocate(ask, number)
        self.feed(Launched(container(number)))

    def hello(self, number: int, report: Report | None = None, incarnation: str = "one") -> None:
        self.feed(AgentHello(container(number), "node1", incarnation, report or Report(Phase.LAUNCHED)))

    def say(self, number: int, report: Report) -> None:
        self.feed(AgentPhase(container(number), report))

    def serve(self, ask: str, number: int) -> None:
        """From the ask to READY."""
        self.launched(ask, number)
        self.hello(number)
        for phase in (Phase.STAGING, Phase.STARTING):
            self.say(number, Report(phase))
        self.say(number, ready(port=8000 + number))

    def complete(self, number: int, status: int | None = 105, text: str = "") -> None:
        self.feed(ClusterCompleted(container(number), status, text))


def serving(wanted: int) -> FleetRig:
    """A fleet with that many READY, in containers 2, 3, …; nothing left to take from `actions`."""
    rig = FleetRig(wanted)
    rig.feed(Tick())
    for number in range(wanted):
        rig.serve(f"ask-{number + 1}", number + 2)
    rig.actions.clear()
    return rig
