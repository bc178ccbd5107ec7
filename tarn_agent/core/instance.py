"""What the agent knows of its instance at one moment, as frozen data, and which phase may follow which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum

from tarn_agent.core.events import Action
from tarn_agent.core.model import ModelState, Phase
from tarn_agent.core.restarts import RestartPolicy
from tarn_common.exits import Exit

_ENDS = frozenset({Phase.STOPPED, Phase.FAILED})

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.LAUNCHED: frozenset({Phase.STAGING, Phase.STARTING}) | _ENDS,
    Phase.STAGING: frozenset({Phase.STARTING, Phase.DRAINING}) | _ENDS,
    Phase.STARTING: frozenset({Phase.READY, Phase.DRAINING}) | _ENDS,
    Phase.READY: frozenset({Phase.UNREADY, Phase.DRAINING}) | _ENDS,
    Phase.UNREADY: frozenset({Phase.READY, Phase.DRAINING}) | _ENDS,
    Phase.DRAINING: _ENDS,
    Phase.STOPPED: frozenset(),
    Phase.FAILED: frozenset(),
}
"""LAUNCHED goes to STARTING where a running tritonserver was adopted."""


class IllegalTransition(ValueError):
    """A phase that cannot follow; a defect of this program."""


class Triton(Enum):
    """The tritonserver: NONE yet, DUE at a time, COMING (being started), UP (a process runs), GOING (being killed)."""

    NONE = "none"
    DUE = "due"
    COMING = "coming"
    UP = "up"
    GOING = "going"


class EndStep(Enum):
    """How far the end has come: WITHDRAWING the znode, the GRACE for balancers, UNLOADING, STOPPING tritonserver, OVER."""

    WITHDRAWING = 1
    GRACE = 2
    UNLOADING = 3
    STOPPING = 4
    OVER = 5


@dataclass(frozen=True)
class Ending:
    """An end that has begun. What is in flight at `stop_at` is lost; `until` ends the grace; a look at tritonserver begun after
    `unloaded_at` may tell that nothing is in flight."""

    exit: Exit
    reason: str
    step: EndStep
    grace_s: float = 0.0
    stop_at: float = 0.0
    until: float = 0.0
    unloaded_at: float | None = None


@dataclass(frozen=True)
class Policy:
    """The settings that decide. `idle_s` is Triton's time to load something, or to tell its models, where it answers already."""

    strict: bool = True
    accept_s: float = 120.0
    lease_s: float = 600.0
    load_stall_s: float = 600.0
    idle_s: float = 10.0
    hang_s: float = 20.0
    drain_s: float = 60.0
    drain_grace_s: float = 2.0
    probe_interval_s: float = 1.0
    restarts: RestartPolicy = field(default_factory=lambda: RestartPolicy(5, 600.0))


@dataclass(frozen=True)
class State:
    """One instance. Times are the `now` of the steps.

    `announced` is the wish: None, until it is known whether an adopted tritonserver serves. `answered` and `served` are of the
    present process: it answered a look, it was READY. `start_at` is when one that is DUE starts, or one that is GOING must be gone. `missed_at`: when the first look that got no answer began. `deaths`: when
    it ended, those that may still count. `idle`: it answers, and loads nothing. `blind_at`: when the first look began that it answered
    without its index. `changing` counts the orders about models under way. `lost_at`: since when no Application Master is heard; None while one is.
    """

    begun_at: float
    phase: Phase = Phase.LAUNCHED
    since: float = 0.0
    reason: str = ""
    announced: bool | None = None
    wanted: tuple[str, ...] = ()
    models: tuple[ModelState, ...] = ()
    triton: Triton = Triton.NONE
    pid: int = 0
    start_at: float = 0.0
    answered: bool = False
    served: bool = False
    moved_at: float = 0.0
    idle: bool = False
    missed_at: float | None = None
    blind_at: float | None = None
    deaths: tuple[float, ...] = ()
    restarts: int = 0
    changing: int = 0
    lost_at: float | None = None
    accepted: bool = False
    ending: Ending | None = None

    @property
    def reason_code(self) -> str:
        return self.ending.exit.code if self.ending is not None and self.phase in _ENDS else ""

    @property
    def serves(self) -> bool:
        """It was READY and may have requests in flight."""
        return self.triton is Triton.UP and self.served


Step = tuple[State, tuple[Action, ...]]


def begin(now: float, wanted: tuple[str, ...] = (), deaths: tuple[float, ...] = (), restarts: int = 0) -> State:
    """At the agent's start, with what an agent before it in this container left."""
    return State(begun_at=now, since=now, lost_at=now, wanted=wanted, deaths=deaths, restarts=restarts)


def enter(state: State, phase: Phase, now: float, reason: str = "") -> State:
    """In `phase`, with its reason; staying where it is changes the reason alone. Raises IllegalTransition."""
    if phase is state.phase:
        return replace(state, reason=reason)
    if phase not in TRANSITIONS[state.phase]:
        raise IllegalTransition(f"{phase.value} cannot follow {state.phase.value}")
    return replace(state, phase=phase, since=now, reason=reason)
