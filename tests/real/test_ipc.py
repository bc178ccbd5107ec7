"""The Hadoop client on real daemons: a NameNode, a ResourceManager, a NodeManager."""

from __future__ import annotations

import asyncio
import getpass
from collections.abc import AsyncIterator

import pytest

from tarn_am.hadoop import credentials
from tarn_am.hadoop.conf import NAMENODE_PRINCIPAL, RM_PRINCIPAL, RmService, login, namenodes, resource_managers, token_service
from tarn_am.hadoop.credentials import token_of
from tarn_am.hadoop.delegation import TokenIssuer, facts
from tarn_am.hadoop.errors import AuthenticationError, CallTimeout, NotHadoop, RemoteError
from tarn_am.hadoop.ipc.client import HadoopClient, Patience
from tarn_am.hadoop.ipc.digest import CIPHERS
from tarn_am.hadoop.ipc.protection import Protection
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.pb import hdfs_pb2, yarn_pb2, yarn_services_pb2
from tarn_am.hadoop.protocols import (
    APPLICATION_CLIENT,
    APPLICATION_MASTER,
    CLIENT_NAMENODE,
    CONTAINER_MANAGEMENT,
    RM_ADMINISTRATION,
    RpcProtocol,
)
from tarn_common.credentials import Token
from tarn_common.endpoint import HostPort, parse_host_port
from tarn_common.hadoop_conf import read
from tests.rigs.hadoop import Hdfs
from tests.rigs.wait import eventually
from tests.rigs.yarn import Yarn

pytestmark = pytest.mark.real
ME = getpass.getuser()
SOON = Patience(give_up_s=60.0)
PROTECTED = [(Protection.AUTHENTICATION, "rc4"), (Protection.INTEGRITY, "rc4"), *((Protection.PRIVACY, cipher) for cipher in CIPHERS)]


@pytest.fixture
async def namenode(hdfs: Hdfs) -> AsyncIterator[HadoopClient]:
    async with HadoopClient([parse_host_port(hdfs.rpc)], Login(ME), patience=SOON) as client:
        yield client


@pytest.fixture
async def rm(yarn: Yarn) -> AsyncIterator[HadoopClient]:
    async with HadoopClient([yarn.client], Login(ME), patience=SOON) as client:
        yield client


def by_token(address: HostPort, token: Token, protection: Protection = Protection.PRIVACY, cipher: str = "rc4") -> HadoopClient:
    return HadoopClient([address], Login(ME, token=token, allowed=(protection,), ciphers=(cipher,)), patience=SOON)


async def mkdirs(client: HadoopClient, path: str) -> bool:
    request = hdfs_pb2.MkdirsRequestProto(src=path, masked=hdfs_pb2.FsPermissionProto(perm=0o700), createParent=True)
    return (await client.call(CLIENT_NAMENODE, "mkdirs", request, hdfs_pb2.MkdirsResponseProto)).result


async def info(client: HadoopClient, path: str) -> hdfs_pb2.GetFileInfoResponseProto:
    return await client.call(CLIENT_NAMENODE, "getFileInfo", hdfs_pb2.GetFileInfoRequestProto(src=path), hdfs_pb2.GetFileInfoResponseProto)


async def active_nodes(client: HadoopClient) -> int:
    answer = await client.call(
        APPLICATION_CLIENT,
        "getClusterMetrics",
        yarn_services_pb2.GetClusterMetricsRequestProto(),
        yarn_services_pb2.GetClusterMetricsResponseProto,
    )
    return answer.cluster_metrics.num_active_nms


