"""What the YARN back end knows at one moment, as frozen data, for who shows it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from tarn_am.cluster.yarn.books import Stage
from tarn_am.cluster.yarn.ledger import Ledger


@dataclass(frozen=True)
class AvoidedNode:
    """A node that failed: avoided for `left_s` more, for the `times`-th time, because of `reason`."""

    node: str
    left_s: float
    times: int
    reason: str


@dataclass(frozen=True)
class YarnView:
    """How many, kept apart; `waiting` names each ask without an answer and why it waits ('' not long enough to say).

    `silent_s`: since the last answered heartbeat was sent, None before the first. `trouble`: why the last one had no answer.
    `over`: why this attempt may act no more, empty while it may.
    """

    attempt: str
    placement: str
    nodes: int
    full: tuple[str, ...]
    avoided: tuple[AvoidedNode, ...]
    waiting: Mapping[str, str] = field(default_factory=dict)
    stages: Mapping[Stage, int] = field(default_factory=dict)
    silent_s: float | None = None
    trouble: str = ""
    over: str = ""


def view(ledger: Ledger, attempt: str, now: float, heard_at: float | None, trouble: str, over: str) -> YarnView:
    return YarnView(
        attempt=attempt,
        placement=ledger.placement.mode.value,
        nodes=ledger.known_nodes,
        full=tuple(sorted(ledger.placement.full)),
        avoided=tuple(
            AvoidedNode(node, record.until - now, record.times, record.reason)
            for node, record in sorted(ledger.nodes.records.items())
            if record.until > now
        ),
        waiting=ledger.waiting,
        stages={stage: ledger.books.count(stage) for stage in Stage},
        silent_s=None if heard_at is None else now - heard_at,
        trouble=trouble,
        over=over,
    )
