"""The life of one instance as a pure state machine: event in, new state and actions out.

Guarantees, whatever comes in whatever order: the znode is wished for exactly while the phase is READY; nothing is taken (port,
GPU, znode) before an Application Master accepted the container; once the end has begun it is never announced again and goes on
to its end; an instance ends with one status and one sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from tarn_agent.core import ending, readiness
from tarn_agent.core import events as ev
from tarn_agent.core.events import Event
from tarn_agent.core.instance import Policy, State, Step, Triton, enter
from tarn_agent.core.model import Phase
from tarn_common.exits import Exit

_LAST_LINES = 3
_EAGER_S = 0.1
_EAGER_FOR_S = 30.0
_GONE_S = 30.0
"""A process that a KILL does not end within this is held by the kernel."""


def step(policy: Policy, state: State, event: Event, now: float) -> Step:
    """The one entrance. Events that no longer matter change nothing."""
    return _ON[type(event)](policy, state, event, now)


# --- the Application Master


def _accepted(_policy: Policy, state: State, _event: ev.Accepted, now: float) -> Step:
    return _proceed(replace(state, lost_at=None, accepted=True), now)


def _resumed(_policy: Policy, state: State, _event: ev.Resumed, now: float) -> Step:
    return _proceed(replace(state, accepted=True), now)


def _proceed(state: State, now: float) -> Step:
    if state.phase is not Phase.LAUNCHED or state.ending is not None:
        return state, ()
    return replace(enter(state, Phase.STAGING, now), announced=False), (ev.Withdraw(), ev.Stage())


def _interrupted(policy: Policy, state: State, event: ev.Interrupted, now: float) -> Step:
    return ending.drain(state, event.exit, event.reason, min(event.left_s, policy.drain_s), 0.0, now)


def _refused(policy: Policy, state: State, event: ev.Refused, now: float) -> Step:
    reason = f"the Application Master refused this container: {event.reason}"
    return ending.drain(state, Exit.REFUSED, reason, policy.drain_s, policy.drain_grace_s, now)


def _link_lost(_policy: Policy, state: State, _event: ev.LinkLost, now: float) -> Step:
    return replace(state, lost_at=now if state.lost_at is None else state.lost_at), ()


def _drain_ordered(_policy: Policy, state: State, event: ev.DrainOrdered, now: float) -> Step:
    reason = event.reason or "drained as ordered"
    return ending.drain(state, Exit.DRAINED, reason, event.deadline_s, event.grace_s, now)


def _stop_ordered(_policy: Policy, state: State, event: ev.StopOrdered, now: float) -> Step:
    return ending.at_once(state, Exit.ORDERED, event.reason or "stopped as ordered", now, Phase.STOPPED)


def _terminated(policy: Policy, state: State, _event: ev.Terminated, now: float) -> Step:
    return ending.drain(state, Exit.TERMINATED, Exit.TERMINATED.meaning, policy.drain_s, policy.drain_grace_s, now)


# --- staging and starting


def _staged(_policy: Policy, state: State, event: ev.Staged, now: float) -> Step:
    if state.phase is not Phase.STAGING:
        return state, ()
    wanted = state.wanted or event.models
    started = replace(enter(state, Phase.STARTING, now), wanted=wanted, triton=Triton.COMING, models=readiness.marked((), wanted))
    return started, (ev.Start(wanted),)


def _stage_failed(_policy: Policy, state: State, event: ev.StageFailed, now: float) -> Step:
    return ending.at_once(state, Exit.STAGING, event.reason, now) if _prepares(state) else (state, ())


def _waiting(_policy: Policy, state: State, event: ev.Waiting, now: float) -> Step:
    return enter(state, state.phase, now, event.reason) if _prepares(state) else state, ()


def _prepares(state: State) -> bool:
    """Its repository is staged, or looked for again before a start."""
    return state.ending is None and (state.phase is Phase.STAGING or state.triton is Triton.COMING)


def _started(_policy: Policy, state: State, event: ev.Started, now: float) -> Step:
    if state.ending is not None:
        return state, (ev.Stop(),)
    return (_up(state, event.pid, now) if state.triton is Triton.COMING else state), ()


def _adopted(_policy: Policy, state: State, event: ev.Adopted, now: float) -> Step:
    """It was accepted when it was started, so it need not wait for an Application Master to serve on."""
    found = replace(_up(enter(state, Phase.STARTING, now), event.pid, now), accepted=True)
    return replace(found, answered=event.served, served=event.served), ()


def _up(state: State, pid: int, now: float) -> State:
    return replace(state, triton=Triton.UP, pid=pid, answered=False, served=False, moved_at=now, idle=False, missed_at=None, blind_at=None)


def _start_failed(policy: Policy, state: State, event: ev.StartFailed, now: float) -> Step:
    if state.triton is not Triton.COMING or state.ending is not None:
        return state, ()
    return _again(policy, state, event.reason, event.uniform, now)


# --- the running tritonserver


def _probed(policy: Policy, state: State, event: ev.Probed, now: float) -> Step:
    if state.triton is not Triton.UP or event.pid != state.pid:
        return state, ()
    told = event.answered and bool(event.models)
    models = readiness.marked(event.models, state.wanted) if event.models else state.models
    moved = [(m.name, m.state, m.versions) for m in models] != [(m.name, m.state, m.versions) for m in state.models]
    state = replace(state, models=models, moved_at=now if moved or (event.answered and not state.answered) else state.moved_at)
    state = replace(state, idle=event.answered and not (told and readiness.loads(models)))
    event = replace(event, models=models)
    if state.ending is not None:
        return ending.probed(state, event, now)
    verdict = readiness.judge(event, strict=policy.strict, changing=state.changing > 0)
    if verdict.failed and not state.served:
        return ending.at_once(state, Exit.MODEL, verdict.failed, now)
    if event.answered:
        blind_at = None if told else event.asked_at if state.blind_at is None else state.blind_at
        state = replace(state, answered=True, missed_at=None, blind_at=blind_at)
        if blind_at is not None and not event.live and state.phase is Phase.UNREADY and now - blind_at >= policy.hang_s:
            return _killed(state, f"tritonserver cannot serve: {event.error}; it is killed after {policy.hang_s:g} s", now)
        if blind_at is not None and now - blind_at >= policy.idle_s:
            return _hidden(state, event.error or "Triton's repository index is empty", now)
    elif state.answered:
        state = replace(state, missed_at=event.asked_at if state.missed_at is None else state.missed_at)
        if now - (state.missed_at or 0.0) >= policy.hang_s:
            return _killed(state, f"tritonserver hangs: {verdict.reason}; it is killed after {policy.hang_s:g} s", now)
    else:
        # Before its first answer the log knows more than a refused connection tells.
        verdict = replace(verdict, reason=readiness.loading(models, now - state.moved_at) or verdict.reason)
    return _ready(state, verdict.reason, now) if verdict.ready else _hidden(state, verdict.reason, now)


def _killed(state: State, reason: str, now: float) -> Step:
    """It is started again when it is gone."""
    hidden, withdraw = _hidden(state, reason, now)
    return replace(hidden, triton=Triton.GOING, start_at=now + _GONE_S), (*withdraw, ev.Kill())


def _ready(state: State, reason: str, now: float) -> Step:
    ready = replace(enter(state, Phase.READY, now, reason), announced=True, served=True)
    return ready, () if state.announced else (ev.Announce(),)


def _hidden(state: State, reason: str, now: float) -> Step:
    """Not READY: STARTING stays STARTING, READY becomes UNREADY; the znode goes in the same step."""
    phase = Phase.UNREADY if state.phase is Phase.READY else state.phase
    hidden = replace(enter(state, phase, now, reason), announced=False)
    return hidden, () if state.announced is False else (ev.Withdraw(),)


def _gone(policy: Policy, state: State, event: ev.Gone, now: float) -> Step:
    if event.pid != state.pid or state.triton not in (Triton.UP, Triton.GOING):
        return state, ()
    if state.ending is not None:
        return ending.hurry(replace(state, triton=Triton.NONE, pid=0))
    words = " / ".join(line.strip() for line in event.last_lines[-_LAST_LINES:] if line.strip())
    hung = state.reason if state.triton is Triton.GOING else ""
    said = "; ".join(part for part in (hung, f"its log ends: {words}" if words else "") if part)
    return _again(policy, state, said, event.uniform, now)


def _again(policy: Policy, state: State, said: str, uniform: float, now: float) -> Step:
    """After an end or a failed start: once more, later; or never again."""
    deaths = policy.restarts.recent((*state.deaths, now), now)
    decision = policy.restarts.decide(deaths, now, uniform)
    reason = f"{decision.sentence}; {said}" if said else decision.sentence
    ended = replace(state, deaths=deaths, pid=0, answered=False, served=False, missed_at=None, models=readiness.marked((), state.wanted))
    if decision.give_up:
        return ending.at_once(replace(ended, triton=Triton.NONE), Exit.TRITON, reason, now)
    return _hidden(replace(ended, triton=Triton.DUE, start_at=now + decision.delay_s), reason, now)


def _wanted(_policy: Policy, state: State, event: ev.Wanted, _now: float) -> Step:
    others = tuple(name for name in state.wanted if name != event.model)
    wanted = (*others, event.model) if event.wanted else others
    return replace(state, wanted=wanted, models=readiness.marked(state.models, wanted)), ()


def _changing(_policy: Policy, state: State, event: ev.Changing, now: float) -> Step:
    # What it answered before the order is no news after it.
    return replace(state, changing=max(0, state.changing + event.by), moved_at=now, idle=False), ()


# --- time


def _tick(policy: Policy, state: State, _event: ev.Tick, now: float) -> Step:
    if state.ending is not None:
        return ending.passed(state, now)
    if state.lost_at is not None and now >= state.lost_at + _patience(policy, state):
        return _orphaned(policy, state, now)
    if state.triton is Triton.GOING and now >= state.start_at:
        return ending.at_once(state, Exit.TRITON, f"tritonserver (pid {state.pid}) does not end, {_GONE_S:g} s after KILL", now)
    if state.triton is Triton.DUE and now >= state.start_at:
        return replace(state, triton=Triton.COMING, restarts=state.restarts + 1), (ev.Start(state.wanted),)
    if _loads(state) and now >= state.moved_at + _stall_s(policy, state):
        return _stalled(policy, state, now)
    return state, ()


def _patience(policy: Policy, state: State) -> float:
    return policy.lease_s if state.accepted else policy.accept_s


def _orphaned(policy: Policy, state: State, now: float) -> Step:
    what = "was heard of" if state.accepted else "accepted this container"
    reason = f"no Application Master {what} for {_patience(policy, state):g} s"
    return ending.drain(state, Exit.ORPHANED, reason, policy.drain_s, policy.drain_grace_s, now)


def _loads(state: State) -> bool:
    return state.triton is Triton.UP and not state.served


def _stall_s(policy: Policy, state: State) -> float:
    """A Triton that answers has done with the models that it was started with: one that it is not loading will not come."""
    # One that was started again for nothing is not given up here, but killed: `_probed`.
    again = state.phase is Phase.UNREADY and state.blind_at is not None
    idle = state.idle and not state.changing and bool(state.wanted) and not again
    return min(policy.idle_s, policy.load_stall_s) if idle else policy.load_stall_s


def _stalled(policy: Policy, state: State, now: float) -> Step:
    if _stall_s(policy, state) < policy.load_stall_s:
        known = any(model.state == readiness.UNAVAILABLE for model in state.models)
        reason = f"tritonserver answers and loads nothing, and after {policy.idle_s:g} s is not ready: {state.reason}"
        return ending.at_once(state, Exit.MODEL if known else Exit.TRITON, reason, now)
    loading = readiness.behind(state.models)
    what = f"{', '.join(loading)} did not load" if loading else "tritonserver did not become ready"
    said = "" if readiness.loading(state.models, policy.load_stall_s) else state.reason
    reason = f"{what}: nothing changed for {policy.load_stall_s:g} s (TARN_LOAD_STALL_S)" + (f"; {said}" if said else "")
    return ending.at_once(state, Exit.MODEL, reason, now)


def next_deadline(policy: Policy, state: State) -> float | None:
    """When a Tick is due; None where only another event can change anything."""
    if state.ending is not None:
        return ending.next_deadline(state)
    due = [state.lost_at + _patience(policy, state)] if state.lost_at is not None else []
    if state.triton in (Triton.DUE, Triton.GOING):
        due.append(state.start_at)
    if _loads(state):
        due.append(state.moved_at + _stall_s(policy, state))
    return min(due, default=None)


def pause_s(policy: Policy, state: State, now: float) -> float:
    """Between two looks at tritonserver: short where something is awaited, for a while."""
    eager = _loads(state) or (state.ending is not None and state.triton is Triton.UP)
    if eager and now - max(state.moved_at, state.since) < _EAGER_FOR_S:
        return min(_EAGER_S, policy.probe_interval_s)
    return policy.probe_interval_s


_ON: Mapping[type[Any], Callable[[Policy, State, Any, float], Step]] = {
    ev.Accepted: _accepted,
    ev.Interrupted: _interrupted,
    ev.Refused: _refused,
    ev.LinkLost: _link_lost,
    ev.Adopted: _adopted,
    ev.Resumed: _resumed,
    ev.Staged: _staged,
    ev.StageFailed: _stage_failed,
    ev.Waiting: _waiting,
    ev.Started: _started,
    ev.StartFailed: _start_failed,
    ev.Probed: _probed,
    ev.Gone: _gone,
    ev.Wanted: _wanted,
    ev.Changing: _changing,
    ev.DrainOrdered: _drain_ordered,
    ev.StopOrdered: _stop_ordered,
    ev.Terminated: _terminated,
    ev.Withdrawn: lambda _policy, state, _event, now: ending.withdrawn(state, now),
    ev.Unloaded: lambda _policy, state, _event, now: ending.unloaded(state, now),
    ev.Stopped: lambda _policy, state, _event, now: ending.stopped(state, now),
    ev.Tick: _tick,
}