class TestNameNode:
    async def test_a_directory_is_made_seen_closed_to_others_and_deleted(self, namenode: HadoopClient) -> None:
        assert await mkdirs(namenode, "/ipc/a/b")
        status = (await info(namenode, "/ipc/a/b")).fs
        assert (status.fileType, status.owner, status.permission.perm) == (hdfs_pb2.HdfsFileStatusProto.IS_DIR, ME, 0o700)
        open_to_all = hdfs_pb2.SetPermissionRequestProto(src="/ipc/a/b", permission=hdfs_pb2.FsPermissionProto(perm=0o755))
        await namenode.call(CLIENT_NAMENODE, "setPermission", open_to_all, hdfs_pb2.SetPermissionResponseProto)
        assert (await info(namenode, "/ipc/a/b")).fs.permission.perm == 0o755
        away = hdfs_pb2.DeleteRequestProto(src="/ipc/a", recursive=True)
        assert (await namenode.call(CLIENT_NAMENODE, "delete", away, hdfs_pb2.DeleteResponseProto)).result
        assert not (await info(namenode, "/ipc/a/b")).HasField("fs")

    async def test_a_files_length_and_time_are_what_a_local_resource_needs(self, hdfs: Hdfs, namenode: HadoopClient) -> None:
        hdfs.put("/ipc/file", b"twelve bytes")
        status = (await info(namenode, "/ipc/file")).fs
        assert status.length == 12
        assert status.modification_time == hdfs.client.get_file_info("/ipc/file").modification_time

    async def test_hundreds_of_calls_share_one_connection(self, namenode: HadoopClient) -> None:
        await asyncio.gather(*(mkdirs(namenode, f"/ipc/many/{number}") for number in range(300)))
        found = await asyncio.gather(*(info(namenode, f"/ipc/many/{number}") for number in range(0, 600, 2)))
        assert [answer.HasField("fs") for answer in found] == [True] * 150 + [False] * 150

    async def test_a_cancelled_call_leaves_the_others_their_answers(self, namenode: HadoopClient) -> None:
        calls = [asyncio.ensure_future(mkdirs(namenode, f"/ipc/cancelled/{number}")) for number in range(100)]
        await asyncio.sleep(0)
        for call in calls[::2]:
            call.cancel()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert found[1::2] == [True] * 50

    async def test_java_exceptions_keep_class_and_sentence_and_the_connection_lives(self, namenode: HadoopClient) -> None:
        with pytest.raises(RemoteError, match="Invalid path name") as bad:
            await mkdirs(namenode, "relative")
        assert (bad.value.kind, bad.value.fatal, "\tat " in str(bad.value)) == ("InvalidPathException", False, False)
        request = hdfs_pb2.GetFileInfoRequestProto(src="/")
        with pytest.raises(RemoteError, match="RpcNoSuchMethodException"):
            await namenode.call(CLIENT_NAMENODE, "noSuchMethod", request, hdfs_pb2.GetFileInfoResponseProto)
        with pytest.raises(RemoteError, match="RpcNoSuchProtocolException"):
            await namenode.call(APPLICATION_CLIENT, "getFileInfo", request, hdfs_pb2.GetFileInfoResponseProto)
        other = RpcProtocol(CLIENT_NAMENODE.name, 9, frozenset())
        with pytest.raises(RemoteError, match=r"VersionMismatch.*client = 9, server = 1"):
            await namenode.call(other, "getFileInfo", request, hdfs_pb2.GetFileInfoResponseProto)
        assert (await info(namenode, "/")).HasField("fs")

    async def test_a_user_without_rights_is_told_so(self, hdfs: Hdfs) -> None:
        async with HadoopClient([parse_host_port(hdfs.rpc)], Login("mallory"), patience=SOON) as client:
            with pytest.raises(RemoteError, match=r"AccessControlException: Permission denied: user=mallory"):
                await mkdirs(client, "/mallory")

    async def test_its_web_port_is_told_from_its_rpc_port(self, hdfs: Hdfs) -> None:
        for who in (Login(ME), Login(ME, token=Token("HDFS_DELEGATION_TOKEN", "", b"x", b"y"))):
            async with HadoopClient([parse_host_port(hdfs.http)], who, patience=SOON) as client:
                with pytest.raises(NotHadoop, match="answers HTTP"):
                    await info(client, "/")

    async def test_the_configuration_leads_to_it(self, hdfs: Hdfs) -> None:
        conf = read(hdfs.conf, {})
        authority = conf.default_fs.removeprefix("hdfs://")
        async with HadoopClient(namenodes(conf, authority), login(conf, ME, NAMENODE_PRINCIPAL), patience=SOON) as client:
            assert (await info(client, "/")).HasField("fs")


