"""What a Triton container is told: the environment of its agent, built from the application's settings.

YARN's launch script executes what it finds in environment values, so only a safe alphabet passes; the user's own variables and
arguments, which may hold anything, travel as base64 of JSON and reach tritonserver alone.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tarn_common.endpoint import HostPort
from tarn_common.ids import ApplicationId

MAX_ENVIRONMENT_BYTES = 60_000
"""YARN passes a container's environment on to programs of its own; far above this, those fail and leave the container behind."""
_SAFE = re.compile(r"[A-Za-z0-9_./:=,@%+-]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_REFUSED = {
    "NVIDIA_VISIBLE_DEVICES": "the cluster sets it, to the GPUs that it gave",
    "CUDA_VISIBLE_DEVICES": "the cluster decides which GPUs an instance has",
}


_FLAGS = {
    "TARN_MODEL_REPOSITORY": "--model-repository",
    "TARN_MODELS": "--models",
    "TARN_AM": "--address",
    "TARN_ZK_ENSEMBLE": "--zk-ensemble",
    "TARN_ZK_PATH": "--zk-path",
}


class LaunchError(ValueError):
    """A setting that cannot travel into a container: names the setting, the value and the fix."""


class LaunchSettings(Protocol):
    """What is read of the Application Master's settings."""

    @property
    def model_repository(self) -> str: ...
    @property
    def models(self) -> tuple[str, ...]: ...
    @property
    def model_failure(self) -> str: ...
    @property
    def port(self) -> int: ...
    @property
    def grpc_port(self) -> int: ...
    @property
    def metrics_port(self) -> int: ...
    @property
    def zk_ensemble(self) -> str: ...
    @property
    def zk_path(self) -> str: ...
    @property
    def zk_session_s(self) -> float: ...
    @property
    def zk_digest_file(self) -> str: ...
    @property
    def zk_auth(self) -> str: ...
    @property
    def lease_s(self) -> float: ...
    @property
    def drain_s(self) -> float: ...
    @property
    def drain_grace_s(self) -> float: ...
    @property
    def disk_reserve_bytes(self) -> int: ...
    @property
    def stage_stall_s(self) -> float: ...
    @property
    def load_stall_s(self) -> float: ...
    @property
    def hang_s(self) -> float: ...
    @property
    def probe_interval_s(self) -> float: ...
    @property
    def probe_deadline_s(self) -> float: ...
    @property
    def triton_restart_limit(self) -> int: ...
    @property
    def env(self) -> tuple[str, ...]: ...
    @property
    def triton_args(self) -> tuple[str, ...]: ...
    @property
    def log_level(self) -> str: ...


@dataclass(frozen=True)
class Meeting:
    """Where the agents find their Application Master: a first guess, and the path of the rendezvous file ('' none)."""

    agents: HostPort
    rendezvous: str = ""


def environment(application: ApplicationId, settings: LaunchSettings, meeting: Meeting) -> dict[str, str]:
    """The variables of every container of an application; raises LaunchError."""
    values = {
        "TARN_APPLICATION_ID": application,
        "TARN_AM": str(meeting.agents),
        "TARN_RENDEZVOUS": meeting.rendezvous,
        "TARN_MODEL_REPOSITORY": settings.model_repository,
        "TARN_MODELS": ",".join(settings.models),
        "TARN_MODEL_FAILURE": settings.model_failure,
        "TARN_HTTP_PORT": str(settings.port or ""),
        "TARN_GRPC_PORT": str(settings.grpc_port or ""),
        "TARN_METRICS_PORT": str(settings.metrics_port or ""),
        "TARN_ZK_ENSEMBLE": settings.zk_ensemble,
        "TARN_ZK_PATH": settings.zk_path if settings.zk_ensemble else "",
        "TARN_ZK_SESSION_S": f"{settings.zk_session_s:g}" if settings.zk_ensemble else "",
        "TARN_ZK_AUTH": settings.zk_auth or "digest" if settings.zk_ensemble and settings.zk_digest_file else "",
        "TARN_LEASE_S": f"{settings.lease_s:g}",
        "TARN_DRAIN_S": f"{settings.drain_s:g}",
        "TARN_DRAIN_GRACE_S": f"{settings.drain_grace_s:g}",
        "TARN_DISK_RESERVE_BYTES": str(settings.disk_reserve_bytes),
        "TARN_STAGE_STALL_S": f"{settings.stage_stall_s:g}",
        "TARN_LOAD_STALL_S": f"{settings.load_stall_s:g}",
        "TARN_HANG_S": f"{settings.hang_s:g}",
        "TARN_PROBE_INTERVAL_S": f"{settings.probe_interval_s:g}",
        "TARN_PROBE_DEADLINE_S": f"{settings.probe_deadline_s:g}",
        "TARN_TRITON_RESTART_LIMIT": str(settings.triton_restart_limit),
        "TARN_LOG_LEVEL": settings.log_level,
        "TARN_TRITON_ARGS": _encoded(list(settings.triton_args)) if settings.triton_args else "",
        "TARN_USER_ENV": _encoded(user_environment(settings.env)) if settings.env else "",
    }
    return checked({name: value for name, value in values.items() if value})


def user_environment(pairs: tuple[str, ...], source: str = "--env") -> dict[str, str]:
    """`KEY=VALUE` texts as a mapping; raises LaunchError, which says where they came from (`source`) and shows no value."""
    found: dict[str, str] = {}
    for number, pair in enumerate(pairs, 1):
        name, equals, value = pair.partition("=")
        if not equals:
            # Not shown: it may be the rest of a secret that holds a comma.
            raise LaunchError(f"{source}: its entry {number} has no '=' and is not KEY=VALUE")
        if not _NAME.fullmatch(name):
            raise LaunchError(f"{source}: {name!r} is no name of a variable: KEY=VALUE has a KEY of letters, digits and '_'")
        if "\0" in value:
            raise LaunchError(f"{source}: {name} holds a NUL character, which no environment can: leave it out")
        if name in _REFUSED:
            raise LaunchError(f"{source}: {name} cannot be given: {_REFUSED[name]}")
        found[name] = value
    return found


def checked(environ: Mapping[str, str]) -> dict[str, str]:
    """The same mapping when every value is of the safe alphabet and all fit; raises LaunchError."""
    for name, value in environ.items():
        if not _NAME.fullmatch(name) or not _SAFE.fullmatch(value):
            bad = next((character for character in value if not _SAFE.fullmatch(character)), name)
            raise LaunchError(
                f"{_given_as(name, value)}={value!r} holds {bad!r}, and a container's launch script may execute it:"
                " use letters, digits and _./:=,@%+- only"
            )
    size = sum(len(name) + len(value) + 2 for name, value in environ.items())
    if size > MAX_ENVIRONMENT_BYTES:
        raise LaunchError(
            f"the containers' environment has {size} bytes, and more than {MAX_ENVIRONMENT_BYTES} do not fit: shorten --env or --triton-args"
        )
    return dict(environ)


def _given_as(name: str, value: str) -> str:
    """The flag that a person would change; a variable that comes of none stays itself."""
    if name == "TARN_RENDEZVOUS":
        return "--staging-dir, where the record is," if "://" in value else "--state-dir, where the record is,"
    return _FLAGS.get(name, name)


def _encoded(value: object) -> str:
    return base64.b64encode(json.dumps(value, sort_keys=True).encode()).decode()
