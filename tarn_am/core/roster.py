"""The fleet's state: policy, members, history. Frozen outside a step; inside one, a `Turn` is its draft.

A `Member` is an `Instance` as it is shown, plus what the loop alone must remember of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from tarn_am.core.actions import Action
from tarn_am.core.crashes import Crashes
from tarn_am.core.model import Counts, Happening, Instance, Phase
from tarn_common.ids import ContainerId

HAPPENINGS_KEPT = 500
ENDED_KEPT = 50

CAPACITY = frozenset({Phase.REQUESTED, Phase.ALLOCATED, Phase.LAUNCHED, Phase.STAGING, Phase.STARTING, Phase.READY, Phase.UNREADY})
"""The phases that count as 'there or on its way'. What drains or is over does not."""


@dataclass(frozen=True)
class FleetPolicy:
    """The bounds and durations that the fleet keeps; seconds."""

    min_instances: int = 1
    max_instances: int = 10
    silent_s: float = 5.0
    lost_s: float = 60.0
    launch_deadline_s: float = 120.0
    drain_s: float = 120.0
    drain_grace_s: float = 3.0
    crash_limit: int = 5


@dataclass(frozen=True)
class Member:
    """One instance and its book-keeping.

    `said` is the phase that its agent reported last (the instance shows UNREADY while the agent is silent); `heard_at` when
    it last said anything, 0 never; `due_since` from when its first hello is awaited; `served_at` when it was first READY,
    0 never. `abrupt`: it was told to end at once, not to drain. `blamed`: its failure has been counted.
    """

    instance: Instance
    said: Phase | None = None
    heard_at: float = 0.0
    due_since: float = 0.0
    served_at: float = 0.0
    adopted: bool = False
    launch_ordered: bool = False
    abrupt: bool = False
    blamed: bool = False
    refused: frozenset[Phase] = frozenset()

    @property
    def counts(self) -> bool:
        return self.instance.phase in CAPACITY

    @property
    def unheard(self) -> bool:
        """Adopted, and its agent has not spoken to this AM: it may be serving, it may be draining."""
        return self.adopted and not self.heard_at and self.counts


@dataclass(frozen=True)
class FleetState:
    """Everything that the loop owns.

    `tally` is how many members are in each phase, kept so that an event costs the same in a fleet of one and of a thousand.
    `changes` grows with whatever is shown, `listing` with the list of READY instances.
    """

    policy: FleetPolicy
    target: int
    members: Mapping[str, Member] = field(default_factory=dict)
    by_container: Mapping[ContainerId, str] = field(default_factory=dict)
    tally: Mapping[Phase, int] = field(default_factory=lambda: dict.fromkeys(Phase, 0))
    ended: tuple[Instance, ...] = ()
    happenings: tuple[Happening, ...] = ()
    happened: int = 0
    crashes: Crashes = field(default_factory=Crashes)
    halted: str = ""
    served: bool = False
    asks: int = 0
    owed: int = 0
    failed_total: int = 0
    replaced_total: int = 0
    ticked_at: float = 0.0
    shutting_down: bool = False
    shutdown_at: float = 0.0
    hurried: bool = False
    finished: bool = False
    verdict: str = "the fleet has just begun"
    changes: int = 0
    listing: int = 0

    def of(self, container: ContainerId) -> Member | None:
        ask = self.by_container.get(container)
        return self.members.get(ask) if ask is not None else None


def counts(state: FleetState) -> Counts:
    """How many in each phase; the ends are totals since this AM began."""
    found = state.tally
    return Counts(
        wanted=state.target,
        requested=found[Phase.REQUESTED],
        allocated=found[Phase.ALLOCATED],
        launched=found[Phase.LAUNCHED],
        staging=found[Phase.STAGING],
        starting=found[Phase.STARTING],
        ready=found[Phase.READY],
        unready=found[Phase.UNREADY],
        draining=found[Phase.DRAINING],
        failed_total=state.failed_total,
        replaced_total=state.replaced_total,
    )


def listing_row(instance: Instance | None) -> object:
    """What clients see of an instance; None when they do not see it."""
    if instance is None or instance.phase is not Phase.READY or instance.endpoint is None:
        return None
    return (instance.endpoint, tuple(model.name for model in instance.models if model.state == "READY"))


class Turn:
    """The draft of one step: starts as the old state, gathers changes and actions, and is frozen at the end."""

    def __init__(self, state: FleetState, now: float) -> None:
        self.state = state
        self.now = now
        self.actions: list[Action] = []
        self._members: dict[str, Member] | None = None
        self._tally = dict(state.tally)
        self._notes: list[Happening] = []
        self._changed = False
        self._listed = False

    @property
    def members(self) -> Mapping[str, Member]:
        return self.state.members if self._members is None else self._members

    @property
    def tally(self) -> Mapping[Phase, int]:
        return self._tally

    def of(self, container: ContainerId) -> Member | None:
        ask = self.state.by_container.get(container)
        return self.members.get(ask) if ask is not None else None

    def update(self, **changes: Any) -> None:
        """Changes fields of the state that are shown."""
        self.state = replace(self.state, **changes)
        self._changed = True

    def put(self, member: Member) -> None:
        """Adds a member or replaces the one of the same ask."""
        ask = member.instance.ask_id
        members = self._draft()
        old = members.get(ask)
        self._count(old.instance if old else None, member.instance)
        members[ask] = member
        container = member.instance.container_id
        if container is not None and container not in self.state.by_container:
            self.state = replace(self.state, by_container={**self.state.by_container, container: ask})
        self._changed = True

    def drop(self, member: Member) -> None:
        """Takes a member out; who had a container is remembered among the ended."""
        old = self._draft().pop(member.instance.ask_id, None)
        self._count(old.instance if old else None, None)
        container = member.instance.container_id
        if container is not None:
            left = {key: ask for key, ask in self.state.by_container.items() if key != container}
            self.state = replace(self.state, by_container=left, ended=(member.instance, *self.state.ended)[:ENDED_KEPT])
        self._changed = True

    def act(self, action: Action) -> None:
        self.actions.append(action)

    def note(self, sentence: str, container: ContainerId | None = None, severity: str = "info") -> None:
        self._notes.append(Happening(self.now, sentence, container, severity))
        self._changed = True

    def verdict(self, sentence: str) -> None:
        if sentence != self.state.verdict:
            self.update(verdict=sentence)

    def end(self) -> tuple[FleetState, tuple[Action, ...]]:
        state = self.state
        if self._changed:
            state = replace(
                state,
                members=self.members,
                tally=self._tally,
                happenings=(*state.happenings, *self._notes)[-HAPPENINGS_KEPT:] if self._notes else state.happenings,
                happened=state.happened + len(self._notes),
                changes=state.changes + 1,
                listing=state.listing + self._listed,
            )
        return state, tuple(self.actions)

    def _count(self, old: Instance | None, new: Instance | None) -> None:
        """Keeps the tally, and notices a change of the listing."""
        if old is not None:
            self._tally[old.phase] -= 1
        if new is not None:
            self._tally[new.phase] += 1
        self._listed = self._listed or listing_row(old) != listing_row(new)

    def _draft(self) -> dict[str, Member]:
        if self._members is None:
            self._members = dict(self.state.members)
        return self._members
