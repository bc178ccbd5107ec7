"""The calls of a submitting client to the ResourceManager, in TARN's own nouns."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import Message

from tarn_am.cluster.yarn.convert import Size, application, size
from tarn_am.hadoop.conf import RM_PRINCIPAL, RmService, login, resource_managers, token_service
from tarn_am.hadoop.delegation import TokenIssuer
from tarn_am.hadoop.errors import HadoopError, RemoteError
from tarn_am.hadoop.ipc.client import HadoopClient, Patience
from tarn_am.hadoop.pb import yarn_pb2
from tarn_am.hadoop.pb import yarn_services_pb2 as calls
from tarn_am.hadoop.protocols import APPLICATION_CLIENT
from tarn_am.submission.ask import Node, Offer
from tarn_am.submission.context import APPLICATION_TYPE
from tarn_am.submission.errors import SubmissionError, of_rm
from tarn_common.credentials import Token
from tarn_common.hadoop_conf import HadoopConf
from tarn_common.ids import ApplicationId, make_application_id

Response = TypeVar("Response", bound=Message)
_State = yarn_pb2.YarnApplicationStateProto
ENDED = frozenset({yarn_pb2.FINISHED, yarn_pb2.FAILED, yarn_pb2.KILLED})
_LIVING = [yarn_pb2.NEW, yarn_pb2.NEW_SAVING, yarn_pb2.SUBMITTED, yarn_pb2.ACCEPTED, yarn_pb2.RUNNING]


@dataclass(frozen=True)
class Report:
    """One application as the ResourceManager tells it. `url` is what its AM registered, '' before; `proxied` the way through the RM."""

    application_id: ApplicationId
    name: str
    user: str
    queue: str
    state: str
    final: str
    url: str
    proxied: str
    diagnostics: str
    attempt: int
    started_at: float

    @property
    def ended(self) -> bool:
        return self.state in ("FINISHED", "FAILED", "KILLED")

    @property
    def accepted(self) -> bool:
        return self.state in ("ACCEPTED", "RUNNING")


class ResourceManager:
    """Every call raises SubmissionError."""

    def __init__(self, conf: HadoopConf, user: str, patience_s: float) -> None:
        self._conf = conf
        self._addresses = resource_managers(conf, RmService.CLIENT)
        self._client = HadoopClient(self._addresses, login(conf, user, RM_PRINCIPAL), patience=Patience(give_up_s=patience_s))

    @property
    def renewer(self) -> str:
        """By what name the ResourceManager renews tokens."""
        return self._conf.get(RM_PRINCIPAL).partition("@")[0].partition("/")[0] or "yarn"

    async def new_application(self) -> tuple[ApplicationId, Size]:
        """A fresh id, and the largest container that is allowed."""
        answer = await self._call(
            "getNewApplication", calls.GetNewApplicationRequestProto(), calls.GetNewApplicationResponseProto, "for an application id"
        )
        return _name(answer.application_id), size(answer.maximumCapability)

    async def offer(self, maximum: Size) -> Offer:
        nodes, names = await asyncio.gather(
            self._call(
                "getClusterNodes",
                calls.GetClusterNodesRequestProto(nodeStates=[yarn_pb2.NS_RUNNING]),
                calls.GetClusterNodesResponseProto,
                "for its nodes",
            ),
            self._call(
                "getResourceTypeInfo",
                calls.GetAllResourceTypeInfoRequestProto(),
                calls.GetAllResourceTypeInfoResponseProto,
                "for its resources",
            ),
        )
        return Offer(
            maximum,
            frozenset(info.name for info in names.resource_type_info),
            [_node(report) for report in nodes.nodeReports],
        )

    async def check_queue(self, queue: str, label: str) -> None:
        """That the queue is there, takes applications, and may use the label."""
        request = calls.GetQueueInfoRequestProto(queueName=queue, includeApplications=False, includeChildQueues=True, recursive=False)
        try:
            answer = await self._client.call(APPLICATION_CLIENT, "getQueueInfo", request, calls.GetQueueInfoResponseProto)
        except RemoteError as error:
            if "queue" in error.message.lower():
                raise await self._no_queue(queue) from error
            raise of_rm(error, "to tell of the queue") from error
        except HadoopError as error:
            raise of_rm(error, "to ask for the queue") from error
        info = answer.queueInfo
        if not info.queueName:
            raise await self._no_queue(queue)
        if info.childQueues:
            names = ", ".join(sorted(child.queuePath or child.queueName for child in info.childQueues))
            raise SubmissionError(f"--queue={queue} is no leaf: applications go into one of {names}")
        if info.state != yarn_pb2.Q_RUNNING:
            raise SubmissionError(f"--queue={queue} is stopped and takes no applications: give another one")
        if label and "*" not in info.accessibleNodeLabels and label not in info.accessibleNodeLabels:
            have = ", ".join(sorted(info.accessibleNodeLabels)) or "none"
            raise SubmissionError(f"--queue={queue} has no access to the node label {label!r}; it has {have}")

    async def _no_queue(self, queue: str) -> SubmissionError:
        request = calls.GetQueueInfoRequestProto(queueName="root", includeApplications=False, includeChildQueues=True, recursive=True)
        try:
            root = (await self._client.call(APPLICATION_CLIENT, "getQueueInfo", request, calls.GetQueueInfoResponseProto)).queueInfo
            names = sorted(leaf.queuePath or leaf.queueName for leaf in _leaves(root))
        except HadoopError:
            names = []  # the first answer is what counts
        return SubmissionError(f"there is no queue {queue!r}" + (f": give --queue one of {', '.join(names[:20])}" if names else ""))

    async def submit(self, context: yarn_pb2.ApplicationSubmissionContextProto) -> None:
        request = calls.SubmitApplicationRequestProto(application_submission_context=context)
        await self._call("submitApplication", request, calls.SubmitApplicationResponseProto, "the submission")

    async def report(self, application_id: ApplicationId) -> Report:
        request = calls.GetApplicationReportRequestProto(application_id=application(application_id))
        try:
            answer = await self._client.call(APPLICATION_CLIENT, "getApplicationReport", request, calls.GetApplicationReportResponseProto)
        except RemoteError as error:
            if error.kind == "ApplicationNotFoundException":
                raise SubmissionError(
                    f"the ResourceManager does not know {application_id}: is it of this cluster, and not older than its memory?"
                ) from error
            raise of_rm(error, "to tell of the application") from error
        except HadoopError as error:
            raise of_rm(error, "to ask for the application") from error
        return _report(answer.application_report)

    async def applications(self, *, name: str = "", user: str = "", living: bool = True) -> list[Report]:
        """TARN's applications, the youngest first."""
        request = calls.GetApplicationsRequestProto(application_types=[APPLICATION_TYPE], users=[user] if user else [])
        if living:
            request.application_states.extend(_LIVING)
        answer = await self._call("getApplications", request, calls.GetApplicationsResponseProto, "for its applications")
        found = [_report(report) for report in answer.applications if not name or report.name == name]
        return sorted(found, key=lambda report: report.started_at, reverse=True)

    async def kill(self, application_id: ApplicationId, why: str) -> bool:
        """Whether it is over; else ask again."""
        request = calls.KillApplicationRequestProto(application_id=application(application_id), diagnostics=why)
        answer = await self._call("forceKillApplication", request, calls.KillApplicationResponseProto, "to end the application")
        return answer.is_kill_completed

    async def delegation_token(self) -> Token:
        issuer = TokenIssuer(self._client, APPLICATION_CLIENT, await token_service(self._conf, self._addresses))
        try:
            return await issuer.fetch(self.renewer)
        except HadoopError as error:
            raise of_rm(error, "a delegation token") from error

    async def close(self) -> None:
        await self._client.close()

    async def _call(self, method: str, request: Message, response: type[Response], what: str) -> Response:
        try:
            return await self._client.call(APPLICATION_CLIENT, method, request, response)
        except HadoopError as error:
            raise of_rm(error, what) from error


def _name(proto: yarn_pb2.ApplicationIdProto) -> ApplicationId:
    return make_application_id(proto.cluster_timestamp, proto.id)


def _node(report: yarn_pb2.NodeReportProto) -> Node:
    return Node(report.nodeId.host, size(report.capability), report.node_labels[0] if report.node_labels else "")


def _leaves(queue: yarn_pb2.QueueInfoProto) -> Iterable[yarn_pb2.QueueInfoProto]:
    if not queue.childQueues:
        return [queue]
    return [leaf for child in queue.childQueues for leaf in _leaves(child)]


def _report(report: yarn_pb2.ApplicationReportProto) -> Report:
    url = report.originalTrackingUrl if report.originalTrackingUrl != "N/A" else ""
    return Report(
        _name(report.applicationId),
        report.name,
        report.user,
        report.queue,
        _State.Name(report.yarn_application_state),
        yarn_pb2.FinalApplicationStatusProto.Name(report.final_application_status).removeprefix("APP_"),
        url,
        report.trackingUrl if report.trackingUrl != "N/A" else "",
        report.diagnostics if report.diagnostics != "N/A" else "",
        report.currentApplicationAttemptId.attemptId,
        report.startTime / 1000.0,
    )
