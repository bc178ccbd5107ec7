"""Triton's metrics page as rates over a window. Pure.

Triton counts completed requests only, and its `pending` gauge counts queued ones only, so the requests in execution are
estimated by Little's law (L = λ·W): the time that requests spent executing, per second of the window. It lags for requests
that are longer than the window; back ends that serve language models export their own gauges, which are taken instead.

What is not known is None, never 0: a mean over no requests, a rate from one sample, a gauge that is missing. Counters that
fall (Triton was restarted, a model reloaded) began again from 0, so their new value is their increase.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise

from tarn_agent.core.model import ModelRates, TritonRates
from tarn_agent.core.prometheus import Sample, samples

Key = tuple[str, str]
"""A model's name and version."""

_US = 1e6


@dataclass(frozen=True)
class Counters:
    """One model version's counters, durations in microseconds."""

    success: float = 0.0
    failure: float = 0.0
    request_us: float = 0.0
    queue_us: float = 0.0
    compute_us: float = 0.0

    def since(self, earlier: Counters) -> Counters:
        """The increase; when any counter fell they all began again."""
        if any(getattr(self, f.name) < getattr(earlier, f.name) for f in fields(self)):
            return self
        return Counters(*(getattr(self, f.name) - getattr(earlier, f.name) for f in fields(self)))

    def plus(self, other: Counters) -> Counters:
        return Counters(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class ModelSample:
    """What one page says of one model version. `running` and `waiting` are a language model back end's own."""

    counters: Counters = Counters()
    pending: float | None = None
    running: float | None = None
    waiting: float | None = None


@dataclass(frozen=True)
class MetricsSample:
    """What one page says."""

    models: Mapping[Key, ModelSample] = field(default_factory=dict)
    cpu_utilization: float | None = None


# --- from the page's text

_COUNTERS = {
    "nv_inference_request_success": "success",
    "nv_inference_request_failure": "failure",
    "nv_inference_request_duration_us": "request_us",
    "nv_inference_queue_duration_us": "queue_us",
    "nv_inference_compute_input_duration_us": "compute_us",
    "nv_inference_compute_infer_duration_us": "compute_us",
    "nv_inference_compute_output_duration_us": "compute_us",
}
_GAUGES = {
    "nv_inference_pending_request_count": "pending",
    "vllm:num_requests_running": "running",
    "vllm:num_requests_waiting": "waiting",
}
_TENSORRT_LLM = "nv_trt_llm_request_metrics"
_CPU = "nv_cpu_utilization"
_PREFIXES = ("nv_inference_", "vllm:num_requests_", _TENSORRT_LLM, _CPU)


def parse(text: str) -> MetricsSample:
    """Reads a page of Triton's metrics; never raises. Lines of which nothing is used here cost next to nothing."""
    found: dict[Key, dict[str, float]] = {}
    tensorrt: dict[Key, dict[str, float]] = {}
    cpu: float | None = None
    for sample in samples(text, lambda line: line.startswith(_PREFIXES)):
        if sample.name == _CPU:
            cpu = sample.value
            continue
        key = _key(sample)
        if key is None:
            continue
        if sample.name == _TENSORRT_LLM:
            tensorrt.setdefault(key, {})[sample.labels.get("request_type", "")] = sample.value
        elif (name := _COUNTERS.get(sample.name) or _GAUGES.get(sample.name)) is not None:
            # Failures come by reason, computing by part, a vLLM engine by rank: each kind adds up.
            values = found.setdefault(key, {})
            values[name] = values.get(name, 0.0) + sample.value
    for key, kinds in tensorrt.items():
        found.setdefault(key, {}).update(_tensorrt_gauges(kinds))
    return MetricsSample({key: _model_sample(values) for key, values in _with_versions(found).items()}, cpu)


def _key(sample: Sample) -> Key | None:
    name = sample.labels.get("model") or sample.labels.get("model_name")
    return (name, sample.labels.get("version", "")) if name else None


def _tensorrt_gauges(kinds: Mapping[str, float]) -> dict[str, float]:
    """TensorRT-LLM's `active` are all that it holds, `waiting` those of them that it has not scheduled."""
    if "active" not in kinds:
        return {}
    waiting = min(kinds.get("waiting", 0.0), kinds["active"])
    return {"running": kinds["active"] - waiting, "waiting": waiting}


def _with_versions(found: Mapping[Key, dict[str, float]]) -> dict[Key, dict[str, float]]:
    """A gauge without a version belongs to the model's only version, where there is just one."""
    merged: dict[Key, dict[str, float]] = {key: dict(values) for key, values in found.items()}
    for name, version in found:
        others = [key for key in found if key[0] == name and key[1]]
        if not version and len(others) == 1:
            merged[others[0]] = {**merged.pop((name, "")), **found[others[0]]}
    return merged


def _model_sample(values: Mapping[str, float]) -> ModelSample:
    counters = Counters(**{f.name: values.get(f.name, 0.0) for f in fields(Counters)})
    return ModelSample(counters, values.get("pending"), values.get("running"), values.get("waiting"))


# --- over a window


@dataclass(frozen=True)
class RateWindow:
    """The samples of the last `window_s` seconds, and the one before them, from which the window is measured."""

    window_s: float
    samples: tuple[tuple[float, MetricsSample], ...] = ()

    def push(self, sample: MetricsSample, now: float) -> RateWindow:
        """With one more sample; one that is not later than the last one takes its place."""
        kept = [entry for entry in self.samples if entry[0] < now]
        start = next((at for at, entry in enumerate(kept) if entry[0] > now - self.window_s), len(kept))
        return replace(self, samples=(*kept[max(0, start - 1) :], (now, sample)))

    def rates(self, now: float) -> TritonRates:
        """What is known at `now`: nothing when the newest sample is older than the window."""
        if not self.samples or now - self.samples[-1][0] > self.window_s:
            return TritonRates(known=False)
        newest = self.samples[-1][1]
        span_s = self.samples[-1][0] - self.samples[0][0]
        models = tuple(_rates(key, model, self._increase(key), span_s) for key, model in sorted(newest.models.items()))
        return TritonRates(True, span_s, models, _total(models), newest.cpu_utilization)

    def _increase(self, key: Key) -> Counters | None:
        """Over all samples, step by step, so that a counter may begin again in between; None from a single sample."""
        steps = list(self._steps(key))
        total = Counters()
        for step in steps:
            total = total.plus(step)
        return total if steps else None

    def _steps(self, key: Key) -> Iterator[Counters]:
        for (_, earlier), (_, later) in pairwise(self.samples):
            before, after = earlier.models.get(key), later.models.get(key)
            # A model that was not on the page had served nothing yet; one that left it took its last step with it.
            yield after.counters.since(before.counters if before else Counters()) if after else Counters()


def _rates(key: Key, model: ModelSample, increase: Counters | None, span_s: float) -> ModelRates:
    name, version = key
    totals = {"success_total": int(model.counters.success), "failure_total": int(model.counters.failure)}
    pending = model.waiting if model.waiting is not None else model.pending
    in_flight = model.running + (model.waiting or 0.0) if model.running is not None else None
    if increase is None:
        return ModelRates(name, version, pending=_whole(pending), in_flight=in_flight, **totals)
    requests = increase.success
    return ModelRates(
        name,
        version,
        request_rate=(increase.success + increase.failure) / span_s,
        failure_rate=increase.failure / span_s,
        # Triton adds to its durations for successful requests alone.
        queue_time_s=increase.queue_us / requests / _US if requests else None,
        compute_time_s=increase.compute_us / requests / _US if requests else None,
        pending=_whole(pending),
        in_flight=in_flight if in_flight is not None else _estimate(increase, pending, span_s),
        **totals,
    )


def _estimate(increase: Counters, pending: float | None, span_s: float) -> float:
    """Little's law. Without the gauge of the queue, the time in the queue counts too, so that it is in the estimate with the same lag."""
    if pending is None:
        return increase.request_us / _US / span_s
    return pending + max(0.0, increase.request_us - increase.queue_us) / _US / span_s


def _whole(value: float | None) -> int | None:
    return None if value is None else max(0, round(value))


def _total(models: tuple[ModelRates, ...]) -> float | None:
    """Of all models; unknown when any is: a sum with a hole in it looks like less load than there is."""
    known = [model.in_flight for model in models if model.in_flight is not None]
    return sum(known) if len(known) == len(models) else None


__all__ = ["Counters", "MetricsSample", "ModelSample", "RateWindow", "parse"]
