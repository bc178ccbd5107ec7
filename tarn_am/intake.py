"""Agents' messages made clean: protobuf in, the core's frozen data out.

An agent proved that it knows the application's secret, not that it is sane. Texts are bounded and lose their control
characters, lists are bounded, a number that is not finite or not possible becomes unknown, and a phase that this version does
not know raises Malformed. Nothing else raises.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

from tarn_am.core.events import AgentHello, Report
from tarn_am.core.model import GpuSample, ModelSample, ModelState, Phase, Sample, Staging
from tarn_common.endpoint import Endpoint, EndpointError, parse_host_port
from tarn_common.ids import ContainerId
from tarn_common.wire import agent_pb2 as pb

MAX_REASON = 2_000
MAX_NAME = 256
MAX_MODELS = 1_000
MAX_GPUS = 64
MAX_VERSIONS = 16
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_MAX_NUMBER = float(1 << 53)


class Malformed(ValueError):
    """A message that cannot be used; the text says what is wrong with it."""


def text(value: str, limit: int = MAX_NAME) -> str:
    """One line without control characters, at most `limit` long."""
    cut = value[: limit + 1]
    clean = _CONTROL.sub(" ", cut).strip() if not cut.isprintable() else cut
    return clean if len(clean) <= limit else clean[: limit - 1] + "…"


def number(value: float, high: float = _MAX_NUMBER) -> float | None:
    """A finite number in 0..high, else None."""
    return value if math.isfinite(value) and 0.0 <= value <= high else None


def whole(value: int) -> int:
    """A count that JSON and float arithmetic can bear."""
    return min(value, int(_MAX_NUMBER))


def _optional(message: Any, name: str, high: float = _MAX_NUMBER) -> float | None:
    return number(getattr(message, name), high) if message.HasField(name) else None


def _optional_whole(message: Any, name: str) -> int | None:
    return whole(getattr(message, name)) if message.HasField(name) else None


def hello(container: ContainerId, message: pb.Hello) -> AgentHello:
    """Raises Malformed."""
    return AgentHello(
        container_id=container,
        node=text(message.node),
        incarnation=text(message.incarnation),
        report=report(message.phase),
        versions=_versions(message.versions),
        staging=staging(message.staging) if message.HasField("staging") else None,
    )


def _versions(found: Mapping[str, str]) -> dict[str, str]:
    return {text(name, 64): text(version, 64) for name, version in islice(found.items(), MAX_VERSIONS)}


def report(message: pb.PhaseChange) -> Report:
    """Raises Malformed when the phase is none that an agent may report."""
    phase = _PHASES.get(message.phase)
    if phase is None:
        raise Malformed(f"phase {int(message.phase)} is not one that this Application Master knows")
    return Report(
        phase=phase,
        reason=text(message.reason, MAX_REASON),
        reason_code=text(message.reason_code, 64),
        endpoint=_endpoint(message.endpoint) if message.HasField("endpoint") else None,
        models=tuple(_model(model) for model in islice(message.models, MAX_MODELS) if model.name),
        triton_restarts=whole(message.triton_restarts),
        announced=message.announced,
        since_at=number(message.since) or 0.0,
        triton_version=text(message.triton_version, 64),
    )


_PHASES = {
    pb.LAUNCHED: Phase.LAUNCHED,
    pb.STAGING: Phase.STAGING,
    pb.STARTING: Phase.STARTING,
    pb.READY: Phase.READY,
    pb.UNREADY: Phase.UNREADY,
    pb.DRAINING: Phase.DRAINING,
    pb.STOPPED: Phase.STOPPED,
    pb.FAILED: Phase.FAILED,
}


def _endpoint(message: pb.Endpoint) -> Endpoint | None:
    ports = (message.http_port, message.grpc_port, message.metrics_port)
    if len(message.host) > 255 or not message.host.isprintable() or not all(0 <= port < 65536 for port in ports):
        return None
    try:
        host = parse_host_port(f"[{message.host}]:{message.http_port}").host
    except EndpointError:
        return None
    return Endpoint(host, *ports)


def _model(message: pb.Model) -> ModelState:
    return ModelState(
        name=text(message.name),
        state=text(message.state, 32) or "UNKNOWN",
        reason=text(message.reason, MAX_REASON),
        versions=tuple(text(version, 64) for version in islice(message.versions, MAX_VERSIONS)),
        wanted=message.wanted,
    )


def staging(message: pb.StagingProgress) -> Staging:
    return Staging(
        bytes_done=whole(message.bytes_done),
        bytes_total=whole(message.bytes_total),
        files_done=message.files_done,
        files_total=message.files_total,
        bytes_per_second=number(message.bytes_per_second) or 0.0,
        file=text(message.file, 1024),
        started_at=number(message.started) or 0.0,
        bytes_reused=whole(message.bytes_reused),
    )


def sample(message: pb.Stats, received_at: float) -> Sample:
    return Sample(
        received_at=received_at,
        gpus=tuple(_gpu(gpu) for gpu in islice(message.gpus, MAX_GPUS)),
        gpus_known=message.gpus_known,
        gpus_unknown_reason=text(message.gpus_unknown_reason, MAX_REASON),
        models=tuple(_rates(model) for model in islice(message.models, MAX_MODELS) if model.name),
        in_flight=_optional(message, "in_flight"),
        cpu_utilization=_optional(message, "cpu_utilization", 1.0),
        triton_known=message.triton_known,
        window_s=number(message.window) or 0.0,
    )


def _gpu(message: pb.Gpu) -> GpuSample:
    return GpuSample(
        uuid=text(message.uuid),
        name=text(message.name),
        utilization=_optional(message, "utilization", 1.0),
        memory_used=_optional_whole(message, "memory_used"),
        memory_total=_optional_whole(message, "memory_total"),
        temperature=_optional(message, "temperature", 1_000.0),
        power=_optional(message, "power", 100_000.0),
        ecc_uncorrected=_optional_whole(message, "ecc_uncorrected"),
        last_xid=_optional_whole(message, "last_xid"),
        mig=message.mig,
        parent_uuid=text(message.parent_uuid),
    )


def _rates(message: pb.ModelStats) -> ModelSample:
    return ModelSample(
        name=text(message.name),
        version=text(message.version, 64),
        request_rate=_optional(message, "request_rate"),
        failure_rate=_optional(message, "failure_rate"),
        queue_time_s=_optional(message, "queue_time"),
        compute_time_s=_optional(message, "compute_time"),
        pending=_optional_whole(message, "pending"),
        in_flight=_optional(message, "in_flight"),
        success_total=_optional_whole(message, "success_total"),
        failure_total=_optional_whole(message, "failure_total"),
    )
