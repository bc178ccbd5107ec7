"""What the agent knows of its Triton, its GPUs and its models, as frozen data."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum


class Phase(Enum):
    """The agent's part of an instance's life (the AM's view has REQUESTED and ALLOCATED before it)."""

    LAUNCHED = "LAUNCHED"
    STAGING = "STAGING"
    STARTING = "STARTING"
    READY = "READY"
    UNREADY = "UNREADY"
    DRAINING = "DRAINING"
    STOPPED = "STOPPED"
    FAILED = "FAILED"


@dataclass(frozen=True)
class ModelState:
    """One model as Triton's repository index has it. `state` is Triton's word: READY, LOADING, UNLOADING or UNAVAILABLE."""

    name: str
    state: str
    reason: str = ""
    versions: tuple[str, ...] = ()
    wanted: bool = True


@dataclass(frozen=True)
class Gpu:
    """One GPU or MIG device. None is unknown, which is never zero. Utilisation 0..1, memory in bytes, power in watts."""

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
class GpuReading:
    """All GPUs of the container, or why they are not known."""

    known: bool
    gpus: tuple[Gpu, ...] = ()
    unknown_reason: str = ""


@dataclass(frozen=True)
class ModelRates:
    """Rates of one model over a window; None is unknown. Seconds, requests, and requests a second."""

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
class TritonRates:
    """All models' rates. `known` False: no sample of Triton's metrics is fresh."""

    known: bool
    window_s: float = 0.0
    models: tuple[ModelRates, ...] = ()
    in_flight: float | None = None
    cpu_utilization: float | None = None


@dataclass(frozen=True)
class Progress:
    """Of a staging. Bytes and files; `bytes_reused` were there already and right. `waiting`: what failed last, where nothing moves."""

    bytes_done: int = 0
    bytes_total: int = 0
    files_done: int = 0
    files_total: int = 0
    bytes_per_second: float = 0.0
    file: str = ""
    started_at: float = 0.0
    bytes_reused: int = 0
    waiting: str = ""


@dataclass(frozen=True)
class Ports:
    """Triton's three TCP ports."""

    http: int
    grpc: int
    metrics: int


@dataclass(frozen=True)
class TritonLaunch:
    """How to start tritonserver. `repository` is a local directory; `models` are the names to load, all explicit."""

    repository: str
    models: tuple[str, ...]
    ports: Ports
    bind: str
    exit_timeout_s: int
    restricted_value: str = field(repr=False)
    extra_args: tuple[str, ...] = ()
    environ: tuple[tuple[str, str], ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class FileStatus:
    """An entry of a store: `path` is relative to the repository, with '/' between parts. `identity` changes when the content may have.

    Directories are listed too (length 0), because an ensemble's version directory is empty and must exist.
    """

    path: str
    length: int
    identity: str
    directory: bool = False
