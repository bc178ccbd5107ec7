"""Is the fleet well? One answer for `/health`, the dashboard's first line and whoever else asks. Pure.

Unknown is never well: when the loop that owns the fleet has not turned for a while, what it last said counts for nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from tarn_am.core.model import FleetView, Instance, Phase

STALE_S = 5.0
RECENT_S = 600.0


class State(Enum):
    """What a person sees first; the page gives each a colour, a shape and this word."""

    SERVING = "SERVING"
    DEGRADED = "DEGRADED"
    NOT_SERVING = "NOT SERVING"
    STARTING = "STARTING"
    IDLE = "IDLE"
    STOPPING = "STOPPING"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class Health:
    """`ok` is `/health`'s status (200 or 503), `word` all that is told without the token."""

    ok: bool
    word: str
    sentence: str


@dataclass(frozen=True)
class Verdict:
    """The state, one sentence on it, and what a person should look at, worst first."""

    state: State
    sentence: str
    problems: tuple[str, ...]


def health(view: FleetView, now: float) -> Health:
    """Well: the loop turns, no halt, no shutdown, and no fewer READY instances than the minimum."""
    ready = view.counts.ready
    if (silent_s := now - view.at) > STALE_S:
        return Health(False, "stale", f"the Application Master's loop has not turned for {silent_s:.0f} s")
    if view.shutting_down:
        return Health(False, "stopping", "the application is shutting down")
    if view.halted:
        return Health(False, "halted", f"no more instances are asked for: {view.halted}")
    if ready < view.min_instances:
        return Health(False, "few", f"{ready} of at least {view.min_instances} instances are READY")
    return Health(True, "ok", f"{ready} of {view.counts.wanted} instances are READY")


def judge(view: FleetView, now: float) -> Verdict:
    state = _state(view, now)
    return Verdict(state, _sentence(view, state, now), tuple(_problems(view, now)))


def _state(view: FleetView, now: float) -> State:
    if now - view.at > STALE_S:
        return State.UNKNOWN
    if view.shutting_down:
        return State.STOPPING
    counts = view.counts
    if counts.ready:
        whole = counts.ready >= counts.wanted and not view.halted and not counts.unready
        return State.SERVING if whole else State.DEGRADED
    if not counts.wanted and not view.halted:
        return State.IDLE
    return State.NOT_SERVING if view.halted or counts.unready or _was_ready(view) or _failed_lately(view, now) else State.STARTING


def _was_ready(view: FleetView) -> bool:
    return any(phase in instance.phases for instance in view.instances + view.ended for phase in (Phase.READY, Phase.UNREADY))


def _failed_lately(view: FleetView, now: float) -> list[Instance]:
    return [i for i in view.ended if i.phase is Phase.FAILED and now - i.since_at < RECENT_S]


def _sentence(view: FleetView, state: State, now: float) -> str:
    counts = view.counts
    if state is State.UNKNOWN:
        return f"the Application Master's loop has not turned for {now - view.at:.0f} s; what stands below is old"
    if state is State.STOPPING:
        return f"shutting down; {_instances(len(view.instances))} left"
    if state is State.IDLE:
        return "the target is 0 instances"
    return f"{counts.ready} of {_instances(counts.wanted)} ready"


def _instances(count: int) -> str:
    return "1 instance" if count == 1 else f"{count} instances"


def _problems(view: FleetView, now: float) -> list[str]:
    found = [f"no more instances are asked for: {view.halted}"] if view.halted else []
    for instance in view.instances:
        found += _troubles(instance, now)
    if failed := _failed_lately(view, now):
        last = max(failed, key=lambda i: i.since_at)
        found.append(f"{_instances(len(failed))} failed in the last 10 minutes, the last one: {last.reason or 'no reason given'}")
    return found


def _troubles(instance: Instance, now: float) -> list[str]:
    name = instance.container_id or instance.ask_id
    found = []
    if instance.phase is Phase.UNREADY:
        found.append(f"{name} is not ready: {instance.reason or 'no reason given'}")
    if instance.silent_since and not instance.connected:
        found.append(f"the agent of {name} has been silent for {max(0.0, now - instance.silent_since):.0f} s")
    if instance.phase in (Phase.READY, Phase.UNREADY):
        found += [
            f"model {m.name} on {name} is {m.state}: {m.reason or 'no reason given'}"
            for m in instance.models
            if m.wanted and m.state == "UNAVAILABLE"
        ]
    for gpu in instance.sample.gpus if instance.sample else ():
        if gpu.ecc_uncorrected:
            found.append(f"GPU {gpu.uuid} on {instance.node or name} counts {gpu.ecc_uncorrected} uncorrected memory errors")
        if gpu.last_xid:
            found.append(f"GPU {gpu.uuid} on {instance.node or name} raised XID {gpu.last_xid}")
    return found
