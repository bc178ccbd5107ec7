"""Whether a cluster could ever give what is asked for. Pure.

YARN itself does not say: it clamps what is too large, starves what no node has, and ignores a resource whose name it does not know.
So what an application will ask for is compared with the limit, with the names, and with every node, before anything is submitted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tarn_am.cluster.yarn.convert import MEMORY, VCORES, Size


class AskError(ValueError):
    """Nothing in this cluster could ever serve the ask; the sentence names the part, the value and the best offer."""


@dataclass(frozen=True)
class Node:
    """A node that takes containers: its whole capability, and its partition ('' the default one)."""

    name: str
    capability: Size
    label: str = ""


@dataclass(frozen=True)
class Offer:
    """What a cluster can give: the largest container that it allows, the names of its resources, its nodes.

    Right after its start a ResourceManager tells a limit that no node has, so the nodes count as well.
    """

    maximum: Size
    names: frozenset[str]
    nodes: Sequence[Node]


@dataclass(frozen=True)
class Ask:
    """`who` is 'an instance' or 'the Application Master'; `flags` says which flag asks for which part."""

    who: str
    size: Size
    label: str
    flags: dict[str, str]

    def flag(self, part: str) -> str:
        return f" ({self.flags[part]})" if part in self.flags else ""


def check(ask: Ask, offer: Offer) -> None:
    """Raises AskError."""
    _check_names(ask, offer)
    _check_maximum(ask, offer.maximum)
    nodes = [node for node in offer.nodes if node.label == ask.label or ask.label == "*"]
    if not nodes:
        _without_nodes(ask, offer)
    if not any(_fits(ask.size, node.capability) for node in nodes):
        raise AskError(f"{ask.who} asks for {ask.size}, and no node {_of_label(ask.label)}has that: {_best(ask, nodes)}")


def _check_names(ask: Ask, offer: Offer) -> None:
    known = offer.names | {MEMORY, VCORES}
    for name, number in ask.size.others.items():
        if number and name not in known:
            near = difflib.get_close_matches(name, known - {MEMORY, VCORES}, n=1)
            have = f"did you mean {near[0]!r}?" if near else f"it knows {', '.join(sorted(known))}"
            raise AskError(f"{ask.who} asks for {number} {name}{ask.flag(name)}, and the cluster has no resource of that name; {have}")


def _check_maximum(ask: Ask, maximum: Size) -> None:
    most = maximum.parts()
    for part, number in ask.size.parts().items():
        if number > most.get(part, 0):
            raise AskError(
                f"{ask.who} asks for {_amount(part, number)}{ask.flag(part)}, and the cluster allows a container at most "
                f"{_amount(part, most.get(part, 0))}: ask for less, or have yarn.scheduler.maximum-allocation raised"
            )


def _without_nodes(ask: Ask, offer: Offer) -> None:
    if not offer.nodes:
        raise AskError("no node of the cluster takes containers now: are its NodeManagers up?")
    labels = sorted({node.label for node in offer.nodes if node.label})
    have = f"there are nodes with the labels {', '.join(labels)}" if labels else "no node has a label"
    raise AskError(
        f"{ask.who} asks for a node with the label {ask.label!r}{ask.flag('label')}, and there is none: {have}"
        if ask.label
        else f"{ask.who} asks for a node without a label, and every node has one: {have}"
    )


def _best(ask: Ask, nodes: Iterable[Node]) -> str:
    """The node that comes nearest, and what it lacks."""

    def share(node: Node) -> float:
        have = node.capability.parts()
        return min((have.get(part, 0) / number for part, number in ask.size.parts().items() if number), default=1.0)

    best = max(nodes, key=share)
    have = best.capability.parts()
    lacking = [part for part, number in ask.size.parts().items() if have.get(part, 0) < number]
    flags = ", ".join(sorted({ask.flags[part] for part in lacking if part in ask.flags}))
    return f"the best offer is {best.name} with {best.capability}" + (f"; lower {flags}" if flags else "")


def _fits(wanted: Size, capability: Size) -> bool:
    have = capability.parts()
    return all(have.get(part, 0) >= number for part, number in wanted.parts().items())


def _of_label(label: str) -> str:
    return f"with the label {label!r} " if label and label != "*" else ""


def _amount(part: str, number: int) -> str:
    return f"{number} MiB" if part == MEMORY else f"{number} {part}"
