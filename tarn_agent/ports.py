"""What the agent asks of the world, as small protocols declared by the side that uses them.

Adapters: `staging` (over `stores`) implements Stager; `triton` implements Triton; `gpu` implements GpuReader; `presence`
implements Presence; `uplink` is driven by the daemon.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from tarn_agent.core.model import FileStatus, GpuReading, ModelState, Ports, Progress, TritonLaunch


class StageError(Exception):
    """The repository cannot be staged. The text is one sentence with the cause and the fix; `retry` says whether time may mend it."""

    def __init__(self, text: str, *, retry: bool) -> None:
        super().__init__(text)
        self.retry = retry


class Store(Protocol):
    """Where model repositories are. Blocking calls, made from worker threads; one instance may be used by many at once.

    Every failure is a StageError: retry=False for a missing path, a refusal or a wrong layout, retry=True for a server that
    is away or a stream that broke.
    """

    @property
    def location(self) -> str:
        """The URL as the user gave it, without secrets."""

    def listing(self, deadline_s: float) -> list[FileStatus]:
        """All files and directories below the repository, recursively."""

    def read(self, file: FileStatus, offset: int, length: int, into: BinaryIO, on_bytes: Callable[[int], None]) -> None:
        """Writes `length` bytes from `offset` into `into` (positioned by the caller); calls `on_bytes` with each piece's size."""

    def checksum(self, file: FileStatus, local: str) -> bool | None:
        """Whether the local file is byte for byte the store's, by the store's own checksum; None where it has none to offer beyond what `read` verified."""

    def close(self) -> None: ...


@dataclass(frozen=True)
class Staged:
    """A complete repository on this machine."""

    path: str
    models: tuple[str, ...]
    in_place: bool
    progress: Progress


class Stager(Protocol):
    """Makes the wanted models present in a local directory."""

    async def stage(self, on_progress: Callable[[Progress], None], *, again: bool = False) -> Staged:
        """Retries what time may mend until its deadline of no progress; raises StageError. Cancelling leaves nothing half-done.

        `again`: it was staged before, so that a mounted repository which is away is waited for."""

    async def has(self, path: str, models: Sequence[str]) -> bool:
        """Whether what was staged at `path` is still there: the directory, and one of the models."""


class TritonError(Exception):
    """tritonserver or supervisord could not do what was asked; the text says what and why."""


@dataclass(frozen=True)
class TritonProcess:
    """A tritonserver that runs under supervisord."""

    pid: int
    started_at: float


@dataclass(frozen=True)
class Health:
    """One probe. `answered` False: no answer within the probe's deadline, `error` says how."""

    answered: bool
    live: bool = False
    ready: bool = False
    models: tuple[ModelState, ...] = ()
    error: str = ""


class Triton(Protocol):
    """The tritonserver of this container, as a program of supervisord."""

    async def running(self) -> TritonProcess | None:
        """What supervisord says runs now (also one that an earlier agent started)."""

    def remembered(self) -> TritonLaunch | None:
        """How the running one was launched, from the run directory; None when nothing was."""

    def choose_ports(self, fixed: Ports) -> Ports:
        """Free TCP ports where `fixed` has 0; a fixed one that is taken raises TritonError naming it."""

    async def start(self, launch: TritonLaunch) -> TritonProcess: ...

    @property
    def version(self) -> str:
        """Triton's own, as it told a probe; empty until then."""

    async def probe(self, deadline_s: float) -> Health:
        """Liveness, readiness and the repository index."""

    async def metrics(self, deadline_s: float) -> str:
        """The text of Triton's metrics page; raises TritonError."""

    async def load(self, model: str) -> None: ...

    async def unload(self, model: str) -> None: ...

    async def stop(self, term_s: float) -> None:
        """TERM, then KILL after `term_s`; returns when the process is gone. Nothing happens when none runs."""

    async def gone(self, process: TritonProcess) -> None:
        """Returns within milliseconds of the process's end, whoever its parent is."""

    def last_lines(self, count: int) -> list[str]:
        """The end of Triton's own log."""


class GpuReader(Protocol):
    def read(self) -> GpuReading:
        """Blocking, milliseconds; never raises for a missing or broken driver: the reading says why it is unknown."""


class Presence(Protocol):
    """The instance's ephemeral znode."""

    async def start(self) -> None:
        """Begins to connect, in the background; returns at once."""

    def announce(self, host_port: str) -> None:
        """From now on the znode must exist with exactly this text, through reconnects and expiries."""

    async def withdraw(self) -> None:
        """From now on it must not exist; returns when ZooKeeper confirmed it, or is unreachable."""

    @property
    def announced(self) -> bool:
        """ZooKeeper confirmed that the znode stands and nothing has since said otherwise."""

    async def close(self) -> None: ...


__all__ = [
    "FileStatus",
    "GpuReader",
    "Health",
    "Ports",
    "Presence",
    "StageError",
    "Staged",
    "Stager",
    "Store",
    "Triton",
    "TritonError",
    "TritonProcess",
]