class TestHdfsTokens:
    async def test_one_is_fetched_used_renewed_and_cancelled(self, hdfs: Hdfs, namenode: HadoopClient) -> None:
        address = parse_host_port(hdfs.rpc)
        issuer = TokenIssuer(namenode, CLIENT_NAMENODE, await token_service(read(hdfs.conf, {}), [address]))
        token = await issuer.fetch(ME)
        assert (token.kind, token.service) == (credentials.HDFS_DELEGATION, hdfs.rpc)
        assert (facts(token).owner, facts(token).renewer) == (ME, ME)
        async with HadoopClient([address], Login("somebody else", token=token), patience=SOON) as client:
            assert await mkdirs(client, "/ipc/by-token")
            assert (await info(client, "/ipc/by-token")).fs.owner == ME
        assert facts(token).issued_at < await issuer.renew(token) <= facts(token).ends_at
        await issuer.cancel(token)
        async with HadoopClient([address], Login(ME, token=token), patience=SOON) as client:
            with pytest.raises(RemoteError) as gone:
                await info(client, "/")
        assert (gone.value.kind, gone.value.unauthorized) == ("InvalidToken", True)


class TestResourceManager:
    @pytest.mark.parametrize(("protection", "cipher"), PROTECTED, ids=lambda value: getattr(value, "value", value))
    async def test_every_protection_and_cipher_carries_calls(
        self, yarn: Yarn, rm: HadoopClient, protection: Protection, cipher: str
    ) -> None:
        token = await TokenIssuer(rm, APPLICATION_CLIENT, str(yarn.client)).fetch(ME)
        async with by_token(yarn.client, token, protection, cipher) as client:
            assert await asyncio.gather(*(active_nodes(client) for _ in range(50))) == [1] * 50
            # Larger than the peer's buffer of 64 KiB, so that it travels in pieces.
            request = yarn_services_pb2.GetApplicationsRequestProto(name="x" * 300_000)
            await client.call(APPLICATION_CLIENT, "getApplications", request, yarn_services_pb2.GetApplicationsResponseProto)

    async def test_its_tokens_are_renewed_cancelled_and_then_refused(self, yarn: Yarn, rm: HadoopClient) -> None:
        issuer = TokenIssuer(rm, APPLICATION_CLIENT, str(yarn.client))
        token = await issuer.fetch(ME)
        assert facts(token).issued_at < await issuer.renew(token) <= facts(token).ends_at
        forged = Token(token.kind, token.service, token.identifier, b"guess")
        async with by_token(yarn.client, forged) as client:
            with pytest.raises(RemoteError, match=r"SaslException: DIGEST-MD5: .*Mismatched response"):
                await active_nodes(client)
        await issuer.cancel(token)
        async with by_token(yarn.client, token) as client:
            with pytest.raises(RemoteError, match="InvalidToken"):
                await active_nodes(client)

    async def test_a_wrong_cipher_or_a_port_for_tokens_only_is_explained(self, yarn: Yarn, rm: HadoopClient) -> None:
        token = await TokenIssuer(rm, APPLICATION_CLIENT, str(yarn.client)).fetch(ME)
        async with by_token(yarn.client, token, Protection.PRIVACY, "aes") as client:
            with pytest.raises(AuthenticationError, match="no cipher of the server's"):
                await active_nodes(client)
        async with HadoopClient([yarn.scheduler], Login(ME), patience=SOON) as client:
            with pytest.raises(RemoteError, match=r"SIMPLE authentication is not enabled.*TOKEN"):
                await client.call(
                    APPLICATION_MASTER, "allocate", yarn_services_pb2.AllocateRequestProto(), yarn_services_pb2.AllocateResponseProto
                )

    async def test_a_standby_that_refuses_the_connection_costs_one_attempt(self, yarn: Yarn) -> None:
        """A ResourceManager in standby does not listen on its ports; a closed port is exactly that."""
        conf = read(yarn.conf, {})
        addresses = [HostPort("127.0.0.1", 1), *resource_managers(conf, RmService.CLIENT)]
        async with HadoopClient(addresses, login(conf, ME, RM_PRINCIPAL), patience=SOON) as client:
            assert await active_nodes(client) == 1
            assert client.address == yarn.client

    async def test_the_admin_port_takes_orders(self, yarn: Yarn) -> None:
        async with HadoopClient([yarn.admin], Login(ME), patience=SOON) as client:
            await client.call(
                RM_ADMINISTRATION,
                "refreshNodes",
                yarn_services_pb2.RefreshNodesRequestProto(decommissionType=yarn_services_pb2.NORMAL),
                yarn_services_pb2.RefreshNodesResponseProto,
            )

    async def test_one_that_hangs_is_told_in_time_and_asked_anew_when_it_wakes(self, yarn: Yarn, rm: HadoopClient) -> None:
        assert await active_nodes(rm) == 1
        once = RpcProtocol(APPLICATION_CLIENT.name, 1, frozenset())
        request, kind = yarn_services_pb2.GetClusterMetricsRequestProto(), yarn_services_pb2.GetClusterMetricsResponseProto
        await rm.call(once, "getClusterMetrics", request, kind)
        yarn.resourcemanager.freeze()
        try:
            with pytest.raises(CallTimeout, match=r"did not answer getClusterMetrics within 0\.5 s"):
                await rm.call(once, "getClusterMetrics", request, kind, timeout_s=0.5)
        finally:
            yarn.resourcemanager.thaw()
        await rm.call(once, "getClusterMetrics", request, kind)

    async def test_a_call_outlives_its_restart(self, yarn: Yarn, rm: HadoopClient) -> None:
        assert await active_nodes(rm) == 1
        yarn.resourcemanager.kill()
        yarn.resourcemanager.start()
        assert await active_nodes(rm) in (0, 1)
        await eventually(lambda: _has_node(rm), "the node is back")


