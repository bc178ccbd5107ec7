"""What the ResourceManager's answers mean for the application's containers: the books, the asks and the nodes, kept as one. Pure.

Messages in, `Outcome` out: the events that the fleet must hear, the containers to give back, and those that are no more.
`now` is monotonic time, `wall` seconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from tarn_am.cluster.yarn import convert
from tarn_am.cluster.yarn.books import Books, Held, Stage
from tarn_am.cluster.yarn.nodes import NodePolicy, Nodes
from tarn_am.cluster.yarn.offer import Node
from tarn_am.cluster.yarn.placement import Placement, Wish
from tarn_am.cluster.yarn.why import PATIENCE_S, Seen, why
from tarn_am.core import diagnosis
from tarn_am.hadoop.pb import yarn_pb2, yarn_services_pb2
from tarn_am.ports import Allocated, Appeared, AskRefused, AskWaits, ClusterEvent, Completed, Leaving, Running
from tarn_common.ids import ContainerId

PREEMPTED_S = 10.0
"""YARN takes a container that it claims after 15 s by default; so much is told as the time that is left."""


@dataclass
class Outcome:
    """`back`: containers to give back, each with the reason. `gone`: containers that YARN has no more. `soon`: more is to come."""

    events: list[ClusterEvent] = field(default_factory=list)
    back: list[tuple[ContainerId, str]] = field(default_factory=list)
    gone: list[ContainerId] = field(default_factory=list)
    soon: bool = False


class Ledger:
    """One attempt's. `young_s`: a container that fails sooner speaks against its node."""

    def __init__(self, wish: Wish, first_key: int, policy: NodePolicy, young_s: float) -> None:
        self.placement = Placement(wish, first_key)
        self.books = Books()
        self.nodes = Nodes(policy)
        self.inventory: tuple[Node, ...] | None = None
        """The nodes as they were seen a moment ago; None when they were not."""
        self._young_s = young_s
        self._node_count = 0
        self._told: dict[str, str] = {}

    @property
    def known_nodes(self) -> int:
        """How many the cluster has; 0 when that is not known."""
        if self.placement.wish.label:
            return len(self.inventory) if self.inventory is not None else 0
        return self._node_count

    @property
    def waiting(self) -> dict[str, str]:
        """The asks without an answer, each with the reason once there is one to tell."""
        return {ask: self._told.get(ask, "") for ask in self.placement.waiting}

    # --- asks

    def ask(self, name: str, now: float) -> None:
        self.placement.ask(name, now)

    def cancel(self, name: str) -> None:
        self.placement.cancel(name)
        self._told.pop(name, None)

    def refused(self, asks: Iterable[str], reason: str) -> list[ClusterEvent]:
        for ask in asks:
            self._told.pop(ask, None)
        return [AskRefused(ask, reason, retry=True) for ask in asks]

    def forget(self, name: ContainerId) -> Held | None:
        """It is given back or over: nothing that YARN says of it changes anything."""
        held = self.books.remove(name)
        if held is not None:
            self.placement.freed(held.node.host)
        return held

    # --- what is there already

    def adopt(self, held: Held) -> None:
        self.books.put(held)
        self.placement.taken(held.node.host)

    def appeared(self, containers: Iterable[yarn_pb2.ContainerProto], wall: float) -> list[Running]:
        """Containers of earlier attempts, taken up; those that are known already are not named again."""
        found = []
        for container in containers:
            name = convert.container_name(container.id)
            if self.books.get(name) is None:
                since = convert.created_at(container) or wall
                self.adopt(Held(name, convert.address(container.nodeId), Stage.RUNNING, since))
                found.append(Running(name, container.nodeId.host, since))
        return found

    # --- an answer

    def heard(self, answer: yarn_services_pb2.AllocateResponseProto, now: float, wall: float) -> Outcome:
        out = Outcome()
        if answer.num_cluster_nodes > self._node_count:
            self.placement.node_came()
        self._node_count = answer.num_cluster_nodes
        for container in answer.allocated_containers:
            self._delivered(container, out, now, wall)
        out.events += [Appeared(running) for running in self.appeared(answer.containers_from_previous_attempts, wall)]
        self.placement.rejects(answer.rejected_scheduling_requests, now)
        for report in answer.updated_nodes:
            self._node_changed(report, out)
        for claimed in (*answer.preempt.strictContract.container, *answer.preempt.contract.container):
            if (name := convert.container_name(claimed.id)) and self.books.get(name) is not None:
                out.events.append(Leaving(name, "another queue claims its room", PREEMPTED_S))
        for status in answer.completed_container_statuses:
            self._completed(status, out, now, wall)
        self._forgive(now, wall)
        self.placement.avoid(self.nodes.avoided(now))
        return out

    def _delivered(self, container: yarn_pb2.ContainerProto, out: Outcome, now: float, wall: float) -> None:
        name, node = convert.container_name(container.id), convert.address(container.nodeId)
        if self.books.get(name) is not None:
            return
        out.soon = True
        verdict = self.placement.delivered(container, now)
        if verdict.ask:
            self.books.put(Held(name, node, Stage.ALLOCATED, wall, container.container_token))
            self._told.pop(verdict.ask, None)
            out.events.append(Allocated(verdict.ask, name, node.host))
        else:
            out.back.append((name, verdict.back))
        if verdict.refused:
            out.events += self.refused([verdict.refused], f"the cluster gave a container on {node.host}, but {verdict.back}")

    def _completed(self, status: yarn_pb2.ContainerStatusProto, out: Outcome, now: float, wall: float) -> None:
        name = convert.container_name(status.container_id)
        out.gone.append(name)
        held = self.forget(name)
        if held is None:
            return
        out.soon = True
        diagnostics = convert.readable(status.diagnostics)
        unwanted = held.launched and held.stage is not Stage.STOPPING
        if unwanted and wall - held.since < self._young_s and diagnosis.blames_node(status.exit_status, diagnostics):
            self.failed_on(held.node.host, diagnosis.sentence(status.exit_status, diagnostics, ""), now)
        out.events.append(Completed(name, status.exit_status, diagnostics))

    def _node_changed(self, report: yarn_pb2.NodeReportProto, out: Outcome) -> None:
        host = report.nodeId.host
        if report.node_update_type == yarn_pb2.NODE_DECOMMISSIONING:
            within_s = float(report.decommissioning_timeout) or None
            out.events += [Leaving(held.name, f"{host} is being decommissioned", within_s) for held in self.books.on(host)]
        elif report.node_update_type == yarn_pb2.NODE_USABLE:
            self.placement.node_came()
            out.soon = True

    # --- nodes that fail

    def failed_on(self, node: str, reason: str, now: float) -> bool:
        """Whether the node is avoided from now on because of it."""
        before = self.nodes.avoided(now)
        self.nodes = self.nodes.failed(node, reason, now, self.known_nodes)
        self.placement.avoid(self.nodes.avoided(now))
        return node in self.nodes.avoided(now) - before

    def lift(self, node: str, now: float) -> bool:
        known = node in self.nodes.records
        self.nodes = self.nodes.lifted(node)
        self.placement.avoid(self.nodes.avoided(now))
        return known

    def _forgive(self, now: float, wall: float) -> None:
        """A container that lives long says that its node is well."""
        if not self.nodes.records:
            return
        avoided = self.nodes.avoided(now)
        for held in self.books:
            if held.stage is Stage.RUNNING and held.node.host not in avoided and wall - held.since > self._young_s:
                self.nodes = self.nodes.served(held.node.host)

    # --- why asks wait

    def reasons(self, now: float, trouble: str, silent_s: float) -> list[ClusterEvent]:
        """The reasons that changed, of the asks that have waited long enough to need one."""
        waiting = [ask for ask, since in self.placement.waiting.items() if now - since >= PATIENCE_S]
        sentence = why(self._seen(now, trouble, silent_s)) if waiting else ""
        changed = [ask for ask in waiting if self._told.get(ask) != sentence]
        self._told.update(dict.fromkeys(changed, sentence))
        return [AskWaits(ask, sentence) for ask in changed]

    def _seen(self, now: float, trouble: str, silent_s: float) -> Seen:
        wish, avoided = self.placement.wish, self.nodes.avoided(now)
        taken = self.placement.full | avoided
        room = None if self.inventory is None else sum(n.host not in taken and not n.free.lacks(wish.size) for n in self.inventory)
        return Seen(
            size=wish.size,
            per_node=wish.per_node,
            nodes=self.known_nodes,
            full=len(self.placement.full),
            avoided=tuple(sorted(avoided)),
            room=room,
            trouble=trouble,
            # By tens, so that the sentence does not change with each second.
            silent_s=silent_s // 10 * 10,
            label=wish.label,
        )
