"""The fleet under a thousand random things, late, doubled and out of order: what must hold whatever happens."""

from __future__ import annotations

import random

import pytest

from tarn_am.core.actions import Cancel, FinishApplication, Launch, Release, Request, SendDrain, SendStop, StopContainer
from tarn_am.core.events import (
    Adopted,
    AdoptedContainer,
    AgentLost,
    ClusterAllocated,
    ClusterAskRefused,
    ClusterCompleted,
    DrainOrdered,
    Event,
    Launched,
    LaunchFailed,
    Report,
    ScaleOrdered,
    ShutdownOrdered,
    Tick,
)
from tarn_am.core.model import Phase
from tarn_am.core.roster import CAPACITY, FleetPolicy, FleetState, listing_row
from tarn_common.ids import ContainerId
from tests.rigs.fleet import FleetRig, container, ready

_REPORTS = [Report(phase) for phase in Phase if phase not in (Phase.REQUESTED, Phase.ALLOCATED, Phase.READY)] + [ready(), ready()]


class World:
    """A cluster and agents that do anything at any time, remembering what would be impossible."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.rig = FleetRig(3, FleetPolicy(min_instances=0, max_instances=8, crash_limit=4))
        self.next_number = 2
        self.asks: list[str] = []
        self.drained: set[ContainerId] = set()
        self.launched: set[ContainerId] = set()
        self.finished = 0

    def event(self) -> Event:
        chance, some = self.chance, container(self.chance.randint(2, max(2, self.next_number)))
        kind = chance.random()
        if kind < 0.25 and self.asks:
            ask = chance.choice(self.asks)
            self.next_number += 1
            return ClusterAllocated(ask, container(self.next_number if chance.random() < 0.9 else 3), "node1")
        if kind < 0.30:
            return Launched(some) if chance.random() < 0.5 else LaunchFailed(some, "no")
        if kind < 0.36:
            return ClusterCompleted(some, chance.choice([100, 104, 137, 143, None, 0]), "text")
        if kind < 0.40:
            return AgentLost(some)
        if kind < 0.43:
            return DrainOrdered(some, "somebody")
        if kind < 0.47:
            return ScaleOrdered(chance.randint(0, 8), "somebody")
        if kind < 0.48 and self.asks:
            return ClusterAskRefused(chance.choice(self.asks), "no", retry=chance.random() < 0.8)
        if kind < 0.485:
            return Adopted((AdoptedContainer(container(chance.randint(2, 40)), "node1", 1.0),))
        if kind < 0.486:
            return ShutdownOrdered("somebody")
        return Tick()

    def turn(self) -> None:
        before = self.rig.state
        kind = self.chance.random()
        number = self.chance.randint(2, max(2, self.next_number))
        if kind < 0.35:
            self.rig.hello(number, self.chance.choice(_REPORTS), self.chance.choice(["one", "two"]))
        elif kind < 0.6:
            self.rig.say(number, self.chance.choice(_REPORTS))
        elif kind < 0.65:
            self.rig.report(self.chance.choice([None, 0.0, 5.0]))
        else:
            self.rig.feed(self.event())
        self.rig.now += self.chance.choice([0.0, 0.1, 1.0, 4.0, 30.0])
        self.check(before)

    def check(self, before: FleetState) -> None:
        rig, state = self.rig, self.rig.state
        asked = rig.take(Request)
        self.asks += [action.ask_id for action in asked]
        counted = [member for member in state.members.values() if member.counts]
        if asked:
            assert len(counted) <= state.target, "asked for more than is wanted"
            assert not state.halted
            assert not state.shutting_down
        for launch in rig.take(Launch):
            assert launch.container_id not in self.launched, "launched twice"
            self.launched.add(launch.container_id)
        for member in state.members.values():
            instance = member.instance
            assert state.of(instance.container_id) is member if instance.container_id else instance.phase is Phase.REQUESTED
            if instance.phase is Phase.READY:
                assert instance.endpoint is not None
                assert instance.container_id not in self.drained, "listed after it began to drain"
            if instance.phase is Phase.DRAINING and instance.container_id:
                assert instance.drain is not None, "a drain without a deadline"
                self.drained.add(instance.container_id)
            assert (instance.phase in CAPACITY) == member.counts
        assert dict(state.tally) == {phase: rig.phases().get(phase, 0) for phase in Phase}
        rows_before = {ask: row for ask, member in before.members.items() if (row := listing_row(member.instance))}
        rows_after = {ask: row for ask, member in state.members.items() if (row := listing_row(member.instance))}
        assert (rows_before != rows_after) <= (state.listing != before.listing), "the list changed and nobody is told"
        assert state.verdict
        self.finished += len(rig.take(FinishApplication))
        assert self.finished <= 1
        for kind in (Cancel, Release, SendDrain, SendStop, StopContainer):
            rig.take(kind)
        rig.actions.clear()


@pytest.mark.parametrize("seed", range(25))
def test_what_must_hold_holds(seed: int) -> None:
    world = World(seed)
    for _ in range(400):
        world.turn()


@pytest.mark.parametrize("seed", range(10))
def test_when_the_storm_is_over_the_wanted_number_serves(seed: int) -> None:
    """After any history, a scale order and a well-behaved world lead to exactly what was ordered."""
    world = World(seed)
    for _ in range(200):
        world.turn()
    rig = world.rig
    if rig.state.shutting_down:
        rig = World(seed + 1000).rig
    rig.now += 1.0
    rig.feed(ScaleOrdered(4, "a person"))
    number = 1000
    for _ in range(400):
        rig.now += 1.0
        for action in rig.actions:
            number += _behave(rig, action, number)
        rig.actions.clear()
        for member in list(rig.state.members.values()):
            instance = member.instance
            if instance.phase is Phase.REQUESTED and instance.ask_id in world.asks:
                rig.feed(ClusterAllocated(instance.ask_id, container(number := number + 1), "node1"))
            elif member.counts and instance.container_id and instance.phase is not Phase.READY:
                rig.hello(int(instance.container_id[-6:]), ready(), "three")
            elif not member.counts and instance.container_id and not instance.connected:
                rig.complete(int(instance.container_id[-6:]), 100)
        rig.report()
        rig.feed(Tick())
    assert rig.phases() == {Phase.READY: 4}


def _behave(rig: FleetRig, action: object, number: int) -> int:
    match action:
        case Request():
            rig.allocate(action.ask_id, number + 1)
            return 1
        case Launch():
            rig.feed(Launched(action.container_id))
        case SendDrain() | SendStop() | StopContainer():
            rig.complete(int(action.container_id[-6:]), 100)
    return 0
