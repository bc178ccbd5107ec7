"""A ResourceManager in memory that keeps the real one's rules of conversation (facts of ApplicationMasterService): numbered answers,
the last one replayed, registration forgotten by a restart, asks absolute by key, deliveries in the answer after the ask.

Answers can be lost on the way, before or after the request was carried out; a test names the calls whose answers are.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TypeVar, cast

from google.protobuf.message import Message

from tarn_am.hadoop.errors import CallLost, RemoteError, Unreachable
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.pb import yarn_pb2, yarn_services_pb2
from tarn_am.hadoop.protocols import RpcProtocol

Response = TypeVar("Response", bound=Message)
_YARN = "org.apache.hadoop.yarn.exceptions."
APP = yarn_pb2.ApplicationIdProto(id=1, cluster_timestamp=1700000000000)
ATTEMPT = yarn_pb2.ApplicationAttemptIdProto(application_id=APP, attemptId=1)


class SimulatedRm:
    """Implements rm.Caller. `room` is how many containers each node holds; `takes_tags`: its placement handler allows them.

    `lost_before` and `lost_after` are numbers of calls (from 1) that never arrive, or whose answers do not.
    """

    def __init__(self, room: dict[str, int], *, takes_tags: bool = False) -> None:
        self.room, self.takes_tags = room, takes_tags
        self.lost_before: set[int] = set()
        self.lost_after: set[int] = set()
        self.calls = 0
        self.over = False
        self.serial = 0
        self.held: dict[int, str] = {}
        self.released: list[int] = []
        self.most_at_once: Counter[str] = Counter()
        self.logins: list[Login] = []
        self.urls: list[str] = []
        self._completed: list[yarn_pb2.ContainerStatusProto] = []
        self.restart()

    def restart(self) -> None:
        """What runs goes on; what was asked is forgotten."""
        self.registered = False
        self.last_id = 0
        self.last_answer: yarn_services_pb2.AllocateResponseProto | None = None
        self.asks: dict[int, tuple[yarn_pb2.ResourceProto, bool]] = {}
        self.blacklist: set[str] = set()

    def use(self, login: Login) -> None:
        self.logins.append(login)

    async def call(
        self, protocol: RpcProtocol, method: str, request: Message, response: type[Response], *, timeout_s: float | None = None
    ) -> Response:
        self.calls += 1
        number = self.calls
        await asyncio.sleep(0)
        if number in self.lost_before:
            raise Unreachable("the ResourceManager cannot be reached")
        answer = getattr(self, f"_{method}")(request)
        if number in self.lost_after:
            raise CallLost("the connection ended")
        return cast(Response, type(answer).FromString(answer.SerializeToString()))

    # --- the three calls

    def _registerApplicationMaster(  # noqa: N802 - named by YARN
        self, _request: yarn_services_pb2.RegisterApplicationMasterRequestProto
    ) -> yarn_services_pb2.RegisterApplicationMasterResponseProto:
        if self.registered:
            raise RemoteError(
                f"{_YARN}InvalidApplicationMasterRequestException", "Application Master is already registered : application_1"
            )
        self.registered, self.last_id, self.last_answer = True, 0, None
        return yarn_services_pb2.RegisterApplicationMasterResponseProto(queue="default")

    def _allocate(self, request: yarn_services_pb2.AllocateRequestProto) -> yarn_services_pb2.AllocateResponseProto:
        if self.over:
            raise RemoteError(f"{_YARN}ApplicationAttemptNotFoundException", "Application attempt appattempt_1 doesn't exist")
        if not self.registered:
            raise RemoteError(f"{_YARN}ApplicationMasterNotRegisteredException", "AM is not registered for known application attempt")
        if request.response_id + 1 == self.last_id and self.last_answer is not None:
            return self.last_answer
        if request.response_id != self.last_id:
            text = f"Invalid responseId in AllocateRequest from application attempt: a, expect responseId to be {self.last_id} but get {request.response_id}"
            raise RemoteError(f"{_YARN}InvalidApplicationMasterRequestException", text)
        if request.scheduling_requests and not self.takes_tags:
            raise RemoteError(f"{_YARN}YarnException", "Found non empty SchedulingRequest …cannot handle placement constraints. Rejecting")
        if request.tracking_url:
            self.urls.append(request.tracking_url)
        # What an allocate brings is from before it: its own asks are served by the next one at the earliest.
        answer = yarn_services_pb2.AllocateResponseProto(response_id=self.last_id + 1, num_cluster_nodes=len(self.room))
        answer.allocated_containers.extend(self._deliveries())
        answer.completed_container_statuses.extend(self._completed)
        self._completed = []
        self._take(request)
        self.last_id, self.last_answer = answer.response_id, answer
        return answer

    def _finishApplicationMaster(  # noqa: N802 - named by YARN
        self, _request: yarn_services_pb2.FinishApplicationMasterRequestProto
    ) -> yarn_services_pb2.FinishApplicationMasterResponseProto:
        if not self.registered:
            raise RemoteError(f"{_YARN}ApplicationMasterNotRegisteredException", "AM is not registered")
        return yarn_services_pb2.FinishApplicationMasterResponseProto(isUnregistered=True)

    # ---

    def _take(self, request: yarn_services_pb2.AllocateRequestProto) -> None:
        for ask in request.ask:
            self._want(ask.allocation_request_id, ask.num_containers, ask.capability, tagged=False)
        for each in request.scheduling_requests:
            self._want(each.allocationRequestId, each.resourceSizing.numAllocations, each.resourceSizing.resources, tagged=True)
        self.blacklist |= set(request.blacklist_request.blacklist_additions)
        self.blacklist -= set(request.blacklist_request.blacklist_removals)
        for container in request.release:
            if self.held.pop(container.id, None) is not None:
                self.released.append(container.id)
                self._over(container.id, -100, "Container released by application")

    def _want(self, key: int, number: int, size: yarn_pb2.ResourceProto, *, tagged: bool) -> None:
        self.asks.pop(key, None)
        if number:
            self.asks[key] = (size, tagged)

    def _deliveries(self) -> list[yarn_pb2.ContainerProto]:
        found = []
        for key, (size, tagged) in list(self.asks.items()):
            used = Counter(self.held.values())
            free = [n for n, room in self.room.items() if used[n] < room and n not in self.blacklist and not (tagged and used[n])]
            if not free:
                continue
            del self.asks[key]
            self.serial += 1
            self.held[self.serial] = free[0]
            self.most_at_once[free[0]] = max(self.most_at_once[free[0]], used[free[0]] + 1)
            found.append(delivery(self.serial, free[0], key, size))
        return found

    def end(self, serial: int, status: int, text: str = "") -> None:
        """A container ends by itself."""
        del self.held[serial]
        self._over(serial, status, text)

    def _over(self, serial: int, status: int, text: str) -> None:
        self._completed.append(yarn_pb2.ContainerStatusProto(container_id=container_id(serial), exit_status=status, diagnostics=text))


def container_id(serial: int) -> yarn_pb2.ContainerIdProto:
    return yarn_pb2.ContainerIdProto(app_id=APP, app_attempt_id=ATTEMPT, id=serial)


def delivery(serial: int, node: str, key: int, size: yarn_pb2.ResourceProto) -> yarn_pb2.ContainerProto:
    return yarn_pb2.ContainerProto(
        id=container_id(serial), nodeId=yarn_pb2.NodeIdProto(host=node, port=45454), resource=size, allocation_request_id=key
    )
