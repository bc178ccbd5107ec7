"""What the Application Master asks of the world, as small protocols declared by the side that uses them.

Adapters: `cluster.local` and `cluster.yarn` implement Cluster; `agents` implements AgentLink; `supervisor`
implements Fleet, which is all that the HTTP API sees.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from tarn_am.core.model import FleetView
from tarn_common.ids import ContainerId


class ClusterError(Exception):
    """The cluster said no. `retry` tells whether asking again may help; the text says what and why."""

    def __init__(self, text: str, *, retry: bool = True) -> None:
        super().__init__(text)
        self.retry = retry


@dataclass(frozen=True)
class LaunchSpec:
    """What every Triton container gets, whatever the cluster: an environment of safe values and a credentials file.

    `environ` values use only `[A-Za-z0-9_./:=,@%+-]` (YARN's launch script executes anything else); `credentials` are the
    bytes of a Hadoop credentials file, which the cluster puts where HADOOP_TOKEN_FILE_LOCATION points.
    """

    environ: Mapping[str, str]
    credentials: bytes = field(repr=False)


@dataclass(frozen=True)
class Running:
    """A container of this application that was running before this AM began."""

    container_id: ContainerId
    node: str
    launched_at: float


@dataclass(frozen=True)
class Allocated:
    ask_id: str
    container_id: ContainerId
    node: str


@dataclass(frozen=True)
class Completed:
    """A container is over. `exit_status` None: unknown, because nobody saw it end."""

    container_id: ContainerId
    exit_status: int | None
    diagnostics: str


@dataclass(frozen=True)
class AskRefused:
    ask_id: str
    reason: str
    retry: bool


@dataclass(frozen=True)
class AskWaits:
    """An ask stands without an answer, for this reason (told again when the reason changes)."""

    ask_id: str
    reason: str


@dataclass(frozen=True)
class Appeared:
    """A container of an earlier AM that the cluster itself heard of only after `start` had returned."""

    running: Running


@dataclass(frozen=True)
class Leaving:
    """The cluster will take this container away, in `within_s` seconds (None: it does not say)."""

    container_id: ContainerId
    reason: str
    within_s: float | None


@dataclass(frozen=True)
class LostCharge:
    """This process may act for the application no more: another one does, or the cluster has ended it. What runs is left alone."""

    reason: str


ClusterEvent = Allocated | Completed | AskRefused | AskWaits | Appeared | Leaving | LostCharge
ClusterSink = Callable[[ClusterEvent], None]


class Cluster(Protocol):
    """Where containers come from. Events arrive through the sink given to `start`, from the event loop's thread.

    `launch` and `stop` are idempotent; `stop` of something that is over does nothing. After `release` of an allocation that
    was never launched no event follows. `finish` ends the connection: containers that still run are left to themselves
    unless `stop` was called for them.
    """

    async def start(self, sink: ClusterSink) -> list[Running]: ...

    async def request(self, ask_id: str) -> None: ...

    async def cancel(self, ask_id: str) -> None: ...

    async def launch(self, container_id: ContainerId, spec: LaunchSpec) -> None: ...

    async def stop(self, container_id: ContainerId) -> None: ...

    async def release(self, container_id: ContainerId) -> None: ...

    async def finish(self, succeeded: bool, message: str) -> None: ...


class ModelAction(Enum):
    LOAD = "load"
    UNLOAD = "unload"
    RELOAD = "reload"


class NotConnected(Exception):
    """The agent of that container has no stream now."""


class CommandFailed(Exception):
    """The agent tried and could not; the text is its reason."""


class AgentLink(Protocol):
    """Orders to agents, by container id. All but the first two raise NotConnected."""

    def drain(self, container_id: ContainerId, deadline_s: float, grace_s: float, reason: str) -> bool:
        """False when the agent is not connected."""

    def stop(self, container_id: ContainerId, reason: str) -> bool: ...

    async def model(self, container_id: ContainerId, action: ModelAction, model: str) -> None: ...

    def tail(self, container_id: ContainerId, source: str, lines: int, follow: bool) -> AsyncIterator[str]: ...


class UnknownInstance(Exception):
    """No instance of that id; the text names the ones there are."""


class BadRequest(Exception):
    """An order that cannot be followed as it stands; the text names the value and the fix."""


class Fleet(Protocol):
    """The one owner of the fleet's state, as everything else sees it."""

    def view(self) -> FleetView:
        """What is known now. Its `at` is when the owner's loop last turned, two seconds ago at most while it does, whether or not
        anything else changed: by that others see that it is stuck. Between two changes the same object is returned."""

    async def changed(self, version: str) -> FleetView:
        """Returns as soon as `view().version` differs from `version`."""

    async def listing_changed(self, listing_version: str) -> FleetView: ...

    async def scale(self, wanted: int, who: str) -> FleetView:
        """Sets the target; raises BadRequest outside min..max. Idempotent."""

    async def drain(self, container_id: ContainerId, who: str) -> FleetView:
        """Drains one instance; it is replaced, for the target stays. Raises UnknownInstance."""

    async def shut_down(self, who: str) -> None:
        """Drains all and ends the application; returns when it was accepted."""

    async def model(self, container_id: ContainerId, action: ModelAction, model: str) -> None: ...

    def tail(self, container_id: ContainerId, source: str, lines: int, follow: bool) -> AsyncIterator[str]: ...
