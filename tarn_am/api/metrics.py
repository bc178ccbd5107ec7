"""`/metrics`: the fleet for Prometheus, in a registry of its own.

Guarantees: what is unknown or old is absent, never zero; no series stands there twice, whatever agents report (one double would
cost Prometheus the whole page); the fleet's part is rendered once for a view, so a scrape of an unchanged fleet is cheap.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

from tarn_am.core.model import FleetView, GpuSample, Instance, ModelSample, Phase
from tarn_common import __version__

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_RUNNING = (Phase.LAUNCHED, Phase.STAGING, Phase.STARTING, Phase.READY, Phase.UNREADY, Phase.DRAINING)
_MAX_LABEL = 200

_CONTAINER = ("container", "node")
_GPU = ("container", "gpu", "uuid")
_MODEL = ("container", "model", "version")
_GAUGES: dict[str, tuple[str, tuple[str, ...]]] = {
    "tarn_build_info": ("The version of this Application Master.", ("version",)),
    "tarn_target_containers": ("Instances wanted.", ()),
    "tarn_min_containers": ("Never fewer instances than this.", ()),
    "tarn_max_containers": ("Never more instances than this.", ()),
    "tarn_running_containers": ("Containers that run, READY or not.", ()),
    "tarn_instances": ("Instances by phase.", ("phase",)),
    "tarn_halted": ("1 when no more instances are asked for after too many failures in a row.", ()),
    "tarn_view_timestamp_seconds": ("When the fleet's state was last computed, in seconds since the epoch.", ()),
    "tarn_container_load": ("Requests queued and executing in an instance.", _CONTAINER),
    "tarn_agent_connected": ("1 while the agent's stream to the Application Master stands.", _CONTAINER),
    "tarn_agent_report_age_seconds": ("Age of the agent's last report.", _CONTAINER),
    "tarn_cpu_utilization": ("Utilisation of the node's processors, 0 to 1.", _CONTAINER),
    "tarn_gpu_utilization": ("Utilisation of a GPU, 0 to 1.", _GPU),
    "tarn_gpu_memory_used": ("Memory in use on a GPU, in bytes.", _GPU),
    "tarn_gpu_memory_total_bytes": ("Memory of a GPU, in bytes.", _GPU),
    "tarn_gpu_temperature_celsius": ("Temperature of a GPU.", _GPU),
    "tarn_gpu_power_watts": ("Power drawn by a GPU.", _GPU),
    "tarn_gpu_last_xid": ("The last XID error of a GPU.", _GPU),
    "tarn_gpu_info": ("A GPU's product name.", (*_GPU, "name", "mig")),
    "tarn_model_ready": ("1 when the model is READY in the instance.", ("container", "model")),
    "tarn_model_request_rate": ("Requests finished a second, over the agent's window.", _MODEL),
    "tarn_model_failure_rate": ("Requests failed a second, over the agent's window.", _MODEL),
    "tarn_model_pending_requests": ("Requests queued, not executing.", _MODEL),
    "tarn_model_in_flight_requests": ("Requests queued and executing.", _MODEL),
    "tarn_model_queue_seconds": ("Mean wait of a request in the queue, over the agent's window.", _MODEL),
    "tarn_model_compute_seconds": ("Mean computation of a request, over the agent's window.", _MODEL),
    "tarn_staging_bytes": ("Bytes of the model repository that are in place.", _CONTAINER),
    "tarn_staging_expected_bytes": ("Bytes of the model repository in all.", _CONTAINER),
    "tarn_staging_reused_bytes": ("Bytes that were in place before.", _CONTAINER),
    "tarn_staging_bytes_per_second": ("Speed of the copy.", _CONTAINER),
}
_COUNTERS: dict[str, tuple[str, tuple[str, ...]]] = {
    "tarn_instances_failed": ("Instances that failed.", ()),
    "tarn_instances_replaced": ("Instances asked for in place of another.", ()),
    "tarn_triton_restarts": ("Restarts of an instance's tritonserver by its agent.", _CONTAINER),
    "tarn_model_requests": ("Requests since this tritonserver began, by how they ended.", (*_MODEL, "result")),
    "tarn_gpu_ecc_uncorrected_errors": ("Uncorrected memory errors of a GPU.", _GPU),
}


class Metrics:
    """The page, and the count of the API's own answers. `stale_s`: reports older than this say nothing."""

    def __init__(self, stale_s: float) -> None:
        self._stale_s = stale_s
        self._own = CollectorRegistry()
        ProcessCollector(registry=self._own)
        self._requests = Counter(
            "tarn_http_requests", "Requests that the HTTP API answered.", ("path", "code"), registry=self._own
        )  # fmt: skip
        self._seen: tuple[FleetView, int, bytes] | None = None

    def count(self, path: str, code: int) -> None:
        """`path` is a route's name, never what a client sent."""
        self._requests.labels(path, str(code)).inc()

    def page(self, view: FleetView, now: float) -> bytes:
        """The text format 0.0.4."""
        second, seen = int(now), self._seen
        if seen is None or seen[0] is not view or seen[1] != second:
            seen = self._seen = (view, second, render(view, now, self._stale_s))
        return seen[2] + generate_latest(self._own)


