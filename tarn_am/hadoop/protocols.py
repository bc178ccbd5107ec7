"""The RPC protocols we speak, as data: Java name, version, and which of their calls may be sent twice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RpcProtocol:
    """`repeatable` names the calls whose second execution does no harm, so that a lost answer may be asked for again."""

    name: str
    version: int
    repeatable: frozenset[str]

    def may_repeat(self, method: str) -> bool:
        return method in self.repeatable


APPLICATION_CLIENT = RpcProtocol(
    "org.apache.hadoop.yarn.api.ApplicationClientProtocolPB",
    1,
    frozenset(
        {
            "forceKillApplication",
            "getApplicationAttempts",
            "getApplicationReport",
            "getApplications",
            "getClusterMetrics",
            "getClusterNodeLabels",
            "getClusterNodes",
            "getContainerReport",
            "getContainers",
            "getDelegationToken",
            "getNewApplication",
            "getQueueInfo",
            "getResourceTypeInfo",
            "renewDelegationToken",
            # The ResourceManager answers a second submission of an application it already has with success.
            "submitApplication",
        }
    ),
)
APPLICATION_MASTER = RpcProtocol(
    "org.apache.hadoop.yarn.api.ApplicationMasterProtocolPB",
    1,
    # An allocate with the same response id is answered with the answer that was lost; finish is asked until it says yes.
    frozenset({"allocate", "finishApplicationMaster"}),
)
CONTAINER_MANAGEMENT = RpcProtocol(
    "org.apache.hadoop.yarn.api.ContainerManagementProtocolPB",
    1,
    frozenset({"stopContainers", "getContainerStatuses"}),
)
CLIENT_NAMENODE = RpcProtocol(
    "org.apache.hadoop.hdfs.protocol.ClientProtocol",
    1,
    # delete stands here because the NameNode remembers answers by client id and call id, and a repeat keeps both.
    frozenset({"delete", "getDelegationToken", "getFileInfo", "getServerDefaults", "mkdirs", "renewDelegationToken", "setPermission"}),
)
RM_ADMINISTRATION = RpcProtocol("org.apache.hadoop.yarn.server.api.ResourceManagerAdministrationProtocolPB", 1, frozenset({"refreshNodes"}))
