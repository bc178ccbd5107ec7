"""The cluster's nodes by the ResourceManager's client port: how large the largest is, and whether one has room now.

It only makes sentences better and refuses what no node could ever hold; nothing waits for it. An Application Master without a
proof for that port goes without.
"""

from __future__ import annotations

import structlog

from tarn_am.cluster.yarn.convert import size
from tarn_am.cluster.yarn.offer import Node
from tarn_am.hadoop.errors import HadoopError
from tarn_am.hadoop.ipc.client import HadoopClient
from tarn_am.hadoop.pb import yarn_pb2, yarn_services_pb2
from tarn_am.hadoop.protocols import APPLICATION_CLIENT

log = structlog.get_logger(__name__)


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
