"""The agent's frozen data as messages of the stream. None stays unset: unknown is never zero."""

from __future__ import annotations

from dataclasses import dataclass

from tarn_agent.core.instance import State
from tarn_agent.core.model import Gpu, GpuReading, ModelRates, ModelState, Phase, Ports, Progress, TritonRates
from tarn_common.wire import agent_pb2 as pb
from tarn_common.wire.limits import PROTOCOL

MAX_REASON = 2_000


@dataclass(frozen=True)
class Identity:
    """Who speaks: the same on every stream of one agent process."""

    application_id: str
    container_id: str
    node: str
    incarnation: str
    versions: dict[str, str]


def hello(who: Identity, phase: pb.PhaseChange, progress: Progress | None, stats: pb.Stats | None, state: State) -> pb.AgentMessage:
    message = pb.Hello(
        protocol=PROTOCOL,
        application_id=who.application_id,
        container_id=who.container_id,
        node=who.node,
        incarnation=who.incarnation,
        versions={**who.versions, **({"triton": phase.triton_version} if phase.triton_version else {})},
        phase=phase,
        triton_pid=state.pid,
        triton_restarts=state.restarts,
    )
    if progress is not None:
        message.staging.CopyFrom(staging(progress))
    if stats is not None:
        message.stats.CopyFrom(stats)
    return pb.AgentMessage(hello=message)


def phase_change(state: State, since_at: float, host: str, ports: Ports | None, announced: bool, version: str) -> pb.PhaseChange:
    """`since_at` is the phase's beginning on the wall clock; `version` is Triton's, empty before it is known."""
    message = pb.PhaseChange(
        phase=_PHASES[state.phase],
        since=since_at,
        reason=state.reason[:MAX_REASON],
        reason_code=state.reason_code,
        models=[_model(model) for model in state.models],
        triton_restarts=state.restarts,
        announced=announced,
        triton_version=version,
    )
    if ports is not None:
        message.endpoint.CopyFrom(pb.Endpoint(host=host, http_port=ports.http, grpc_port=ports.grpc, metrics_port=ports.metrics))
    return message


_PHASES = {phase: pb.Phase.Value(phase.name) for phase in Phase}


def _model(model: ModelState) -> pb.Model:
    return pb.Model(name=model.name, state=model.state, reason=model.reason[:MAX_REASON], versions=model.versions, wanted=model.wanted)


def staging(progress: Progress) -> pb.StagingProgress:
    return pb.StagingProgress(
        bytes_done=progress.bytes_done,
        bytes_total=progress.bytes_total,
        files_done=progress.files_done,
        files_total=progress.files_total,
        bytes_per_second=progress.bytes_per_second,
        file=progress.file,
        started=progress.started_at,
        bytes_reused=progress.bytes_reused,
    )


def stats(at: float, gpus: GpuReading, rates: TritonRates) -> pb.Stats:
    return pb.Stats(
        at=at,
        gpus=[_gpu(gpu) for gpu in gpus.gpus],
        gpus_known=gpus.known,
        gpus_unknown_reason=gpus.unknown_reason,
        models=[_rates(model) for model in rates.models],
        in_flight=rates.in_flight,
        cpu_utilization=rates.cpu_utilization,
        triton_known=rates.known,
        window=rates.window_s,
    )


def _gpu(gpu: Gpu) -> pb.Gpu:
    return pb.Gpu(
        uuid=gpu.uuid,
        name=gpu.name,
        utilization=gpu.utilization,
        memory_used=gpu.memory_used,
        memory_total=gpu.memory_total,
        temperature=gpu.temperature,
        power=gpu.power,
        ecc_uncorrected=gpu.ecc_uncorrected,
        last_xid=gpu.last_xid,
        mig=gpu.mig,
        parent_uuid=gpu.parent_uuid,
    )


def _rates(model: ModelRates) -> pb.ModelStats:
    return pb.ModelStats(
        name=model.name,
        version=model.version,
        request_rate=model.request_rate,
        failure_rate=model.failure_rate,
        queue_time=model.queue_time_s,
        compute_time=model.compute_time_s,
        pending=model.pending,
        in_flight=model.in_flight,
        success_total=model.success_total,
        failure_total=model.failure_total,
    )


def result(request_id: int, error: str | None) -> pb.AgentMessage:
    return pb.AgentMessage(result=pb.CommandResult(request_id=request_id, ok=error is None, error=(error or "")[:MAX_REASON]))
