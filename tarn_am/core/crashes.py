"""Crash loop or bad luck: when to ask again after a failure, and when to stop asking.

An instance that fails before it ever was READY says that something is wrong for all (a bad repository, a bad image). Those that
were asked for together and fail together say it once. A few such waves in a row end the asking of a fleet that never served; one
that did serve has shown that its settings work, so it is asked for on and on, ever more slowly: what went away comes back. One that served well for a while and died is bad luck and is
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
    """`in_a_row`: waves of failures before READY since an instance last became READY. `recent`: when early failures began to come."""

    in_a_row: int = 0
    recent: tuple[float, ...] = ()
    last_reason: str = ""
    next_ask_at: float = 0.0


@dataclass(frozen=True)
class Failure:
    """An end that nobody ordered. `ready_for_s`: how long the instance had been READY, None when it never was.

    `counted` False: it was no failure (a TERM from outside), so it slows the next ask but never ends the asking.
    """

    reason: str
    asked_at: float
    ready_for_s: float | None = None
    counted: bool = True


def failed(crashes: Crashes, failure: Failure, now: float) -> Crashes:
    if failure.ready_for_s is not None and failure.ready_for_s >= STEADY_S:
        return replace(crashes, last_reason=failure.reason)
    recent = _recent(crashes, failure.asked_at, now)
    tells_more = len(recent) > len(crashes.recent) or recent[-1] == now
    return Crashes(
        in_a_row=crashes.in_a_row + (failure.counted and failure.ready_for_s is None and tells_more),
        recent=recent,
        last_reason=failure.reason,
        next_ask_at=max(crashes.next_ask_at, now + BACKOFF.delay_s(len(recent) - 1)),
    )


def refused(crashes: Crashes, reason: str, asked_at: float, now: float) -> Crashes:
    """After an ask that the cluster refused for now: no crash, but the next ask waits ever longer."""
    recent = _recent(crashes, asked_at, now)
    return replace(crashes, recent=recent, last_reason=reason, next_ask_at=max(crashes.next_ask_at, now + BACKOFF.delay_s(len(recent))))


def _recent(crashes: Crashes, asked_at: float, now: float) -> tuple[float, ...]:
    """Whoever was asked for before the last failure tells nothing new by failing too: a rack, a wrong path for all."""
    fresh = tuple(at for at in crashes.recent if now - at < WINDOW_S)
    return fresh if fresh and asked_at < fresh[-1] else (*fresh, now)[-_KEPT:]


def became_ready(crashes: Crashes) -> Crashes:
    """An instance reached READY for the first time: what is asked for can work."""
    return replace(crashes, in_a_row=0)


def forgiven() -> Crashes:
    """A person gave a new order: everything may be tried again, now."""
    return Crashes()
