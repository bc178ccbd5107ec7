"""What the Application Master knows of its fleet, as frozen data: one `Instance` a container, one `FleetView` a moment.

Times named `…_at` are seconds since the epoch (they survive a restart of the AM); ages and deadlines inside the loop are
computed from them with the `now` that the loop passes in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from tarn_common.endpoint import Endpoint
from tarn_common.ids import ApplicationId, ContainerId


class Phase(Enum):
    """The life of an instance. Up to LAUNCHED the cluster tells it; from LAUNCHED on, the agent."""

    REQUESTED = "REQUESTED"
    ALLOCATED = "ALLOCATED"
    LAUNCHED = "LAUNCHED"
    STAGING = "STAGING"
    STARTING = "STARTING"
    READY = "READY"
    UNREADY = "UNREADY"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"

    @property
    def is_over(self) -> bool:
        return self in (Phase.STOPPED, Phase.FAILED)


@dataclass(frozen=True)
class ModelState:
    """One model as Triton's index has it: `state` is Triton's word, or UNKNOWN before it was asked."""

    name: str
    state: str
    reason: str = ""
    versions: tuple[str, ...] = ()
    wanted: bool = True


@dataclass(frozen=True)
class GpuSample:
    """One GPU or MIG device by UUID; None is unknown, which is never zero. Utilisation 0..1, memory in bytes, power in watts."""

    uuid: str
    name: str
    utilization: float | None = None
    memory_used: int | None = None
    memory_total: int | None = None
    temperature: float | None = None
    power: float | None = None
    ecc_uncorrected: int | None = None
    last_xid: int | None = None
    mig: bool = False
    parent_uuid: str = ""


@dataclass(frozen=True)
class ModelSample:
    """Rates of one model over the agent's window: a second, seconds, or requests; None is unknown."""

    name: str
    version: str
    request_rate: float | None = None
    failure_rate: float | None = None
    queue_time_s: float | None = None
    compute_time_s: float | None = None
    pending: int | None = None
    in_flight: float | None = None
    success_total: int | None = None
    failure_total: int | None = None


@dataclass(frozen=True)
class Sample:
    """One report of an agent. `received_at` is by the AM's clock, and its age is counted from there."""

    received_at: float
    gpus: tuple[GpuSample, ...] = ()
    gpus_known: bool = False
    gpus_unknown_reason: str = ""
    models: tuple[ModelSample, ...] = ()
    in_flight: float | None = None
    cpu_utilization: float | None = None
    triton_known: bool = False
    window_s: float = 0.0


@dataclass(frozen=True)
class Staging:
    """Progress of the copy of the model repository."""

    bytes_done: int
    bytes_total: int
    files_done: int
    files_total: int
    bytes_per_second: float
    file: str
    started_at: float
    bytes_reused: int = 0


@dataclass(frozen=True)
class DrainOrder:
    """A drain that was ordered: what is left at `deadline_at` is stopped."""

    ordered_at: float
    deadline_at: float
    grace_s: float
    reason: str


@dataclass(frozen=True)
class Instance:
    """One Triton container, from the ask to its end.

    `connected` says whether its agent's stream stands; `silent_since` since when it does not (0 while it does or before
    the first hello). `phases` keeps when each phase was entered last.
    """

    ask_id: str
    phase: Phase
    since_at: float
    asked_at: float
    container_id: ContainerId | None = None
    node: str = ""
    reason: str = ""
    reason_code: str = ""
    endpoint: Endpoint | None = None
    models: tuple[ModelState, ...] = ()
    staging: Staging | None = None
    sample: Sample | None = None
    connected: bool = False
    silent_since: float = 0.0
    announced: bool = False
    incarnation: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    triton_restarts: int = 0
    drain: DrainOrder | None = None
    stop_ordered_at: float = 0.0
    exit_status: int | None = None
    phases: Mapping[Phase, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Counts:
    """How many, kept apart. `wanted` is the target; each other number is of instances in that state now."""

    wanted: int
    requested: int
    allocated: int
    launched: int
    staging: int
    starting: int
    ready: int
    unready: int
    draining: int
    failed_total: int
    replaced_total: int


@dataclass(frozen=True)
class Happening:
    """One line of the fleet's history: a sentence, with the instance that it concerns where there is one."""

    at: float
    sentence: str
    container_id: ContainerId | None = None
    severity: str = "info"


@dataclass(frozen=True)
class FleetView:
    """The fleet at one moment, whole and immutable. Everything that is shown is a rendering of this.

    `version` changes with every change of the view, `listing_version` only when the list of READY instances changes; both
    are texts of the form `<am incarnation>-<number>`, so that one of an earlier AM never equals one of this.
    `halted` is the sentence that says why the AM asks for no more instances, empty while it does.
    `verdict` is one sentence on the last cycle: what it did and why.
    """

    application_id: ApplicationId
    incarnation: str
    started_at: float
    at: float
    version: str
    listing_version: str
    min_instances: int
    max_instances: int
    counts: Counts
    instances: tuple[Instance, ...]
    ended: tuple[Instance, ...]
    happenings: tuple[Happening, ...]
    verdict: str
    halted: str = ""
    next_ask_at: float = 0.0
    shutting_down: bool = False

    @property
    def ready(self) -> tuple[Instance, ...]:
        """The instances that may be offered to clients, in the order of their container ids."""
        found = [i for i in self.instances if i.phase is Phase.READY and i.endpoint is not None]
        return tuple(sorted(found, key=lambda i: i.container_id or ""))
