"""The tables of the page: instances worst first, those that ended, models, and what happened. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from tarn_am.api.dashboard import figures
from tarn_am.api.dashboard.markup import Child, Html, join, tag
from tarn_am.core.model import FleetView, GpuSample, Happening, Instance, ModelSample, Phase, Sample
from tarn_common.exits import by_status

# The order in which rows stand, with each phase's shape and tone: a state is told by word, shape and colour.
_PHASES: dict[Phase, tuple[str, str]] = {
    Phase.FAILED: ("■", "bad"),
    Phase.UNREADY: ("■", "bad"),
    Phase.DRAINING: ("▽", "warn"),
    Phase.STARTING: ("◐", "warn"),
    Phase.STAGING: ("◐", "warn"),
    Phase.LAUNCHED: ("○", "calm"),
    Phase.ALLOCATED: ("○", "calm"),
    Phase.REQUESTED: ("○", "calm"),
    Phase.STOPPED: ("□", "calm"),
    Phase.READY: ("●", "good"),
}
_RANK = {phase: rank for rank, phase in enumerate(_PHASES)}
MAX_INSTANCES = 200
MAX_ENDED = 20
MAX_HAPPENINGS = 30
FRESH_S = 10.0


def table(caption: str, heads: Iterable[str], rows: Iterable[Html]) -> Html:
    head = tag("thead", tag("tr", *(tag("th", text, scope="col") for text in heads)))
    return tag("table", tag("caption", caption), head, tag("tbody", *rows))


def _cell(head: str, *children: Child) -> Html:
    """On a narrow screen a row becomes a card, and each cell shows its head from here."""
    says = any(child not in ("", None, figures.UNKNOWN) for child in children)
    spaced = [part for child in children for part in (child, " ")]
    return tag("td", *spaced[:-1], data_head=head, class_=None if says else "none")


def since(at: float, now: float) -> Html:
    return tag("time", figures.age(now - at), datetime=figures.moment(at), title=figures.moment(at))


def instances(view: FleetView, now: float) -> Html:
    order = sorted(view.instances, key=lambda i: (not _troubled(i), _RANK[i.phase], i.container_id or i.ask_id))
    heads = ("State", "Instance", "Models", "Load", "GPUs", "What is going on")
    shown = table("Instances, worst first", heads, (_instance(i, now) for i in order[:MAX_INSTANCES]))
    hidden = len(order) - MAX_INSTANCES
    if hidden <= 0:
        return shown
    return join(shown, tag("p", f"and {hidden} more, none worse than these: ", tag("a", "all as JSON", href="status"), class_="note"))


def _troubled(instance: Instance) -> bool:
    return instance.phase is Phase.UNREADY or bool(instance.silent_since and not instance.connected)


def _instance(instance: Instance, now: float) -> Html:
    fresh = _fresh(instance.sample, now)
    return tag(
        "tr",
        _cell("State", _state(instance, now)),
        _cell("Instance", *_name(instance)),
        _cell("Models", *_models(instance)),
        _cell("Load", *_load(instance, fresh)),
        _cell("GPUs", *_gpus(instance.sample, fresh)),
        _cell("What is going on", *_doing(instance, now)),
        class_="bad" if _troubled(instance) else _PHASES[instance.phase][1],
    )


def _fresh(sample: Sample | None, now: float) -> Sample | None:
    return sample if sample is not None and now - sample.received_at <= FRESH_S else None


def _state(instance: Instance, now: float, ago: str = "") -> Html:
    mark, tone = _PHASES[instance.phase]
    word = tag("span", tag("span", mark, class_="mark", aria_hidden="true"), " ", instance.phase.value, class_=f"state {tone}")
    return join(word, " ", tag("small", since(instance.since_at, now), ago))


def _name(instance: Instance) -> list[Child]:
    if instance.container_id is None:
        return [instance.ask_id, " ", tag("small", "no container yet")]
    where = [tag("small", instance.node or "node unknown")]
    if instance.endpoint and instance.endpoint.http_port:
        where.append(tag("small", str(instance.endpoint.http), class_="mono"))
    return [tag("span", instance.container_id, class_="mono id"), *where, _log(instance)]


def _log(instance: Instance) -> Html:
    return tag("small", tag("a", "log", href=f"logs/{instance.container_id}?source=triton&lines=200"))


def _models(instance: Instance) -> list[Child]:
    if not instance.models:
        return [figures.UNKNOWN]
    ready = sum(model.state == "READY" for model in instance.models)
    out: list[Child] = [f"{ready} of {sum(model.wanted for model in instance.models)} ready"]
    for model in sorted(instance.models, key=lambda m: (m.state == "READY", m.name))[:10]:
        tone = "good" if model.state == "READY" else "bad" if model.state == "UNAVAILABLE" and model.wanted else "warn"
        out.append(tag("small", model.name, " ", tag("span", model.state, class_=tone), f": {model.reason}" if model.reason else ""))
    if len(instance.models) > 10:
        out.append(tag("small", f"and {len(instance.models) - 10} more"))
    return out


def _load(instance: Instance, fresh: Sample | None) -> list[Child]:
    if fresh is None:
        said = instance.sample is not None and instance.phase in (Phase.READY, Phase.UNREADY, Phase.DRAINING)
        return ["no fresh report" if said else figures.UNKNOWN]
    rate = figures.total([m.request_rate for m in fresh.models])
    pending = figures.total([m.pending for m in fresh.models])
    return [
        f"{figures.number(fresh.in_flight)} in flight",
        tag("small", f"{figures.number(pending)} queued"),
        tag("small", f"{figures.number(rate)} req/s"),
    ]


def _gpus(sample: Sample | None, fresh: Sample | None) -> list[Child]:
    if fresh is None:
        return [figures.UNKNOWN]
    if not fresh.gpus_known:
        return [tag("span", "unknown", title=fresh.gpus_unknown_reason)]
    if not fresh.gpus:
        return ["none"]
    return [_gpu(gpu) for gpu in fresh.gpus[:16]]


def _gpu(gpu: GpuSample) -> Html:
    parts = [figures.percent(gpu.utilization), f"{figures.size(gpu.memory_used)} of {figures.size(gpu.memory_total)}"]
    if gpu.temperature is not None:
        parts.append(f"{figures.number(gpu.temperature)} °C")
    if gpu.power is not None:
        parts.append(f"{figures.number(gpu.power)} W")
    title = f"{gpu.name} {gpu.uuid}" + (f" of {gpu.parent_uuid}" if gpu.mig else "")
    return tag("small", " · ".join(parts), title=title)


def _doing(instance: Instance, now: float) -> list[Child]:
    out: list[Child] = []
    if instance.phase is Phase.STAGING and instance.staging:
        out.append(_staging(instance))
    if instance.drain:
        out.append(
            tag("small", f"{instance.drain.reason or 'drain'}; stopped in {figures.age(instance.drain.deadline_at - now)} at the latest")
        )
    if instance.silent_since and not instance.connected:
        out.append(tag("strong", f"agent silent for {figures.age(now - instance.silent_since)}", class_="bad"))
    if instance.triton_restarts:
        out.append(tag("small", f"Triton restarted {instance.triton_restarts} ×"))
    if instance.reason:
        out.append(tag("span", instance.reason))
    return out


def _staging(instance: Instance) -> Html:
    staging = instance.staging
    assert staging is not None
    done, total = max(0, staging.bytes_done), max(0, staging.bytes_total)
    left_s = (total - done) / staging.bytes_per_second if staging.bytes_per_second > 0 and total > done else None
    words = f"{figures.size(done)} of {figures.size(total)}, {figures.size(staging.bytes_per_second)}/s"
    words += f", {figures.age(left_s)} left" if left_s is not None else ""
    share = done / total if total else 0.0
    bar = tag("progress", figures.percent(share), value=f"{min(1.0, share):.4f}", max=1, aria_label="staging")
    return join(bar, " ", figures.percent(share), tag("small", words), tag("small", staging.file, class_="mono"))


def ended(view: FleetView, now: float) -> Html:
    newest = sorted(view.ended, key=lambda i: -i.since_at)[:MAX_ENDED]
    return table("Ended lately, newest first", ("State", "Instance", "Why"), (_ended(i, now) for i in newest))


def _ended(instance: Instance, now: float) -> Html:
    known = by_status(instance.exit_status) if instance.exit_status is not None else None
    status = "" if instance.exit_status is None else f"exit status {instance.exit_status}" + (f": {known.meaning}" if known else "")
    return tag(
        "tr",
        _cell("State", _state(instance, now, " ago")),
        _cell("Instance", tag("span", instance.container_id or instance.ask_id, class_="mono id"), tag("small", instance.node)),
        _cell("Why", instance.reason, tag("small", status)),
        class_=_PHASES[instance.phase][1],
    )


def models(view: FleetView, now: float) -> Html:
    """One row a model, over all instances."""
    names = sorted({m.name for i in view.instances for m in i.models})
    return table("Models", ("Model", "Ready on", "Requests", "Queue", "Time", "Reason"), (_model(view, name, now) for name in names))


def _model(view: FleetView, name: str, now: float) -> Html:
    states = [m for i in view.instances for m in i.models if m.name == name]
    rates = [r for i in view.instances for r in _rates(i, name, now)]
    ready = sum(m.state == "READY" for m in states)
    versions = sorted({v for m in states for v in m.versions})
    reasons = sorted({m.reason for m in states if m.reason})
    wait = _mean(rates, [r.queue_time_s for r in rates])
    compute = _mean(rates, [r.compute_time_s for r in rates])
    return tag(
        "tr",
        _cell("Model", tag("span", name, class_="mono"), tag("small", f"version {', '.join(versions)}" if versions else "")),
        _cell("Ready on", f"{ready} of {len(states)}"),
        _cell("Requests", f"{figures.number(figures.total([r.request_rate for r in rates]))} req/s",
              tag("small", f"{figures.number(figures.total([r.failure_rate for r in rates]))} failed/s")),
        _cell("Queue", f"{figures.number(figures.total([r.pending for r in rates]))} queued",
              tag("small", f"{figures.number(figures.total([r.in_flight for r in rates]))} in flight")),
        _cell("Time", f"{figures.milliseconds(compute)} computing", tag("small", f"{figures.milliseconds(wait)} waiting")),
        _cell("Reason", *(tag("small", reason) for reason in reasons[:3])),
        class_="good" if ready == len(states) else "bad",
    )  # fmt: skip


def _rates(instance: Instance, name: str, now: float) -> list[ModelSample]:
    fresh = _fresh(instance.sample, now)
    return [rates for rates in fresh.models if rates.name == name] if fresh else []


def _mean(rates: list[ModelSample], values: list[float | None]) -> float | None:
    """Weighted by how many requests each instance served."""
    known = [(value, rate.request_rate or 0.0) for value, rate in zip(values, rates, strict=True) if value is not None]
    weight = sum(share for _, share in known)
    return sum(value * share for value, share in known) / weight if weight else None


def happenings(view: FleetView, now: float) -> Html:
    newest = sorted(view.happenings, key=lambda h: -h.at)[:MAX_HAPPENINGS]
    return tag("ol", *(_happening(h, now) for h in newest), class_="happenings")


def _happening(happening: Happening, now: float) -> Html:
    tone = {"warning": "warn", "error": "bad"}.get(happening.severity.lower(), "calm")
    return tag("li", tag("small", since(happening.at, now), " ago"), " ", happening.sentence, class_=tone)
