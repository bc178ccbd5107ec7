"""How an instance comes to its end: drained, told to stop, stopped by the cluster, failed, and gone."""

from __future__ import annotations

from dataclasses import replace

from tarn_am.core import crashes, diagnosis
from tarn_am.core.actions import Cancel, Release, SendDrain, SendStop, StopContainer
from tarn_am.core.crashes import Failure
from tarn_am.core.model import DrainOrder, Phase
from tarn_am.core.roster import Member, Turn

ABRUPT_S = 15.0
"""From telling an agent to stop at once to the cluster's own stop."""


def enter(turn: Turn, member: Member, phase: Phase, reason: str = "", code: str = "") -> Member:
    """The member in a new phase, entered now."""
    instance = member.instance
    phases = {**instance.phases, phase: turn.now}
    return replace(member, instance=replace(instance, phase=phase, since_at=turn.now, reason=reason, reason_code=code, phases=phases))


def drain(turn: Turn, member: Member, reason: str, within_s: float | None = None) -> None:
    """Out of the list now; the agent is told, or will be when it speaks again. `within_s`: the cluster gives no more time."""
    policy = turn.state.policy
    usual_s = policy.drain_s + policy.drain_grace_s
    order = DrainOrder(turn.now, turn.now + min(usual_s, usual_s if within_s is None else within_s), policy.drain_grace_s, reason)
    drained = enter(turn, member, Phase.DRAINING, reason)
    drained = replace(drained, instance=replace(drained.instance, drain=order))
    turn.put(drained)
    if drained.instance.connected:
        tell(turn, drained)


def dismiss(turn: Turn, member: Member, reason: str) -> None:
    """Ends an instance that never served: nobody waits for an answer from it."""
    instance = member.instance
    if instance.phase is Phase.REQUESTED:
        turn.act(Cancel(instance.ask_id))
        turn.drop(member)
        return
    assert instance.container_id is not None
    if instance.phase is Phase.ALLOCATED and not member.launch_ordered:
        turn.act(Release(instance.container_id))
        turn.drop(enter(turn, member, Phase.STOPPED, reason))
        return
    gone = enter(turn, replace(member, abrupt=True), Phase.DRAINING, reason)
    gone = replace(gone, instance=replace(gone.instance, drain=DrainOrder(turn.now, turn.now + ABRUPT_S, 0.0, reason)))
    if instance.connected:
        turn.put(gone)
        tell(turn, gone)
    else:
        stop(turn, gone)


def tell(turn: Turn, member: Member) -> None:
    """Sends a draining instance its order (again), with the time that is left."""
    instance = member.instance
    order = instance.drain
    if order is None or instance.container_id is None:
        return
    if member.abrupt:
        turn.act(SendStop(instance.container_id, order.reason))
    else:
        turn.act(SendDrain(instance.container_id, max(0.0, order.deadline_at - turn.now), order.grace_s, order.reason))


def stop(turn: Turn, member: Member) -> None:
    """The cluster's own stop, noted so that it can be repeated."""
    container = member.instance.container_id
    if container is None:
        return
    turn.put(replace(member, instance=replace(member.instance, stop_ordered_at=turn.now)))
    turn.act(StopContainer(container))


def blame(turn: Turn, member: Member, reason: str, *, counted: bool = True) -> Member:
    """Counts a failure once, slows the next ask, and halts the asking when it looks like a crash loop."""
    if member.blamed:
        return member
    state = turn.state
    ready_for_s = turn.now - member.served_at if member.served_at else None
    history = crashes.failed(state.crashes, Failure(reason, member.instance.asked_at, ready_for_s, counted), turn.now)
    turn.update(crashes=history, failed_total=state.failed_total + counted, owed=state.owed + 1)
    if counted and history.in_a_row >= state.policy.crash_limit and not (state.halted or state.served) and ready_for_s is None:
        many = f"{history.in_a_row} instances failed in a row and none became READY"
        halt(turn, f"{many if history.in_a_row > 1 else 'the first instance failed'}; the last reason: {reason}")
    return replace(member, blamed=True)


def halt(turn: Turn, why: str) -> None:
    sentence = (
        f"no more instances are asked for: {why.rstrip('.')}. Mend the cause, then give the number again: tarn scale {turn.state.target}"
    )
    turn.update(halted=sentence)
    turn.note(sentence, severity="error")


def fail(turn: Turn, member: Member, reason: str, code: str) -> Member:
    """FAILED, told and blamed; the container may still be there."""
    turn.note(f"failed: {reason}", member.instance.container_id, "warning")
    failed = blame(turn, enter(turn, member, Phase.FAILED, reason, code), reason)
    turn.put(failed)
    return failed


def completed(turn: Turn, member: Member, exit_status: int | None, diagnostics: str) -> None:
    """The container is over: what that means depends on whether anybody wanted it."""
    instance = replace(member.instance, exit_status=exit_status, connected=False)
    member = replace(member, instance=instance)
    ordered = instance.phase is Phase.DRAINING or instance.stop_ordered_at > 0.0
    if instance.phase.is_over:
        turn.drop(member)
        return
    said = instance.reason if instance.phase in (Phase.UNREADY, Phase.DRAINING) and not ordered else ""
    why = diagnosis.sentence(exit_status, diagnostics, said)
    code = diagnosis.code(exit_status, diagnostics)
    if ordered:
        member = enter(turn, member, Phase.STOPPED, instance.reason or why, code)
        turn.note(f"ended ({instance.reason})" if instance.reason else "ended as ordered", instance.container_id)
    elif diagnosis.is_failure(exit_status, diagnostics):
        member = fail(turn, member, why, code)
    else:
        member = blame(turn, enter(turn, member, Phase.STOPPED, why, code), why, counted=False)
        turn.note(f"ended, though nobody here ordered it: {why}", instance.container_id, "warning")
    turn.drop(member)
