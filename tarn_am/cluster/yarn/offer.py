"""What the cluster's nodes could hold, beside what an instance asks for. Pure.

YARN itself does not say when no node could ever serve an ask: it gives less than was asked, or reserves nodes for it for ever.
"""

from __future__ import annotations

from dataclasses import dataclass

from tarn_am.cluster.yarn.convert import MEMORY, VCORES, Size, largest


@dataclass(frozen=True)
class Node:
    """One node that takes containers."""

    host: str
    total: Size
    used: Size

    @property
    def free(self) -> Size:
        mine, taken = self.total.parts(), self.used.parts()
        left = {name: number - taken.get(name, 0) for name, number in mine.items()}
        return Size(left.pop(MEMORY), left.pop(VCORES), left)


def why_never(wanted: Size, nodes: tuple[Node, ...] | None, maximum: Size | None) -> str:
    """Why no node can hold `wanted`, with the best that there is; '' when one can, or when that is not known."""
    if nodes:
        if any(not node.total.lacks(wanted) for node in nodes):
            return ""
        best = largest(node.total for node in nodes)
        assert best is not None
        short = best.lacks(wanted) or "no single node has all of it"
        return f"no node of the cluster can hold an instance of {wanted}: the best has {short}; ask for less, or add a node"
    if maximum is not None and (short := maximum.lacks(wanted)):
        return f"the cluster allows no container of {wanted}: the most is {short}; ask for less"
    return ""


def why_unknown(wanted: Size, names: frozenset[str]) -> str:
    """A resource that the cluster does not have; YARN would give a container without it, in silence."""
    missing = sorted(name for name, number in wanted.others.items() if number and name not in names)
    if not missing or not names:
        return ""
    return f"the cluster has no resource {missing[0]}; it has {', '.join(sorted(names))}: set --gpu-resource, or --gpus 0"
