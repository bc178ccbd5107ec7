"""How an instance ends. Pure.

A drain loses no request: znode away, grace for balancers, every model unloaded and the last request out, tritonserver stopped.
A failure or an ordered stop leaves the middle out. Whatever begins first gives the status; a later order can only hurry it.
"""

from __future__ import annotations

from dataclasses import replace

from tarn_agent.core import events as ev
from tarn_agent.core import readiness
from tarn_agent.core.events import Action
from tarn_agent.core.instance import Ending, EndStep, State, Step, Triton, enter
from tarn_agent.core.model import Phase
from tarn_common.exits import Exit

STOP_RESERVE_S = 2.5
"""Of a drain's deadline, what tritonserver's own end takes: TERM, and KILL after two seconds."""


def at_once(state: State, status: Exit, reason: str, now: float, phase: Phase = Phase.FAILED) -> Step:
    """Without a drain. Nothing happens where the end has come as far already; a drain under way is cut short."""
    if state.ending is not None:
        return hurry(state)
    ending = Ending(status, reason, EndStep.STOPPING, stop_at=now)
    return replace(enter(state, phase, now, reason), ending=ending, announced=False), (ev.Withdraw(), ev.Stop())


def hurry(state: State) -> Step:
    """Cuts what is left of a drain."""
    ending = state.ending
    if ending is None or ending.step in (EndStep.STOPPING, EndStep.OVER):
        return state, ()
    return _to(state, EndStep.STOPPING), (ev.Stop(),)


def drain(state: State, status: Exit, reason: str, deadline_s: float, grace_s: float, now: float) -> Step:
    """Begins a drain. One under way goes on; its deadline is now the new one's."""
    stop_at = now + max(0.0, deadline_s - STOP_RESERVE_S)
    if state.ending is not None and state.ending.step in (EndStep.STOPPING, EndStep.OVER):
        return state, ()
    if state.ending is not None:
        sooner = state.ending.exit is Exit.TERMINATED or status is Exit.TERMINATED
        return replace(state, ending=replace(state.ending, stop_at=min(stop_at, state.ending.stop_at) if sooner else stop_at)), ()
    if state.phase is Phase.LAUNCHED:
        return at_once(state, status, reason, now, Phase.STOPPED)
    ending = Ending(status, reason, EndStep.WITHDRAWING, grace_s=grace_s, stop_at=stop_at)
    drained = replace(enter(state, Phase.DRAINING, now, reason), ending=ending, announced=False)
    if state.serves:
        return drained, (ev.Withdraw(),)
    return _to(drained, EndStep.STOPPING), (ev.Withdraw(), ev.Stop())


def withdrawn(state: State, now: float) -> Step:
    ending = state.ending
    if ending is None or ending.step is not EndStep.WITHDRAWING:
        return state, ()
    until = min(now + ending.grace_s, ending.stop_at)
    return passed(replace(state, ending=replace(ending, step=EndStep.GRACE, until=until)), now)


def passed(state: State, now: float) -> Step:
    """What the time asks for."""
    ending = state.ending
    if ending is None or ending.step in (EndStep.STOPPING, EndStep.OVER):
        return state, ()
    if now >= ending.stop_at:
        return hurry(state)
    if ending.step is EndStep.GRACE and now >= ending.until:
        loaded = tuple(model.name for model in state.models if model.state != readiness.UNAVAILABLE)
        return _to(state, EndStep.UNLOADING), (ev.Unload(loaded),)
    return state, ()


def unloaded(state: State, now: float) -> Step:
    ending = state.ending
    if ending is None or ending.step is not EndStep.UNLOADING:
        return state, ()
    return replace(state, ending=replace(ending, unloaded_at=now)), ()


def probed(state: State, probe: ev.Probed, now: float) -> Step:
    ending = state.ending
    if ending is None or ending.step is not EndStep.UNLOADING or ending.unloaded_at is None:
        return state, ()
    if probe.answered and probe.asked_at >= ending.unloaded_at and readiness.at_rest(probe.models):
        return hurry(state)
    return state, ()


def stopped(state: State, now: float) -> Step:
    """Nothing runs any more: the last phase, and the end of everything."""
    ending = state.ending
    if ending is None or ending.step is EndStep.OVER:
        return state, ()
    over = replace(_to(state, EndStep.OVER), triton=Triton.NONE, pid=0)
    if over.phase is Phase.DRAINING:
        over = enter(over, Phase.STOPPED, now, ending.reason)
    finish: Action = ev.Finish(ending.exit, ending.reason)
    return over, (finish,)


def next_deadline(state: State) -> float | None:
    ending = state.ending
    if ending is None or ending.step in (EndStep.STOPPING, EndStep.OVER):
        return None
    return min(ending.until, ending.stop_at) if ending.step is EndStep.GRACE else ending.stop_at


def _to(state: State, step: EndStep) -> State:
    assert state.ending is not None
    return replace(state, ending=replace(state.ending, step=step))
