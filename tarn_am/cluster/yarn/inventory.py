"""The cluster's nodes by the ResourceManager's client port: how large the largest is, and whether one has room now.

It only makes sentences better and refuses what no node could ever hold; nothing waits for it. An Application Master without a
proof for that port goes without.
"""

from __future__ import annotations

from dataclasses import dataclass

import structlog

from tarn_am.cluster.yarn.convert import Size, largest, size
from tarn_am.hadoop.errors import HadoopError
from tarn_am.hadoop.ipc.client import HadoopClient
from tarn_am.hadoop.pb import yarn_pb2, yarn_services_pb2
from tarn_am.hadoop.protocols import APPLICATION_CLIENT

log = structlog.get_logger(__name__)


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
        return Size(left.pop("memory-mb"), left.pop("vcores"), left)


class Inventory:
    """`nodes` is what was seen last; None when it never was."""

    def __init__(self, client: HadoopClient | None, label: str) -> None:
        self._client, self._label = client, label
        self.nodes: tuple[Node, ...] | None = None

    async def look(self, timeout_s: float) -> None:
        """What cannot be seen stays as it was."""
        if self._client is None:
            return
        request = yarn_services_pb2.GetClusterNodesRequestProto(nodeStates=[yarn_pb2.NS_RUNNING])
        try:
            answer = await self._client.call(
                APPLICATION_CLIENT, "getClusterNodes", request, yarn_services_pb2.GetClusterNodesResponseProto, timeout_s=timeout_s
            )
        except HadoopError as error:
            log.debug("cluster_nodes_not_seen", reason=str(error))
            return
        self.nodes = tuple(
            Node(report.nodeId.host, size(report.capability), size(report.used))
            for report in answer.nodeReports
            if not self._label or self._label in report.node_labels
        )

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()


def why_never(wanted: Size, nodes: tuple[Node, ...] | None, maximum: Size | None) -> str:
    """Why no node can hold `wanted`, with the best that there is; '' when one can, or when that is not known.

    YARN itself does not say: it gives less than was asked, or reserves nodes for it for ever.
    """
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