async def _has_node(rm: HadoopClient) -> bool:
    return await active_nodes(rm) == 1


class TestApplicationMaster:
    async def test_a_life_by_tokens_alone_from_submission_to_the_end(self, yarn: Yarn, rm: HadoopClient) -> None:
        app = await _submit_unmanaged(rm)
        amrm = await _amrm_token(rm, app)
        async with by_token(yarn.scheduler, amrm, Protection.INTEGRITY) as am:
            master = _Master(am)
            register = yarn_services_pb2.RegisterApplicationMasterRequestProto(host="127.0.0.1", rpc_port=-1, tracking_url="")
            registered = await am.call(
                APPLICATION_MASTER, "registerApplicationMaster", register, yarn_services_pb2.RegisterApplicationMasterResponseProto
            )
            assert {kind.name for kind in registered.resource_types} == {"memory-mb", "vcores"}
            capability = yarn_pb2.ResourceProto(memory=64, virtual_cores=1)
            ask = yarn_pb2.ResourceRequestProto(
                priority=yarn_pb2.PriorityProto(priority=1),
                resource_name="*",
                capability=capability,
                num_containers=1,
                allocation_request_id=7,
            )
            await master.allocate(ask)
            await eventually(master.has_container, "the ask is served")
            container, nm_token = master.allocated[0], token_of(master.nm_tokens[0].token)
            assert (container.allocation_request_id, container.resource.memory) == (7, 64)
            node = HostPort(container.nodeId.host, container.nodeId.port)
            async with by_token(node, nm_token) as nm:
                await _run_and_stop(nm, container)
            await eventually(master.has_completed, "the end of the container is reported")
            assert master.completed[0].exit_status == -105
            finish = yarn_services_pb2.FinishApplicationMasterRequestProto(final_application_status=yarn_pb2.APP_SUCCEEDED)
            finished = await am.call(
                APPLICATION_MASTER, "finishApplicationMaster", finish, yarn_services_pb2.FinishApplicationMasterResponseProto
            )
            assert finished.isUnregistered

        async def succeeded() -> bool:
            return (await _report(rm, app)).final_application_status == yarn_pb2.APP_SUCCEEDED

        await eventually(succeeded, "the ResourceManager says SUCCEEDED")

    async def test_a_heartbeat_before_registration_is_answered_by_name(self, yarn: Yarn, rm: HadoopClient) -> None:
        app = await _submit_unmanaged(rm)
        async with by_token(yarn.scheduler, await _amrm_token(rm, app)) as am:
            with pytest.raises(RemoteError, match="ApplicationMasterNotRegisteredException"):
                await _Master(am).allocate()
        kill = yarn_services_pb2.KillApplicationRequestProto(application_id=app)
        await rm.call(APPLICATION_CLIENT, "forceKillApplication", kill, yarn_services_pb2.KillApplicationResponseProto)


