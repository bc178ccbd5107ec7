"""What agents say, and how long they may be silent.

A report that the table does not allow changes nothing; it is told once for each phase, because an agent may repeat itself.
"""

from __future__ import annotations

from dataclasses import replace

from tarn_am.core import crashes, ends, lifecycle
from tarn_am.core.events import AgentHello, AgentReports, Report
from tarn_am.core.model import DrainOrder, Phase, Sample, Staging
from tarn_am.core.roster import Member, Turn
from tarn_common.ids import ContainerId

END_GRACE_S = 20.0
"""An agent that said STOPPED or FAILED has so long to end its container."""
STOP_MARGIN_S = 10.0
"""After a drain's deadline the agent stops Triton itself; then the cluster's stop comes."""
RESTOP_S = 30.0
"""A stop that showed no effect is repeated."""
AM_SLEPT_S = 5.0
"""A tick so late means that this process stood still, not that the agents were silent."""


def hello(turn: Turn, event: AgentHello) -> None:
    member = turn.of(event.container_id)
    if member is None or member.instance.phase.is_over:
        return
    if member.instance.phase is Phase.ALLOCATED:
        member = ends.enter(turn, member, Phase.LAUNCHED)
    instance = member.instance
    restarted = bool(instance.incarnation) and instance.incarnation != event.incarnation
    if restarted:
        turn.note("its agent was started anew", instance.container_id, "warning")
    instance = replace(
        instance,
        node=instance.node or event.node,
        incarnation=event.incarnation,
        versions=event.versions,
        staging=event.staging or instance.staging,
        connected=True,
        silent_since=0.0,
    )
    first = not member.heard_at
    member = replace(member, instance=instance, heard_at=turn.now, refused=frozenset())
    if member.instance.phase is Phase.DRAINING and event.report.phase not in (Phase.STOPPED, Phase.FAILED):
        turn.put(member)
        ends.tell(turn, member)
        return
    _say(turn, member, event.report, restarted=restarted, first=first)


def phase(turn: Turn, container: ContainerId, report: Report) -> None:
    member = turn.of(container)
    if member is None or not member.heard_at:
        return
    _say(turn, replace(member, heard_at=turn.now), report, restarted=False, first=False)


def _say(turn: Turn, member: Member, report: Report, *, restarted: bool, first: bool) -> None:
    instance = member.instance
    truth = member.said if _muted(member) and member.said is not None else instance.phase
    if truth.is_over and report.phase is truth:
        # Said in the hello and again as a change: it is no news.
        return
    try:
        lifecycle.check(truth, report.phase, restarted=restarted)
        if report.phase is Phase.READY and report.endpoint is None:
            raise lifecycle.IllegalTransition("READY without an endpoint is not READY")
    except lifecycle.IllegalTransition as illegal:
        _refuse(turn, member, report.phase, str(illegal))
        return
    old = instance.phase
    instance = replace(
        instance,
        reason=report.reason,
        reason_code=report.reason_code,
        endpoint=report.endpoint or instance.endpoint,
        models=report.models,
        triton_restarts=report.triton_restarts,
        announced=report.announced,
        versions={**instance.versions, "triton": report.triton_version} if report.triton_version else instance.versions,
    )
    member = replace(member, instance=instance, said=report.phase)
    if report.phase is Phase.FAILED:
        ends.fail(turn, member, report.reason or "its agent gave no reason", report.reason_code)
        return
    if report.phase is not old:
        member = ends.enter(turn, member, report.phase, report.reason, report.reason_code)
    if first and report.since_at:
        # Only a first hello tells of a time before this AM listened; no clock of another machine is believed further than that.
        since = min(turn.now, max(report.since_at, member.instance.asked_at))
        member = replace(member, instance=replace(member.instance, since_at=since))
    turn.put(_entered(turn, member, old))


def _entered(turn: Turn, member: Member, old: Phase) -> Member:
    """What a change of phase brings with it."""
    instance = member.instance
    new = instance.phase
    if new is Phase.READY and not member.served_at:
        if turn.state.crashes.in_a_row or turn.state.halted:
            turn.update(crashes=crashes.became_ready(turn.state.crashes), halted="")
        member = replace(member, served_at=instance.since_at)
        turn.update(served=True)
    if new is Phase.DRAINING and instance.drain is None:
        policy = turn.state.policy
        order = DrainOrder(turn.now, turn.now + policy.drain_s + policy.drain_grace_s, 0.0, instance.reason or "its agent drains")
        member = replace(member, instance=replace(instance, drain=order))
        turn.update(owed=turn.state.owed + 1)
    if new is not old and new in _TOLD:
        severity = "warning" if new is Phase.UNREADY else "info"
        turn.note(f"is {new.value}" + (f": {instance.reason}" if instance.reason else ""), instance.container_id, severity)
    return member


