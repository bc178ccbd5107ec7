"""The fleet's one decision function: `step(state, event, now) -> (state, actions)`.

Pure: everything that can wait is an action, and what came of it is a later event. Late and doubled events change nothing.
Each step ends with a reconciliation, so that whatever happened, the number of instances moves towards the target.
"""

from __future__ import annotations

from dataclasses import replace

from tarn_am.core import capacity, crashes, ends, hearing
from tarn_am.core.actions import Action, KeepTarget, Release, StopContainer
from tarn_am.core.events import (
    Adopted,
    AgentHello,
    AgentLost,
    AgentPhase,
    AgentReports,
    ClusterAllocated,
    ClusterAskRefused,
    ClusterAskWaits,
    ClusterCompleted,
    ClusterTakes,
    DrainOrdered,
    Event,
    Launched,
    LaunchFailed,
    ScaleOrdered,
    ShutdownOrdered,
    Tick,
)
from tarn_am.core.model import Instance, Phase
from tarn_am.core.roster import FleetPolicy, FleetState, Member, Turn
from tarn_common.ids import ContainerId


def begin(policy: FleetPolicy, kept_target: int | None) -> FleetState:
    """The state of an AM that has just started; a target that an earlier one kept is bent into today's bounds."""
    target = policy.min_instances if kept_target is None else min(policy.max_instances, max(policy.min_instances, kept_target))
    return FleetState(policy, target)


def step(state: FleetState, event: Event, now: float) -> tuple[FleetState, tuple[Action, ...]]:
    """One event in, the next state and what is to be done out. `now` is seconds since the epoch and never goes back."""
    turn = Turn(state, now)
    if isinstance(event, AgentReports):
        hearing.reports(turn, event)
        return turn.end()
    _apply(turn, event)
    capacity.reconcile(turn)
    return turn.end()


def _apply(turn: Turn, event: Event) -> None:
    match event:
        case Tick():
            hearing.watch(turn)
            turn.state = replace(turn.state, ticked_at=turn.now)
        case AgentHello():
            hearing.hello(turn, event)
        case AgentPhase():
            hearing.phase(turn, event.container_id, event.report)
        case AgentLost():
            hearing.lost(turn, event.container_id)
        case Adopted():
            _adopt(turn, event)
        case ClusterAllocated():
            _allocated(turn, event)
        case ClusterCompleted():
            _completed(turn, event)
        case ClusterAskRefused():
            _ask_refused(turn, event)
        case ClusterAskWaits():
            _ask_waits(turn, event)
        case ClusterTakes():
            _taken(turn, event)
        case Launched():
            _launched(turn, event.container_id)
        case LaunchFailed():
            _launch_failed(turn, event)
        case _:
            _order(turn, event)


def _order(turn: Turn, event: Event) -> None:
    match event:
        case ScaleOrdered():
            _scale(turn, event)
        case DrainOrdered():
            _drain(turn, event)
        case ShutdownOrdered():
            _shut_down(turn, event)


def _adopt(turn: Turn, event: Adopted) -> None:
    for found in event.containers:
        if found.container_id in turn.state.by_container:
            continue
        instance = Instance(
            f"adopted-{found.container_id}",
            Phase.LAUNCHED,
            found.launched_at,
            found.launched_at,
            container_id=found.container_id,
            node=found.node,
            phases={Phase.LAUNCHED: found.launched_at},
        )
        turn.put(Member(instance, adopted=True, launch_ordered=True, due_since=turn.now))
        turn.note("was found running and adopted", found.container_id)


def _allocated(turn: Turn, event: ClusterAllocated) -> None:
    if turn.of(event.container_id) is not None or any(one.container_id == event.container_id for one in turn.state.ended):
        return
    member = turn.members.get(event.ask_id)
    if member is None or member.instance.phase is not Phase.REQUESTED:
        turn.act(Release(event.container_id))
        return
    entered = ends.enter(turn, member, Phase.ALLOCATED)
    turn.put(replace(entered, instance=replace(entered.instance, container_id=event.container_id, node=event.node)))