class _Master:
    """Allocates, and keeps what it was told."""

    def __init__(self, am: HadoopClient) -> None:
        self._am, self._response_id = am, 0
        self.allocated: list[yarn_pb2.ContainerProto] = []
        self.nm_tokens: list[yarn_services_pb2.NMTokenProto] = []
        self.completed: list[yarn_pb2.ContainerStatusProto] = []

    async def allocate(self, *asks: yarn_pb2.ResourceRequestProto) -> None:
        request = yarn_services_pb2.AllocateRequestProto(response_id=self._response_id, progress=0.1, ask=asks)
        answer = await self._am.call(APPLICATION_MASTER, "allocate", request, yarn_services_pb2.AllocateResponseProto)
        self._response_id = answer.response_id
        self.allocated += answer.allocated_containers
        self.nm_tokens += answer.nm_tokens
        self.completed += answer.completed_container_statuses

    async def has_container(self) -> bool:
        await self.allocate()
        return bool(self.allocated)

    async def has_completed(self) -> bool:
        await self.allocate()
        return bool(self.completed)


async def _submit_unmanaged(rm: HadoopClient) -> yarn_pb2.ApplicationIdProto:
    new = await rm.call(
        APPLICATION_CLIENT,
        "getNewApplication",
        yarn_services_pb2.GetNewApplicationRequestProto(),
        yarn_services_pb2.GetNewApplicationResponseProto,
    )
    context = yarn_pb2.ApplicationSubmissionContextProto(
        application_id=new.application_id,
        application_name="ipc",
        unmanaged_am=True,
        resource=yarn_pb2.ResourceProto(memory=64, virtual_cores=1),
        am_container_spec=yarn_pb2.ContainerLaunchContextProto(),
    )
    request = yarn_services_pb2.SubmitApplicationRequestProto(application_submission_context=context)
    await rm.call(APPLICATION_CLIENT, "submitApplication", request, yarn_services_pb2.SubmitApplicationResponseProto)
    return new.application_id


async def _report(rm: HadoopClient, app: yarn_pb2.ApplicationIdProto) -> yarn_pb2.ApplicationReportProto:
    request = yarn_services_pb2.GetApplicationReportRequestProto(application_id=app)
    answer = await rm.call(APPLICATION_CLIENT, "getApplicationReport", request, yarn_services_pb2.GetApplicationReportResponseProto)
    return answer.application_report


async def _amrm_token(rm: HadoopClient, app: yarn_pb2.ApplicationIdProto) -> Token:
    """The ResourceManager hands it out while an unmanaged attempt waits for its Application Master."""

    async def launched() -> bool:
        return (await _report(rm, app)).HasField("am_rm_token")

    await eventually(launched, "the attempt waits for its Application Master")
    return token_of((await _report(rm, app)).am_rm_token)


async def _run_and_stop(nm: HadoopClient, container: yarn_pb2.ContainerProto) -> None:
    launch = yarn_pb2.ContainerLaunchContextProto(command=["exec sleep 600"])
    start = yarn_services_pb2.StartContainerRequestProto(container_launch_context=launch, container_token=container.container_token)
    started = await nm.call(
        CONTAINER_MANAGEMENT,
        "startContainers",
        yarn_services_pb2.StartContainersRequestProto(start_container_request=[start]),
        yarn_services_pb2.StartContainersResponseProto,
    )
    assert list(started.succeeded_requests) == [container.id]

    async def running() -> bool:
        request = yarn_services_pb2.GetContainerStatusesRequestProto(container_id=[container.id])
        found = await nm.call(CONTAINER_MANAGEMENT, "getContainerStatuses", request, yarn_services_pb2.GetContainerStatusesResponseProto)
        return found.status[0].container_sub_state == yarn_pb2.CSS_RUNNING

    await eventually(running, "the container runs")
    stopped = await nm.call(
        CONTAINER_MANAGEMENT,
        "stopContainers",
        yarn_services_pb2.StopContainersRequestProto(container_id=[container.id]),
        yarn_services_pb2.StopContainersResponseProto,
    )
    assert list(stopped.succeeded_requests) == [container.id]
