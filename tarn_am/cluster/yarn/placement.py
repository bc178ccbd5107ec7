"""Which requests stand at the ResourceManager, and what of its deliveries answers which ask. Pure.

One ask is one container under an allocation request id of its own, so that a delivery names its ask, nothing is counted by
differences, and both ways in which YARN counts requests come to the same. What is delivered is compared with what was asked;
what nobody waits for, or lies where there may be no more, is given back at once.

TAGGED: a SchedulingRequest with an anti-affinity constraint, where the ResourceManager takes them; all at once.
LISTED: ResourceRequests, and a blacklist of the nodes that are full. A node's heartbeat serves as many open requests as fit, so
the number that stands at a time doubles while each delivery is of use and falls back to one when it is not.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum

from tarn_am.cluster.yarn.convert import Size, resource, size
from tarn_am.hadoop.pb import yarn_pb2

WIDEST = 64
"""Most requests that stand at a time under LISTED."""
REPEAT_S = 2.0
"""A request that the ResourceManager rejected (there is no room now) is made anew after so long, or when a node comes."""


class Mode(Enum):
    UNKNOWN = "not probed yet"
    TAGGED = "scheduling requests with anti-affinity"
    LISTED = "resource requests with a blacklist"


@dataclass(frozen=True)
class Wish:
    """What each ask is for."""

    size: Size
    priority: int = 1
    per_node: int = 1
    tag: str = "nvidia"
    label: str = ""

    @property
    def needs_tags(self) -> bool:
        """YARN's scheduling requests know node labels only in a form of their own; resource requests say them plainly."""
        return self.per_node > 0 and not self.label


@dataclass
class _Ask:
    """`key` 0: nothing stands for it at the ResourceManager. `rejected_at` and `after`: no new request before."""

    name: str
    asked_at: float
    key: int = 0
    after: float = 0.0
    rejections: int = 0


@dataclass(frozen=True)
class Requests:
    """What goes into the next allocate."""

    plain: tuple[yarn_pb2.ResourceRequestProto, ...] = ()
    tagged: tuple[yarn_pb2.SchedulingRequestProto, ...] = ()
    add: tuple[str, ...] = ()
    remove: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.plain or self.tagged or self.add or self.remove)


@dataclass(frozen=True)
class Verdict:
    """What became of one delivery: `ask` it answers, or `back` why it is given back; `refused` the ask that it ends in vain."""

    ask: str = ""
    back: str = ""
    refused: str = ""


