"""An application without an AM container: the process that submits it is its Application Master. For tests and development.

YARN starts nothing for it and hands the attempt's proof to whoever submitted it. Where containers are kept over attempts, an
unmanaged Application Master may register again, as a second attempt would, and is told what runs.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from tarn_am.cluster.yarn import convert
from tarn_am.hadoop.credentials import token_of
from tarn_am.hadoop.ipc.client import HadoopClient
from tarn_am.hadoop.pb import yarn_pb2, yarn_services_pb2
from tarn_am.hadoop.protocols import APPLICATION_CLIENT
from tarn_am.ports import ClusterError
from tarn_common.credentials import Token
from tarn_common.ids import ApplicationId, make_application_id

_POLL_S = 0.05
_OVER = frozenset({yarn_pb2.FINISHED, yarn_pb2.FAILED, yarn_pb2.KILLED})


@dataclass(frozen=True)
class Unmanaged:
    """One submitted application, waiting for its Application Master."""

    application_id: ApplicationId
    attempt_id: int
    token: Token


async def submit(client: HadoopClient, name: str, *, queue: str = "default", deadline_s: float = 60.0) -> Unmanaged:
    """Submits and waits for the proof; raises ClusterError when the application ended or the deadline passed first."""
    new = await client.call(
        APPLICATION_CLIENT,
        "getNewApplication",
        yarn_services_pb2.GetNewApplicationRequestProto(),
        yarn_services_pb2.GetNewApplicationResponseProto,
    )
    context = yarn_pb2.ApplicationSubmissionContextProto(
        application_id=new.application_id,
        application_name=name,
        queue=queue,
        unmanaged_am=True,
        keep_containers_across_application_attempts=True,
        resource=yarn_pb2.ResourceProto(memory=64, virtual_cores=1),
        am_container_spec=yarn_pb2.ContainerLaunchContextProto(),
    )
    await client.call(
        APPLICATION_CLIENT,
        "submitApplication",
        yarn_services_pb2.SubmitApplicationRequestProto(application_submission_context=context),
        yarn_services_pb2.SubmitApplicationResponseProto,
    )
    application_id = make_application_id(new.application_id.cluster_timestamp, new.application_id.id)
    end = asyncio.get_running_loop().time() + deadline_s
    while True:
        report = await look(client, application_id)
        if report.HasField("am_rm_token"):
            return Unmanaged(application_id, report.currentApplicationAttemptId.attemptId, token_of(report.am_rm_token))
        if report.yarn_application_state in _OVER:
            raise ClusterError(f"{application_id} ended before it began: {report.diagnostics}", retry=False)
        if asyncio.get_running_loop().time() > end:
            raise ClusterError(f"{application_id} was not accepted within {deadline_s:g} s: {report.diagnostics}")
        await asyncio.sleep(_POLL_S)


async def look(client: HadoopClient, application_id: ApplicationId) -> yarn_pb2.ApplicationReportProto:
    """The ResourceManager's report."""
    request = yarn_services_pb2.GetApplicationReportRequestProto(application_id=convert.application(application_id))
    answer = await client.call(APPLICATION_CLIENT, "getApplicationReport", request, yarn_services_pb2.GetApplicationReportResponseProto)
    return answer.application_report


async def kill(client: HadoopClient, application_id: ApplicationId) -> None:
    """Asks until the ResourceManager says that it is over."""
    request = yarn_services_pb2.KillApplicationRequestProto(application_id=convert.application(application_id))
    while True:
        answer = await client.call(APPLICATION_CLIENT, "forceKillApplication", request, yarn_services_pb2.KillApplicationResponseProto)
        if answer.is_kill_completed:
            return
        await asyncio.sleep(_POLL_S)
