"""What can happen to a fleet, as data: the cluster's word, the agents' word, people's orders, and time.

Texts and numbers in here are already clean: whoever makes an event has bounded and sanitised what came over a wire. An event
may come late or twice; the fleet must bear both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tarn_am.core.model import ModelState, Phase, Sample, Staging
from tarn_common.endpoint import Endpoint
from tarn_common.ids import ContainerId


@dataclass(frozen=True)
class Tick:
    """Time went on."""


@dataclass(frozen=True)
class AdoptedContainer:
    container_id: ContainerId
    node: str
    launched_at: float


@dataclass(frozen=True)
class Adopted:
    """Containers of this application that ran before this AM began."""

    containers: tuple[AdoptedContainer, ...]


@dataclass(frozen=True)
class ClusterAllocated:
    ask_id: str
    container_id: ContainerId
    node: str


@dataclass(frozen=True)
class ClusterCompleted:
    """`exit_status` None: unknown."""

    container_id: ContainerId
    exit_status: int | None
    diagnostics: str


@dataclass(frozen=True)
class ClusterAskRefused:
    ask_id: str
    reason: str
    retry: bool


@dataclass(frozen=True)
class ClusterAskWaits:
    ask_id: str
    reason: str


@dataclass(frozen=True)
class ClusterTakes:
    """The cluster will take the container away, in `within_s` seconds (None: it does not say)."""

    container_id: ContainerId
    reason: str
    within_s: float | None


@dataclass(frozen=True)
class Launched:
    """The cluster took the launch; the agent has not spoken yet."""

    container_id: ContainerId


@dataclass(frozen=True)
class LaunchFailed:
    container_id: ContainerId
    reason: str


@dataclass(frozen=True)
class Report:
    """What a phase change and a hello have in common. `since_at` is by the agent's clock, 0 when it does not say."""

    phase: Phase
    reason: str = ""
    reason_code: str = ""
    endpoint: Endpoint | None = None
    models: tuple[ModelState, ...] = ()
    triton_restarts: int = 0
    announced: bool = False
    since_at: float = 0.0
    triton_version: str = ""


@dataclass(frozen=True)
class AgentHello:
    """A stream was opened (again); `report` is the agent's whole state. `incarnation` is new with each start of the agent."""

    container_id: ContainerId
    node: str
    incarnation: str
    report: Report
    versions: Mapping[str, str] = field(default_factory=dict)
    staging: Staging | None = None


@dataclass(frozen=True)
class AgentPhase:
    container_id: ContainerId
    report: Report


@dataclass(frozen=True)
class AgentReports:
    """The newest samples and staging progress of many agents, gathered since the last such event."""

    samples: Mapping[ContainerId, Sample] = field(default_factory=dict)
    staging: Mapping[ContainerId, Staging] = field(default_factory=dict)


@dataclass(frozen=True)
class AgentLost:
    """The agent's stream ended and no newer one stands."""

    container_id: ContainerId


@dataclass(frozen=True)
class ScaleOrdered:
    wanted: int
    who: str


@dataclass(frozen=True)
class DrainOrdered:
    container_id: ContainerId
    who: str


@dataclass(frozen=True)
class ShutdownOrdered:
    """The first drains all and ends the application; the second stops what is left at once."""

    who: str


Event = (
    Tick
    | Adopted
    | ClusterAllocated
    | ClusterCompleted
    | ClusterAskRefused
    | ClusterAskWaits
    | ClusterTakes
    | Launched
    | LaunchFailed
    | AgentHello
    | AgentPhase
    | AgentReports
    | AgentLost
    | ScaleOrdered
    | DrainOrdered
    | ShutdownOrdered
)