@dataclass
class Placement:
    """The book of asks. `first_key` must be larger than every key of an earlier process of the application."""

    wish: Wish
    first_key: int = 1
    mode: Mode = Mode.UNKNOWN
    occupied: Counter[str] = field(default_factory=Counter)
    _asks: dict[str, _Ask] = field(default_factory=dict)
    _keys: dict[int, str] = field(default_factory=dict)
    _withdrawn: list[int] = field(default_factory=list)
    _bad: frozenset[str] = frozenset()
    _listed: frozenset[str] = frozenset()
    _width: int = 1
    _issued: int = 0

    # --- what is wanted

    def ask(self, name: str, now: float) -> None:
        self._asks.setdefault(name, _Ask(name, now))

    def cancel(self, name: str) -> None:
        ask = self._asks.pop(name, None)
        if ask is not None:
            self._withdraw(ask)

    @property
    def waiting(self) -> Mapping[str, float]:
        """The asks without an answer, and since when."""
        return {ask.name: ask.asked_at for ask in self._asks.values()}

    @property
    def rejected(self) -> int:
        return sum(ask.rejections > 0 for ask in self._asks.values())

    @property
    def full(self) -> frozenset[str]:
        """The nodes that hold as many instances as they may."""
        limit = self.wish.per_node
        return frozenset(node for node, number in self.occupied.items() if limit and number >= limit)

    def avoid(self, bad: frozenset[str]) -> None:
        self._bad = bad

    # --- where instances are

    def taken(self, node: str) -> None:
        self.occupied[node] += 1

    def freed(self, node: str) -> None:
        self.occupied[node] -= 1
        if self.occupied[node] <= 0:
            del self.occupied[node]

    # --- the conversation

    def probed(self, takes_tags: bool) -> None:
        """The answer to `probe`; only when nothing stands: at the beginning, and after `forgotten`."""
        self.mode = Mode.TAGGED if takes_tags and self.wish.needs_tags else Mode.LISTED

    def forgotten(self) -> None:
        """The ResourceManager knows nothing of what stood: all of it is to be said again, once it was probed again."""
        self.mode, self._listed, self._width = Mode.UNKNOWN, frozenset(), 1
        self._withdrawn.clear()
        self._keys.clear()
        for ask in self._asks.values():
            ask.key, ask.after = 0, 0.0

    def node_came(self) -> None:
        """There may be room now."""
        for ask in self._asks.values():
            ask.after = 0.0

    def requests(self, now: float) -> Requests:
        """What must be said now; whoever takes it sends it. Nothing before the ResourceManager was probed."""
        if self.mode is Mode.UNKNOWN:
            return Requests()
        avoided = self._avoided()
        add, remove = sorted(avoided - self._listed), sorted(self._listed - avoided)
        self._listed = avoided
        withdrawn, self._withdrawn = self._withdrawn, []
        fresh = self._open(now)
        if self.mode is Mode.TAGGED:
            tagged = [self._tagged(key, 0) for key in withdrawn] + [self._tagged(key, 1) for key in fresh]
            return Requests(tagged=tuple(tagged), add=tuple(add), remove=tuple(remove))
        plain = [self._plain(key, 0) for key in withdrawn] + [self._plain(key, 1) for key in fresh]
        return Requests(plain=tuple(plain), add=tuple(add), remove=tuple(remove))

    def next_at(self) -> float | None:
        """When `requests` has something new to say by the clock alone; None: never."""
        return min((ask.after for ask in self._asks.values() if not ask.key and ask.after), default=None)

    def delivered(self, container: yarn_pb2.ContainerProto, now: float) -> Verdict:
        """`taken` is noted here when the delivery is kept."""
        node = container.nodeId.host
        name = self._keys.pop(container.allocation_request_id, None)
        ask = self._asks.get(name) if name is not None else None
        if ask is None or ask.key != container.allocation_request_id:
            return Verdict(back="nobody waits for it")
        short = size(container.resource).lacks(self.wish.size)
        if short:
            del self._asks[ask.name]
            return Verdict(back=f"it has {short}", refused=ask.name)
        if node in self.full or node in self._bad:
            self._width = 1
            ask.key, ask.after = 0, now + REPEAT_S if self.mode is Mode.TAGGED else 0.0
            return Verdict(back=f"{node} {'is avoided' if node in self._bad else 'has its instances already'}")
        self._width = min(WIDEST, self._width * 2)
        del self._asks[ask.name]
        self.taken(node)
        return Verdict(ask=ask.name)

    def rejects(self, requests: Sequence[yarn_pb2.RejectedSchedulingRequestProto], now: float) -> None:
        """The ResourceManager will not serve these any more: each is made anew, after a pause."""
        for rejected in requests:
            name = self._keys.pop(rejected.request.allocationRequestId, None)
            ask = self._asks.get(name) if name is not None else None
            if ask is not None and ask.key == rejected.request.allocationRequestId:
                ask.key, ask.after, ask.rejections = 0, now + REPEAT_S, ask.rejections + 1

    def unsaid(self, said: Requests, *, asks_only: bool = False) -> None:
        """What `requests` gave was not applied: it is to be said again."""
        for key in _keys_of(said):
            name = self._keys.pop(key, None)
            if name is not None and (ask := self._asks.get(name)) is not None and ask.key == key:
                ask.key = 0
            elif name is None:
                self._withdrawn.append(key)
        if not asks_only:
            self._listed = (self._listed - frozenset(said.add)) | frozenset(said.remove)

    def refuse(self, said: Requests) -> list[str]:
        """The ResourceManager refused these requests for what they ask: the asks end in vain, and are named."""
        names = [self._keys.pop(key) for key in _keys_of(said) if key in self._keys]
        return [ask.name for name in names if (ask := self._asks.pop(name, None)) is not None]

    # ---

    def _avoided(self) -> frozenset[str]:
        return self._bad | (self.full if self.mode is Mode.LISTED else frozenset())

    def _open(self, now: float) -> list[int]:
        """New keys for asks for which nothing stands, as many as may stand."""
        width = self._width if self.mode is Mode.LISTED and self.wish.per_node else len(self._asks)
        room = width - len(self._keys)
        fresh: list[int] = []
        for ask in self._asks.values():
            if room <= len(fresh):
                break
            if not ask.key and ask.after <= now:
                self._issued += 1
                ask.key, ask.after = self.first_key + self._issued, 0.0
                self._keys[ask.key] = ask.name
                fresh.append(ask.key)
        return fresh

    def _withdraw(self, ask: _Ask) -> None:
        if ask.key:
            self._keys.pop(ask.key, None)
            self._withdrawn.append(ask.key)
            ask.key = 0

    def _plain(self, key: int, number: int) -> yarn_pb2.ResourceRequestProto:
        return yarn_pb2.ResourceRequestProto(
            priority=yarn_pb2.PriorityProto(priority=self.wish.priority),
            resource_name="*",
            capability=resource(self.wish.size),
            num_containers=number,
            relax_locality=True,
            node_label_expression=self.wish.label or None,
            execution_type_request=yarn_pb2.ExecutionTypeRequestProto(),
            allocation_request_id=key,
        )

    def _tagged(self, key: int, number: int) -> yarn_pb2.SchedulingRequestProto:
        return yarn_pb2.SchedulingRequestProto(
            allocationRequestId=key,
            priority=yarn_pb2.PriorityProto(priority=self.wish.priority),
            executionType=yarn_pb2.ExecutionTypeRequestProto(execution_type=yarn_pb2.GUARANTEED, enforce_execution_type=False),
            allocationTags=[self.wish.tag],
            resourceSizing=yarn_pb2.ResourceSizingProto(numAllocations=number, resources=resource(self.wish.size)),
            placementConstraint=self._apart(),
        )

    def _apart(self) -> yarn_pb2.PlacementConstraintProto:
        """No node with `per_node` containers of the tag already: YARN counts those that are there, not the new one."""
        target = yarn_pb2.PlacementConstraintTargetProto(
            targetType=yarn_pb2.PlacementConstraintTargetProto.ALLOCATION_TAG, targetKey="self", targetValues=[self.wish.tag]
        )
        simple = yarn_pb2.SimplePlacementConstraintProto(
            scope="node", targetExpressions=[target], minCardinality=0, maxCardinality=self.wish.per_node - 1
        )
        return yarn_pb2.PlacementConstraintProto(simpleConstraint=simple)


def _keys_of(said: Requests) -> list[int]:
    return [each.allocation_request_id for each in said.plain] + [each.allocationRequestId for each in said.tagged]


def probe() -> yarn_pb2.SchedulingRequestProto:
    """A scheduling request for nothing: where they are not taken it is refused by an exception, and costs nothing where they are."""
    return yarn_pb2.SchedulingRequestProto(
        allocationRequestId=0,
        priority=yarn_pb2.PriorityProto(priority=0),
        executionType=yarn_pb2.ExecutionTypeRequestProto(execution_type=yarn_pb2.GUARANTEED, enforce_execution_type=False),
        resourceSizing=yarn_pb2.ResourceSizingProto(numAllocations=0, resources=yarn_pb2.ResourceProto(memory=1, virtual_cores=1)),
    )
