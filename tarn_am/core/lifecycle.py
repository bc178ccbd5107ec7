"""The life of an instance as a table: which phase may follow which.

Two tables, because an agent that was started anew (same container, new process) may find less than its forerunner had: its
Triton may be gone and the staging to be done again. What never happens: back out of DRAINING, or out of the grave.
"""

from __future__ import annotations

from collections.abc import Mapping

from tarn_am.core.model import Phase

_ENDS = frozenset({Phase.STOPPED, Phase.FAILED})
_ALIVE = frozenset({Phase.LAUNCHED, Phase.STAGING, Phase.STARTING, Phase.READY, Phase.UNREADY, Phase.DRAINING}) | _ENDS

TRANSITIONS: Mapping[Phase, frozenset[Phase]] = {
    Phase.REQUESTED: frozenset({Phase.ALLOCATED}) | _ENDS,
    Phase.ALLOCATED: frozenset({Phase.LAUNCHED}) | _ENDS,
    Phase.LAUNCHED: _ALIVE - {Phase.LAUNCHED},
    Phase.STAGING: frozenset({Phase.STARTING, Phase.READY, Phase.UNREADY, Phase.DRAINING}) | _ENDS,
    Phase.STARTING: frozenset({Phase.READY, Phase.UNREADY, Phase.DRAINING}) | _ENDS,
    Phase.READY: frozenset({Phase.UNREADY, Phase.STARTING, Phase.DRAINING}) | _ENDS,
    Phase.UNREADY: frozenset({Phase.READY, Phase.STARTING, Phase.DRAINING}) | _ENDS,
    Phase.DRAINING: _ENDS,
    Phase.STOPPED: frozenset(),
    Phase.FAILED: frozenset(),
}
"""Within one life of the agent. A report of the phase that already is, is an update and always legal while the instance lives."""

RESTARTED: Mapping[Phase, frozenset[Phase]] = {
    phase: _ALIVE if phase in _ALIVE - _ENDS - {Phase.DRAINING} else follow for phase, follow in TRANSITIONS.items()
}
"""On the hello of an agent that was started anew."""


class IllegalTransition(ValueError):
    """A phase that cannot follow; the text names both."""


def check(old: Phase, new: Phase, *, restarted: bool = False) -> None:
    """Raises IllegalTransition where the table does not have it."""
    if new is old and not old.is_over:
        return
    if new not in (RESTARTED if restarted else TRANSITIONS)[old]:
        raise IllegalTransition(f"{new.value} cannot follow {old.value}")
