"""The NodeManagers: starts and stops containers, each call with a deadline, never on the heartbeat's task.

A start whose answer was lost is cleared up by asking for the container's status: it is never taken for failed while it may run,
and never tried twice while it does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

import structlog

from tarn_am.cluster.yarn.convert import address, container, readable
from tarn_am.hadoop.credentials import token_of
from tarn_am.hadoop.errors import CallLost, CallTimeout, HadoopError, RemoteError
from tarn_am.hadoop.ipc.client import HadoopClient, Patience
from tarn_am.hadoop.ipc.connection import Limits
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.pb import security_pb2, yarn_pb2, yarn_services_pb2
from tarn_am.hadoop.protocols import CONTAINER_MANAGEMENT
from tarn_common.backoff import Backoff
from tarn_common.credentials import Token
from tarn_common.endpoint import HostPort
from tarn_common.ids import ContainerId

log = structlog.get_logger(__name__)

RETRY_S = 4.0
"""A NodeManager that refuses the connection may be restarting: it is tried for so long."""
_RELAUNCH = "Attempt to relaunch the same container"
_UNKNOWN = "is not handled by this NodeManager"


class NodeError(Exception):
    """A NodeManager could not be asked, or said no. `reached` tells whether it answered at all."""

    def __init__(self, text: str, *, reached: bool) -> None:
        super().__init__(text)
        self.reached = reached


class NodeManagers:
    """`login` says how to connect; the proof is the token that the ResourceManager gave for each node."""

    def __init__(self, login: Login, call_s: float) -> None:
        self._login, self._call_s = replace(login, token=None, principal="", simple_too=False), call_s
        self._tokens: dict[HostPort, Token] = {}
        self._clients: dict[HostPort, HadoopClient] = {}

    @property
    def tokens(self) -> Mapping[HostPort, Token]:
        return self._tokens

    def know(self, tokens: Iterable[yarn_services_pb2.NMTokenProto]) -> bool:
        """The newest token of a node wins; whether there was one."""
        found = {address(each.nodeId): token_of(each.token) for each in tokens}
        for node, token in found.items():
            self.remember(node, token)
        return bool(found)

    def remember(self, node: HostPort, token: Token) -> None:
        self._tokens[node] = token
        if node in self._clients:
            self._clients[node].use(replace(self._login, token=token))

    async def start(
        self, node: HostPort, name: ContainerId, token: security_pb2.TokenProto, context: yarn_pb2.ContainerLaunchContextProto
    ) -> None:
        """Returns when the NodeManager has taken the container; raises NodeError."""
        start = yarn_services_pb2.StartContainerRequestProto(container_launch_context=context, container_token=token)
        request = yarn_services_pb2.StartContainersRequestProto(start_container_request=[start])
        client = self._client(node)
        try:
            answer = await client.call(
                CONTAINER_MANAGEMENT,
                "startContainers",
                request,
                yarn_services_pb2.StartContainersResponseProto,
                timeout_s=self._call_s / 2,
            )
        except (CallLost, CallTimeout) as error:
            if await self.status(node, name) is None:
                raise NodeError(f"the container did not arrive: {error}", reached=False) from error
            log.info("launch_answer_was_lost", container_id=name, node=str(node))
            return
        except HadoopError as error:
            raise _node_error(error) from error
        for failed in answer.failed_requests:
            if _RELAUNCH not in failed.exception.message:
                raise NodeError(f"{node} refused the container: {_message(failed.exception)}", reached=True)

    async def stop(self, node: HostPort, name: ContainerId) -> bool:
        """TERM, and KILL soon after; whether the NodeManager knew the container. Raises NodeError."""
        request = yarn_services_pb2.StopContainersRequestProto(container_id=[container(name)])
        try:
            answer = await self._client(node).call(
                CONTAINER_MANAGEMENT, "stopContainers", request, yarn_services_pb2.StopContainersResponseProto, timeout_s=self._call_s
            )
        except HadoopError as error:
            raise _node_error(error) from error
        return self._known(node, answer.failed_requests)

    async def status(self, node: HostPort, name: ContainerId) -> yarn_pb2.ContainerStatusProto | None:
        """None when the NodeManager does not know the container. Raises NodeError."""
        request = yarn_services_pb2.GetContainerStatusesRequestProto(container_id=[container(name)])
        try:
            answer = await self._client(node).call(
                CONTAINER_MANAGEMENT,
                "getContainerStatuses",
                request,
                yarn_services_pb2.GetContainerStatusesResponseProto,
                timeout_s=self._call_s / 2,
            )
        except HadoopError as error:
            raise _node_error(error) from error
        return answer.status[0] if self._known(node, answer.failed_requests) and answer.status else None

    def _known(self, node: HostPort, failed: Iterable[yarn_services_pb2.ContainerExceptionMapProto]) -> bool:
        for each in failed:
            if _UNKNOWN in each.exception.message:
                return False
            raise NodeError(f"{node} refused: {_message(each.exception)}", reached=True)
        return True

    def _client(self, node: HostPort) -> HadoopClient:
        token = self._tokens.get(node)
        if token is None:
            raise NodeError(f"the ResourceManager gave no token for {node}", reached=False)
        if node not in self._clients:
            limits = Limits(open_s=self._call_s / 2, call_s=self._call_s)
            patience = Patience(give_up_s=min(RETRY_S, self._call_s / 4), backoff=Backoff(first_s=0.2, limit_s=1.0))
            self._clients[node] = HadoopClient([node], replace(self._login, token=token), limits, patience)
        return self._clients[node]

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
        self._clients.clear()


def _node_error(error: HadoopError) -> NodeError:
    return NodeError(str(error), reached=isinstance(error, RemoteError))


def _message(exception: yarn_pb2.SerializedExceptionProto) -> str:
    kind = exception.class_name.rpartition(".")[2]
    text = readable(exception.message.split("\n\tat ")[0].strip(), 1000)
    return f"{kind}: {text}" if kind else text or "no reason given"