def render(view: FleetView, now: float, stale_s: float) -> bytes:
    """The fleet's part of the page."""
    registry = CollectorRegistry()
    registry.register(_Snapshot(Series(), view, now, stale_s))
    return bytes(generate_latest(registry))


@dataclass
class Series:
    """Samples by metric and labels: the later of two with the same labels wins."""

    found: dict[str, dict[tuple[str, ...], float]] = field(default_factory=dict)

    def put(self, name: str, value: float | int | None, *labels: str) -> None:
        if value is not None and math.isfinite(value):
            self.found.setdefault(name, {})[tuple(_label(text) for text in labels)] = float(value)

    def families(self) -> Iterator[Metric]:
        for table, kind in ((_GAUGES, GaugeMetricFamily), (_COUNTERS, CounterMetricFamily)):
            for name, (doc, labels) in table.items():
                family = kind(name, doc, labels=labels)
                for values, value in self.found.get(name, {}).items():
                    family.add_metric(values, value)
                yield family


class _Snapshot:
    """One view as prometheus-client wants it: something with `collect`."""

    def __init__(self, series: Series, view: FleetView, now: float, stale_s: float) -> None:
        self._series = series
        _fleet(series, view)
        for instance in view.instances:
            _instance(series, instance, now, stale_s)

    def collect(self) -> Iterable[Metric]:
        return self._series.families()


def _label(text: str) -> str:
    return text[:_MAX_LABEL].encode("utf-8", "replace").decode()


def _fleet(series: Series, view: FleetView) -> None:
    series.put("tarn_build_info", 1, __version__)
    series.put("tarn_target_containers", view.counts.wanted)
    series.put("tarn_min_containers", view.min_instances)
    series.put("tarn_max_containers", view.max_instances)
    series.put("tarn_running_containers", sum(i.phase in _RUNNING for i in view.instances))
    series.put("tarn_halted", bool(view.halted))
    series.put("tarn_view_timestamp_seconds", view.at)
    series.put("tarn_instances_failed", view.counts.failed_total)
    series.put("tarn_instances_replaced", view.counts.replaced_total)
    for phase in Phase:
        if not phase.is_over:
            series.put("tarn_instances", sum(i.phase is phase for i in view.instances), phase.value)


def _instance(series: Series, instance: Instance, now: float, stale_s: float) -> None:
    if instance.container_id is None:
        return
    name, container = instance.container_id, (instance.container_id, instance.node)
    series.put("tarn_agent_connected", instance.connected, *container)
    series.put("tarn_triton_restarts", instance.triton_restarts, *container)
    for model in instance.models:
        series.put("tarn_model_ready", model.state == "READY", name, model.name)
    if instance.staging:
        series.put("tarn_staging_bytes", instance.staging.bytes_done, *container)
        series.put("tarn_staging_expected_bytes", instance.staging.bytes_total, *container)
        series.put("tarn_staging_reused_bytes", instance.staging.bytes_reused, *container)
        if instance.phase is Phase.STAGING:
            series.put("tarn_staging_bytes_per_second", instance.staging.bytes_per_second, *container)
    sample = instance.sample
    if sample is None:
        return
    age_s = max(0.0, now - sample.received_at)
    series.put("tarn_agent_report_age_seconds", age_s, *container)
    if age_s > stale_s:
        return
    series.put("tarn_container_load", sample.in_flight, *container)
    series.put("tarn_cpu_utilization", sample.cpu_utilization, *container)
    for index, gpu in enumerate(sample.gpus):
        _gpu(series, gpu, (name, str(index), gpu.uuid))
    for rates in sample.models:
        _model(series, rates, (name, rates.name, rates.version))


def _gpu(series: Series, gpu: GpuSample, labels: tuple[str, str, str]) -> None:
    series.put("tarn_gpu_utilization", gpu.utilization, *labels)
    series.put("tarn_gpu_memory_used", gpu.memory_used, *labels)
    series.put("tarn_gpu_memory_total_bytes", gpu.memory_total, *labels)
    series.put("tarn_gpu_temperature_celsius", gpu.temperature, *labels)
    series.put("tarn_gpu_power_watts", gpu.power, *labels)
    series.put("tarn_gpu_last_xid", gpu.last_xid, *labels)
    series.put("tarn_gpu_ecc_uncorrected_errors", gpu.ecc_uncorrected, *labels)
    series.put("tarn_gpu_info", 1, *labels, gpu.name, "true" if gpu.mig else "false")


def _model(series: Series, rates: ModelSample, labels: tuple[str, str, str]) -> None:
    series.put("tarn_model_request_rate", rates.request_rate, *labels)
    series.put("tarn_model_failure_rate", rates.failure_rate, *labels)
    series.put("tarn_model_pending_requests", rates.pending, *labels)
    series.put("tarn_model_in_flight_requests", rates.in_flight, *labels)
    series.put("tarn_model_queue_seconds", rates.queue_time_s, *labels)
    series.put("tarn_model_compute_seconds", rates.compute_time_s, *labels)
    series.put("tarn_model_requests", rates.success_total, *labels, "success")
    series.put("tarn_model_requests", rates.failure_total, *labels, "failure")
