"""Where the daemons are and how they are proved, as the configuration says; and what an error means for the next attempt."""

from __future__ import annotations

import pytest

from tarn_am.hadoop import conf
from tarn_am.hadoop.conf import RmService
from tarn_am.hadoop.errors import (
    AuthenticationError,
    CallLost,
    CallTimeout,
    HadoopError,
    NotHadoop,
    ProtocolError,
    RemoteError,
    TooLarge,
    Unreachable,
)
from tarn_am.hadoop.ipc.protection import STRONGEST_FIRST, Protection
from tarn_am.hadoop.ipc.remedy import Remedy, remedy
from tarn_common.credentials import Token
from tarn_common.endpoint import HostPort
from tarn_common.hadoop_conf import HadoopConf, HadoopConfError

HA = {
    "yarn.resourcemanager.ha.enabled": "true",
    "yarn.resourcemanager.ha.rm-ids": "rm1, rm2",
    "yarn.resourcemanager.hostname.rm1": "one.example.com",
    "yarn.resourcemanager.address.rm2": "two.example.com:9032",
    "yarn.resourcemanager.scheduler.address.rm2": "two.example.com",
}


def hadoop(**properties: str) -> HadoopConf:
    return HadoopConf({name.replace("__", "-").replace("_", "."): value for name, value in properties.items()})


class TestResourceManagers:
    def test_a_host_name_is_enough(self) -> None:
        found = hadoop(yarn_resourcemanager_hostname="rm.example.com")
        assert conf.resource_managers(found, RmService.CLIENT) == (HostPort("rm.example.com", 8032),)
        assert conf.resource_managers(found, RmService.SCHEDULER) == (HostPort("rm.example.com", 8030),)

    def test_an_address_wins_and_one_for_every_interface_does_not(self) -> None:
        both = HadoopConf({"yarn.resourcemanager.hostname": "rm", "yarn.resourcemanager.address": "0.0.0.0:9000"})
        assert conf.resource_managers(both, RmService.CLIENT) == (HostPort("rm", 9000),)
        other = HadoopConf({"yarn.resourcemanager.address": "${yarn.resourcemanager.hostname}:1", "yarn.resourcemanager.hostname": "h"})
        assert conf.resource_managers(other, RmService.CLIENT) == (HostPort("h", 1),)

    def test_a_pair_has_its_addresses_in_order(self) -> None:
        found = HadoopConf(HA)
        assert conf.resource_managers(found, RmService.CLIENT) == (HostPort("one.example.com", 8032), HostPort("two.example.com", 9032))
        assert conf.resource_managers(found, RmService.SCHEDULER)[1] == HostPort("two.example.com", 8030)

    def test_what_is_missing_is_named(self) -> None:
        with pytest.raises(HadoopConfError, match=r"yarn\.resourcemanager\.hostname or"):
            conf.resource_managers(HadoopConf(), RmService.CLIENT)
        with pytest.raises(HadoopConfError, match=r"ha\.rm-ids"):
            conf.resource_managers(HadoopConf({"yarn.resourcemanager.ha.enabled": "true"}), RmService.CLIENT)
        with pytest.raises(HadoopConfError, match=r"yarn\.resourcemanager\.admin\.address\.rm2"):
            conf.resource_managers(HadoopConf(HA), RmService.ADMIN)
        with pytest.raises(HadoopConfError, match=r"yarn\.resourcemanager\.address: 'rm:port'"):
            conf.resource_managers(HadoopConf({"yarn.resourcemanager.address": "rm:port"}), RmService.CLIENT)


class TestNameNodes:
    def test_one_or_those_of_a_nameservice(self) -> None:
        found = HadoopConf(
            {
                "dfs.ha.namenodes.prod": "a,b",
                "dfs.namenode.rpc-address.prod.a": "nn1:8020",
                "dfs.namenode.rpc-address.prod.b": "nn2",
            }
        )
        assert conf.namenodes(found, "prod") == (HostPort("nn1", 8020), HostPort("nn2", 8020))
        assert conf.namenodes(found, "nn9:9000") == (HostPort("nn9", 9000),)
        assert conf.namenodes(found, "nn9") == (HostPort("nn9", 8020),)


