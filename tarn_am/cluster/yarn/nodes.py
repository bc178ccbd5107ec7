"""Nodes that fail what is started on them: avoided for a while, ever longer, and never so many that nothing is left. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

_DOUBLINGS = 32


@dataclass(frozen=True)
class NodePolicy:
    """`failures` within `window_s` make a node bad for `first_s`, twice as long each next time, at most `limit_s`.

    At most `share` of the cluster's nodes are avoided at a time: where most fail, the fault is not the nodes'.
    """

    failures: int = 2
    window_s: float = 600.0
    first_s: float = 60.0
    limit_s: float = 3600.0
    share: float = 0.5


@dataclass(frozen=True)
class Record:
    """One node's failures. `until` 0: it is not avoided; `times`: how often it was, without a success since."""

    failed_at: tuple[float, ...] = ()
    until: float = 0.0
    times: int = 0
    reason: str = ""


@dataclass(frozen=True)
class Nodes:
    """Every node that ever failed and has not been forgiven."""

    policy: NodePolicy = field(default_factory=NodePolicy)
    records: Mapping[str, Record] = field(default_factory=dict)

    def failed(self, node: str, reason: str, now: float, known_nodes: int) -> Nodes:
        """One more failure on `node`; `known_nodes` is how many the cluster has, 0 when that is not known."""
        old = self.records.get(node, Record())
        failed_at = (*(at for at in old.failed_at if now - at < self.policy.window_s), now)
        # After it was avoided once, the first failure is enough: it had its second chance.
        due = len(failed_at) >= self.policy.failures or old.times > 0
        new = replace(old, failed_at=failed_at[-self.policy.failures :], reason=reason)
        if due and now >= old.until and self._may_avoid_one_more(node, now, known_nodes):
            length = min(self.policy.limit_s, self.policy.first_s * 2.0 ** min(old.times, _DOUBLINGS))
            new = Record((), now + length, old.times + 1, reason)
        return replace(self, records={**self.records, node: new})

    def served(self, node: str) -> Nodes:
        """What was started there works: all is forgiven."""
        return self.lifted(node) if node in self.records else self

    def lifted(self, node: str) -> Nodes:
        return replace(self, records={name: record for name, record in self.records.items() if name != node})

    def avoided(self, now: float) -> frozenset[str]:
        return frozenset(node for node, record in self.records.items() if record.until > now)

    def _may_avoid_one_more(self, node: str, now: float, known_nodes: int) -> bool:
        others = len(self.avoided(now) - {node})
        return not known_nodes or others + 1 <= int(known_nodes * self.policy.share)
