"""What the fleet wants done, as data. Each is carried out once; what came of it arrives as an event."""

from __future__ import annotations

from dataclasses import dataclass

from tarn_common.ids import ContainerId


@dataclass(frozen=True)
class Request:
    """Ask the cluster for one container."""

    ask_id: str


@dataclass(frozen=True)
class Cancel:
    ask_id: str


@dataclass(frozen=True)
class Launch:
    """Start our init in an allocated container."""

    container_id: ContainerId


@dataclass(frozen=True)
class Release:
    """Give back an allocation in which nothing was started."""

    container_id: ContainerId


@dataclass(frozen=True)
class SendDrain:
    container_id: ContainerId
    deadline_s: float
    grace_s: float
    reason: str


@dataclass(frozen=True)
class SendStop:
    """The agent ends at once; only for instances that serve nobody, or in a hurry."""

    container_id: ContainerId
    reason: str


@dataclass(frozen=True)
class StopContainer:
    """The cluster's own stop: TERM, then KILL."""

    container_id: ContainerId


@dataclass(frozen=True)
class KeepTarget:
    """Write the wanted number down, for the next AM; None: the application was shut down and has none."""

    wanted: int | None


@dataclass(frozen=True)
class FinishApplication:
    succeeded: bool
    message: str


Action = Request | Cancel | Launch | Release | SendDrain | SendStop | StopContainer | KeepTarget | FinishApplication