def _launched(turn: Turn, container: ContainerId) -> None:
    member = turn.of(container)
    if member is None:
        return
    if member.instance.phase is Phase.ALLOCATED:
        turn.put(replace(ends.enter(turn, member, Phase.LAUNCHED), due_since=turn.now))
    elif member.instance.stop_ordered_at:
        # The stop overtook the launch.
        turn.act(StopContainer(container))


def _launch_failed(turn: Turn, event: LaunchFailed) -> None:
    member = turn.of(event.container_id)
    if member is None or member.heard_at:
        return
    if member.instance.phase in (Phase.ALLOCATED, Phase.LAUNCHED):
        member = ends.fail(turn, member, f"the cluster could not start it: {event.reason}", "launch")
    elif not member.instance.phase.is_over:
        member = ends.enter(turn, member, Phase.STOPPED, member.instance.reason)
    turn.act(Release(event.container_id))
    turn.drop(member)


def _completed(turn: Turn, event: ClusterCompleted) -> None:
    member = turn.of(event.container_id)
    if member is not None:
        ends.completed(turn, member, event.exit_status, event.diagnostics)


def _ask_refused(turn: Turn, event: ClusterAskRefused) -> None:
    member = turn.members.get(event.ask_id)
    if member is None or member.instance.phase is not Phase.REQUESTED:
        return
    turn.drop(member)
    if event.retry:
        turn.update(crashes=crashes.refused(turn.state.crashes, event.reason, member.instance.asked_at, turn.now))
        turn.note(f"the cluster refused an ask for now: {event.reason}", severity="warning")
    else:
        ends.halt(turn, f"the cluster refused the ask: {event.reason}")


def _ask_waits(turn: Turn, event: ClusterAskWaits) -> None:
    member = turn.members.get(event.ask_id)
    if member is not None and member.instance.phase is Phase.REQUESTED and member.instance.reason != event.reason:
        turn.put(replace(member, instance=replace(member.instance, reason=event.reason)))
        if event.reason not in (each.sentence for each in turn.state.happenings[-20:]):
            turn.note(event.reason, severity="warning")


def _taken(turn: Turn, event: ClusterTakes) -> None:
    """Drained while there is time; its replacement is asked for at once."""
    member = turn.of(event.container_id)
    if member is None or not member.counts:
        return
    turn.note(f"drains: {event.reason}", event.container_id, "warning")
    turn.update(owed=turn.state.owed + 1)
    if member.served_at or member.unheard:
        ends.drain(turn, member, event.reason, event.within_s)
    else:
        ends.dismiss(turn, member, event.reason)


def _scale(turn: Turn, event: ScaleOrdered) -> None:
    state = turn.state
    if state.shutting_down:
        return
    lifted = " and asking goes on" if state.halted else ""
    if event.wanted != state.target or state.halted:
        turn.note(f"{event.who} ordered {event.wanted} instances (it was {state.target}){lifted}")
        turn.act(KeepTarget(event.wanted))
    turn.update(target=event.wanted, halted="", crashes=crashes.forgiven(), owed=0)


def _drain(turn: Turn, event: DrainOrdered) -> None:
    member = turn.of(event.container_id)
    if member is None or not member.counts:
        return
    turn.note(f"drains: ordered by {event.who}", event.container_id)
    turn.update(owed=turn.state.owed + 1)
    if member.served_at or member.unheard:
        ends.drain(turn, member, f"drained by {event.who}")
    else:
        ends.dismiss(turn, member, f"drained by {event.who}")


def _shut_down(turn: Turn, event: ShutdownOrdered) -> None:
    state = turn.state
    if state.shutting_down:
        if not state.hurried:
            turn.note(f"{event.who} ordered the shutdown again: what is left is stopped at once", severity="warning")
            turn.update(hurried=True)
        return
    turn.note(f"{event.who} ordered the shutdown: all instances drain")
    turn.act(KeepTarget(None))
    turn.update(shutting_down=True, shutdown_at=turn.now)
