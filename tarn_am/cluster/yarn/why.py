"""Why an ask still waits, in one sentence that a person can act on. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from tarn_am.cluster.yarn.convert import Size

PATIENCE_S = 3.0
"""An ask that has waited for less needs no reason."""


@dataclass(frozen=True)
class Seen:
    """What is known while an ask waits. `nodes` is how many the cluster has, 0 when not known; `full` how many of them hold all
    the instances that they may; `room` how many have room by the ResourceManager's own word, None when it was not asked."""

    size: Size
    per_node: int
    nodes: int
    full: int
    avoided: tuple[str, ...] = ()
    room: int | None = None
    trouble: str = ""
    silent_s: float = 0.0
    label: str = ""


def why(seen: Seen) -> str:
    if seen.trouble:
        return f"the ResourceManager has not answered for {seen.silent_s:.0f} s: {seen.trouble}"
    kind = f" with label {seen.label}" if seen.label else ""
    if not seen.nodes:
        return f"the cluster has no node{kind} that takes containers now"
    avoided = f"; avoided after failures: {', '.join(seen.avoided)}" if seen.avoided else ""
    free = seen.nodes - seen.full - len(seen.avoided)
    if seen.per_node and free <= 0:
        return (
            f"{seen.full} of {_nodes(seen.nodes)}{kind} {'has' if seen.full == 1 else 'have'} {_instances(seen.per_node)} already, "
            f"and no node may have more (--per-node {seen.per_node}){avoided}; it starts as soon as another node comes"
        )
    if seen.room == 0:
        return f"no node{kind} has {seen.size} free now{avoided}; it starts as soon as one has"
    return f"asked for {seen.size} on one of {_nodes(free)}{kind}, and the ResourceManager gave none yet: room or the queue's share is used up{avoided}"


def _nodes(number: int) -> str:
    return f"{number} node" if number == 1 else f"{number} nodes"


def _instances(number: int) -> str:
    return "its instance" if number == 1 else f"{number} instances"
