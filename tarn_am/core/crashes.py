"""Crash loop or bad luck: when to ask again after a failure, and when to stop asking.

An instance that fails before it ever was READY says that something is wrong for all (a bad repository, a bad image); a few of
them in a row, none reaching READY in between, end the asking. One that served well for a while and died is bad luck and is
replaced at once. One that dies soon after READY is between the two: it is asked for again, ever more slowly.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from tarn_common.backoff import Backoff

STEADY_S = 60.0
"""An instance that was READY for so long and died had bad luck."""
WINDOW_S = 600.0
"""Failures older than this slow nothing down."""
BACKOFF = Backoff(first_s=1.0, limit_s=60.0, factor=2.0, jitter=0.0)
_KEPT = 64


@dataclass(frozen=True)
class Crashes:
    """`in_a_row`: failures before READY since an instance last became READY. `recent`: when the early ones were."""

    in_a_row: int = 0
    recent: tuple[float, ...] = ()
    last_reason: str = ""
    next_ask_at: float = 0.0


def failed(crashes: Crashes, reason: str, ready_for_s: float | None, now: float, *, counted: bool = True) -> Crashes:
    """After an end that nobody ordered; `ready_for_s` is how long the instance had been READY, None when it never was.

    `counted` False: it was no failure (a TERM from outside), so it slows the next ask but never ends the asking.
    """
    if ready_for_s is not None and ready_for_s >= STEADY_S:
        return replace(crashes, last_reason=reason)
    recent = (*(at for at in crashes.recent if now - at < WINDOW_S), now)[-_KEPT:]
    delay_s = BACKOFF.delay_s(_bursts(recent) - 1)
    return Crashes(
        in_a_row=crashes.in_a_row + (counted and ready_for_s is None),
        recent=recent,
        last_reason=reason,
        next_ask_at=max(crashes.next_ask_at, now + delay_s),
    )


def refused(crashes: Crashes, reason: str, now: float) -> Crashes:
    """After an ask that the cluster refused for now: no crash, but the next ask waits ever longer."""
    recent = (*(at for at in crashes.recent if now - at < WINDOW_S), now)[-_KEPT:]
    return replace(crashes, recent=recent, last_reason=reason, next_ask_at=max(crashes.next_ask_at, now + BACKOFF.delay_s(_bursts(recent))))


def became_ready(crashes: Crashes) -> Crashes:
    """An instance reached READY for the first time: what is asked for can work."""
    return replace(crashes, in_a_row=0)


def forgiven() -> Crashes:
    """A person gave a new order: everything may be tried again, now."""
    return Crashes()


def _bursts(times: tuple[float, ...]) -> int:
    """Failures within one second of each other have one cause (a rack, a wrong path for all) and count once."""
    bursts, last = 0, float("-inf")
    for at in times:
        if at - last >= 1.0:
            bursts, last = bursts + 1, at
    return bursts
