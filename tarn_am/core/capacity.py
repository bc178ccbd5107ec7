"""How many: asks for what is missing, sheds what is too much, winds up at the end. Every cycle ends in one sentence."""

from __future__ import annotations

from dataclasses import replace

from tarn_am.core import ends, victim
from tarn_am.core.actions import FinishApplication, Launch, Request, SendStop
from tarn_am.core.model import Instance, Phase
from tarn_am.core.roster import CAPACITY, Member, Turn

WOULD_NOT_END_S = 90.0
"""After the drain's own time: an application is finished even if a container would not end."""

_UNPROVEN = (Phase.REQUESTED, Phase.ALLOCATED, Phase.LAUNCHED, Phase.STAGING, Phase.STARTING)


def reconcile(turn: Turn) -> None:
    """Brings the number of instances towards the target, as far as it may now."""
    if turn.state.shutting_down:
        _wind_up(turn)
        return
    missing = turn.state.target - sum(turn.tally[phase] for phase in CAPACITY)
    did = _ask(turn, missing) if missing > 0 else _shed(turn, -missing) if missing < 0 else ""
    if turn.tally[Phase.ALLOCATED]:
        _launch(turn)
    turn.verdict(_sentence(turn, did))


def _ask(turn: Turn, missing: int) -> str:
    state = turn.state
    if state.halted:
        return state.halted
    if turn.now < state.crashes.next_ask_at:
        return f"{missing} more will be asked for after a pause, because of the last failure: {state.crashes.last_reason}"
    # While failures follow each other, no more are tried at once than it takes to be sure.
    number = missing
    if state.crashes.in_a_row:
        trying = sum(turn.tally[phase] for phase in _UNPROVEN)
        number = min(missing, max(1, state.policy.crash_limit - state.crashes.in_a_row) - trying)
    if number <= 0:
        return (
            f"{missing} more will be asked for when those under way have shown that it works; the last failure: {state.crashes.last_reason}"
        )
    for offset in range(number):
        ask = f"ask-{state.asks + offset + 1}"
        instance = Instance(ask, Phase.REQUESTED, turn.now, turn.now, phases={Phase.REQUESTED: turn.now})
        turn.put(Member(instance))
        turn.act(Request(ask))
    replaced = min(number, state.owed)
    turn.update(asks=state.asks + number, owed=state.owed - replaced, replaced_total=state.replaced_total + replaced)
    return f"asked for {number} more"


def _shed(turn: Turn, surplus: int) -> str:
    there = [member for member in turn.members.values() if member.counts]
    unheard = sum(member.unheard for member in there)
    by_ask = {member.instance.ask_id: member for member in there}
    gone = 0
    for instance in victim.order((member.instance, member.served_at > 0.0) for member in there)[:surplus]:
        nothing_runs = instance.phase is Phase.REQUESTED or (
            instance.phase is Phase.ALLOCATED and not by_ask[instance.ask_id].launch_ordered
        )
        if unheard and not nothing_runs:
            return f"{surplus - gone} too many; {unheard} found running have not said yet whether they serve, so none is taken away"
        _take_away(turn, by_ask[instance.ask_id], "the fleet was scaled down")
        gone += 1
    turn.update(owed=0)
    return f"{surplus} too many: took {gone} away"


def _take_away(turn: Turn, member: Member, reason: str) -> None:
    if member.served_at or member.unheard:
        turn.note(f"drains: {reason}", member.instance.container_id)
        ends.drain(turn, member, reason)
    else:
        ends.dismiss(turn, member, reason)


def _launch(turn: Turn) -> None:
    for member in list(turn.members.values()):
        instance = member.instance
        if instance.phase is Phase.ALLOCATED and not member.launch_ordered and instance.container_id is not None:
            turn.put(replace(member, launch_ordered=True))
            turn.act(Launch(instance.container_id))


def _wind_up(turn: Turn) -> None:
    state = turn.state
    if state.finished:
        return
    for member in list(turn.members.values()):
        if member.counts:
            _take_away(turn, member, "the application is shut down")
    if state.hurried:
        _hurry(turn)
    left = len(turn.members)
    overdue = turn.now > state.shutdown_at + state.policy.drain_s + state.policy.drain_grace_s + WOULD_NOT_END_S
    if left and not overdue:
        turn.verdict(f"shutting down: {left} still to end")
        return
    message = state.halted or (f"{left} containers would not end" if left else "shut down as ordered")
    turn.update(finished=True)
    turn.act(FinishApplication(succeeded=not left, message=message))
    turn.verdict(f"finished: {message}")


def _hurry(turn: Turn) -> None:
    for member in list(turn.members.values()):
        container = member.instance.container_id
        if container is None or member.instance.stop_ordered_at:
            continue
        if member.instance.connected:
            turn.act(SendStop(container, "the shutdown was ordered a second time"))
        ends.stop(turn, replace(member, abrupt=True))


def _sentence(turn: Turn, did: str) -> str:
    parts = ", ".join(f"{number} {phase.value}" for phase, number in turn.tally.items() if number)
    return f"{turn.state.target} wanted: {parts or 'none there'}; {did or 'nothing to do'}"