_TOLD = frozenset({Phase.READY, Phase.UNREADY, Phase.DRAINING, Phase.STOPPED})


def _refuse(turn: Turn, member: Member, said: Phase, why: str) -> None:
    if said not in member.refused:
        turn.note(f"a report was refused: {why}", member.instance.container_id)
    turn.put(replace(member, refused=member.refused | {said}))


def reports(turn: Turn, event: AgentReports) -> None:
    for container, sample in event.samples.items():
        _report(turn, container, sample, event.staging.get(container))
    for container, staging in event.staging.items():
        if container not in event.samples:
            _report(turn, container, None, staging)


def _report(turn: Turn, container: ContainerId, sample: Sample | None, staging: Staging | None) -> None:
    member = turn.of(container)
    if member is None or not member.heard_at or not member.instance.connected:
        return
    instance = replace(member.instance, sample=sample or member.instance.sample, staging=staging or member.instance.staging)
    heard = replace(member, instance=instance, heard_at=turn.now)
    turn.put(_unmuted(turn, heard) if _muted(heard) else heard)


def lost(turn: Turn, container: ContainerId) -> None:
    member = turn.of(container)
    if member is None or not member.instance.connected:
        return
    turn.put(replace(member, instance=replace(member.instance, connected=False, silent_since=turn.now)))
    if not member.instance.phase.is_over:
        turn.note("its agent's stream ended", container)


def _muted(member: Member) -> bool:
    """Shown as UNREADY because of its agent's silence alone."""
    return member.instance.phase is Phase.UNREADY and member.said is Phase.READY


def _mute(turn: Turn, member: Member) -> None:
    reason = f"its agent has been silent for more than {turn.state.policy.silent_s:g} s"
    muted = ends.enter(turn, member, Phase.UNREADY, reason)
    turn.put(replace(muted, instance=replace(muted.instance, silent_since=member.heard_at)))
    turn.note(f"is UNREADY: {reason}", member.instance.container_id, "warning")


def _unmuted(turn: Turn, member: Member) -> Member:
    assert member.said is not None
    turn.note(f"is {member.said.value}: its agent speaks again", member.instance.container_id)
    spoken = ends.enter(turn, member, member.said)
    return replace(spoken, instance=replace(spoken.instance, silent_since=0.0))


def watch(turn: Turn) -> None:
    """On a tick: who has been silent, late, or deaf to a stop for too long."""
    _forgive_sleep(turn)
    for member in list(turn.members.values()):
        if member.instance.container_id is not None:
            _watch(turn, member)


def _forgive_sleep(turn: Turn) -> None:
    gap = turn.now - turn.state.ticked_at
    if turn.state.ticked_at and gap > AM_SLEPT_S:
        turn.note(f"this Application Master stood still for {gap:.0f} s; the agents' deadlines are moved by as much", severity="warning")
        for member in list(turn.members.values()):
            turn.put(
                replace(member, heard_at=member.heard_at and member.heard_at + gap, due_since=member.due_since and member.due_since + gap)
            )


def _watch(turn: Turn, member: Member) -> None:
    instance, policy, now = member.instance, turn.state.policy, turn.now
    quiet_s = now - member.heard_at if member.heard_at else 0.0
    if instance.stop_ordered_at:
        if now - instance.stop_ordered_at > RESTOP_S:
            ends.stop(turn, member)
    elif instance.phase.is_over:
        if now - instance.since_at > END_GRACE_S:
            ends.stop(turn, member)
    elif instance.phase is Phase.DRAINING:
        if instance.drain is not None and now > instance.drain.deadline_at + (0.0 if member.abrupt else STOP_MARGIN_S):
            turn.note("did not end within its drain's deadline and is stopped", instance.container_id, "warning")
            ends.stop(turn, member)
    elif not member.heard_at and member.due_since and now - member.due_since > policy.launch_deadline_s:
        reason = f"no word from its agent within {policy.launch_deadline_s:g} s of the launch on {instance.node or 'its node'}"
        ends.stop(turn, ends.fail(turn, member, reason, "no_hello"))
    elif quiet_s > policy.lost_s:
        ends.stop(turn, ends.fail(turn, member, f"its agent has been silent for more than {policy.lost_s:g} s", "lost"))
    elif quiet_s > policy.silent_s and instance.phase is Phase.READY:
        _mute(turn, member)