class TestLogin:
    def test_an_open_cluster_takes_names_and_tokens(self) -> None:
        token = Token("RM_DELEGATION_TOKEN", "", b"", b"")
        assert not conf.login(HadoopConf(), "alice", conf.RM_PRINCIPAL).needs_sasl
        assert conf.login(HadoopConf(), "alice", conf.RM_PRINCIPAL, token).takes_simple

    def test_a_secure_one_never_falls_back_to_names(self) -> None:
        secure = HadoopConf({"hadoop.security.authentication": "kerberos", conf.RM_PRINCIPAL: "rm/_HOST@EXAMPLE.COM"})
        found = conf.login(secure, "alice", conf.RM_PRINCIPAL)
        assert (found.principal, found.takes_simple) == ("rm/_HOST@EXAMPLE.COM", False)
        with pytest.raises(HadoopConfError, match=r"dfs\.namenode\.kerberos\.principal is not set"):
            conf.login(secure, "alice", conf.NAMENODE_PRINCIPAL)
        assert not conf.login(secure, "alice", conf.NAMENODE_PRINCIPAL, Token("HDFS_DELEGATION_TOKEN", "", b"", b"")).takes_simple

    def test_protections_keep_the_order_of_the_configuration(self) -> None:
        assert conf.protections(HadoopConf()) == STRONGEST_FIRST
        both = HadoopConf({"hadoop.rpc.protection": "integrity,Privacy"})
        assert conf.protections(both) == (Protection.INTEGRITY, Protection.PRIVACY)
        with pytest.raises(HadoopConfError, match="'secret' is none of authentication, integrity, privacy"):
            conf.protections(HadoopConf({"hadoop.rpc.protection": "secret"}))


class TestTokenServices:
    async def test_addresses_by_default_names_where_told_and_nameservices(self) -> None:
        addresses = [HostPort("127.0.0.1", 8032), HostPort("127.0.0.2", 8032)]
        assert await conf.token_service(HadoopConf(), addresses) == "127.0.0.1:8032,127.0.0.2:8032"
        names = HadoopConf({"hadoop.security.token.service.use_ip": "false"})
        assert await conf.token_service(names, [HostPort("RM.example.com", 8032)]) == "rm.example.com:8032"
        pair = HadoopConf({"dfs.ha.namenodes.prod": "a,b"})
        assert await conf.token_service(pair, addresses, "prod") == "ha-hdfs:prod"

    async def test_a_name_that_nobody_knows_is_named(self) -> None:
        with pytest.raises(HadoopConfError, match=r"nowhere\.invalid"):
            await conf.token_service(HadoopConf(), [HostPort("nowhere.invalid", 1)])


class TestRemedies:
    @pytest.mark.parametrize(
        ("error", "unsafe", "safe"),
        [
            (Unreachable(""), Remedy.ELSEWHERE, Remedy.ELSEWHERE),
            (NotHadoop(""), Remedy.ELSEWHERE, Remedy.ELSEWHERE),
            (CallLost(""), Remedy.NONE, Remedy.ELSEWHERE),
            (CallTimeout(""), Remedy.NONE, Remedy.ELSEWHERE),
            (ProtocolError(""), Remedy.NONE, Remedy.ELSEWHERE),
            (TooLarge(""), Remedy.NONE, Remedy.NONE),
            (AuthenticationError(""), Remedy.NONE, Remedy.NONE),
            (RemoteError("org.apache.hadoop.ipc.StandbyException", ""), Remedy.ELSEWHERE, Remedy.ELSEWHERE),
            (RemoteError("org.apache.hadoop.ipc.RetriableException", ""), Remedy.HERE, Remedy.HERE),
            (RemoteError("org.apache.hadoop.yarn.exceptions.NMNotYetReadyException", ""), Remedy.HERE, Remedy.HERE),
            (RemoteError("org.apache.hadoop.security.token.SecretManager$InvalidToken", ""), Remedy.NONE, Remedy.NONE),
            (RemoteError("", ""), Remedy.NONE, Remedy.NONE),
        ],
        ids=lambda value: type(value).__name__ if isinstance(value, HadoopError) else "",
    )
    def test_only_what_was_certainly_not_carried_out_is_repeated_unasked(self, error: HadoopError, unsafe: Remedy, safe: Remedy) -> None:
        assert (remedy(error, may_repeat=False), remedy(error, may_repeat=True)) == (unsafe, safe)
