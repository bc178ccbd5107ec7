"""What the Hadoop configuration says to a client: where the daemons are, what they are called by Kerberos, how bytes are protected.

Reading and expanding the files is `tarn_common.hadoop_conf`'s work; every error here is its HadoopConfError, names the key and
tells what to write.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from enum import Enum

from tarn_am.hadoop.ipc.protection import STRONGEST_FIRST, Protection
from tarn_am.hadoop.ipc.sasl import Login
from tarn_common.credentials import Token
from tarn_common.endpoint import EndpointError, HostPort, parse_host_port
from tarn_common.hadoop_conf import HadoopConf, HadoopConfError

RM_PRINCIPAL = "yarn.resourcemanager.principal"
NAMENODE_PRINCIPAL = "dfs.namenode.kerberos.principal"
_PROTECTIONS = {p.name.lower(): p for p in Protection}
_ANY_HOST = ("", "0.0.0.0", "::", "[::]")


class RmService(Enum):
    """The ports of the ResourceManager: its key, and the default of yarn-default.xml."""

    CLIENT = ("yarn.resourcemanager.address", 8032)
    SCHEDULER = ("yarn.resourcemanager.scheduler.address", 8030)
    ADMIN = ("yarn.resourcemanager.admin.address", 8033)
    WEB = ("yarn.resourcemanager.webapp.address", 8088)

    @property
    def key(self) -> str:
        return self.value[0]

    @property
    def port(self) -> int:
        return self.value[1]


def resource_managers(conf: HadoopConf, service: RmService) -> tuple[HostPort, ...]:
    """One address, or with `yarn.resourcemanager.ha.enabled` one for each of its rm-ids, in their order."""
    if conf.get("yarn.resourcemanager.ha.enabled").lower() != "true":
        return (_resource_manager(conf, service, ""),)
    ids = conf.get_list("yarn.resourcemanager.ha.rm-ids")
    if not ids:
        raise HadoopConfError("yarn.resourcemanager.ha.enabled is true, but yarn.resourcemanager.ha.rm-ids names no ResourceManager")
    return tuple(_resource_manager(conf, service, f".{each}") for each in ids)


def _resource_manager(conf: HadoopConf, service: RmService, suffix: str) -> HostPort:
    host = conf.get(f"yarn.resourcemanager.hostname{suffix}")
    key = f"{service.key}{suffix}"
    address = _address(conf.get(key) or host, service.port, key)
    if address.host in _ANY_HOST and host in _ANY_HOST:
        raise HadoopConfError(
            f"where the ResourceManager is cannot be told: set yarn.resourcemanager.hostname{suffix} or {key} in yarn-site.xml"
        )
    return HostPort(host, address.port) if address.host in _ANY_HOST else address


def namenodes(conf: HadoopConf, authority: str) -> tuple[HostPort, ...]:
    """The RPC addresses behind the authority of an hdfs:// URL: one, or those of a nameservice."""
    return tuple(_address(node.rpc, 8020, f"the NameNode's address of {authority}") for node in conf.namenodes(authority))


def _address(text: str, port: int, what: str) -> HostPort:
    if text in _ANY_HOST:
        return HostPort(text, port)
    try:
        return parse_host_port(text if _has_port(text) else f"{text}:{port}")
    except EndpointError as error:
        raise HadoopConfError(f"{what}: {error}") from error


def _has_port(text: str) -> bool:
    return ":" in text.rpartition("]")[2]


def login(conf: HadoopConf, user: str, principal_key: str, token: Token | None = None) -> Login:
    """Who we are to the daemon whose Kerberos name stands under `principal_key`: by the token where there is one, else as the
    cluster is: by Kerberos, or SIMPLE. Raises HadoopConfError where the cluster is secure and the key is not set."""
    if not conf.secure:
        return Login(user, token=token, simple_too=True, allowed=protections(conf))
    principal = conf.get(f"{principal_key}.pattern") or conf.get(principal_key)
    if not principal and token is None:
        raise HadoopConfError(f"hadoop.security.authentication is kerberos, but {principal_key} is not set")
    return Login(user, token=token, principal=principal, allowed=protections(conf))


def protections(conf: HadoopConf) -> Sequence[Protection]:
    """`hadoop.rpc.protection` in its own order; where it is not set all are welcome, the strongest first."""
    names = [name.lower() for name in conf.get_list("hadoop.rpc.protection")]
    unknown = [name for name in names if name not in _PROTECTIONS]
    if unknown:
        raise HadoopConfError(f"hadoop.rpc.protection: {unknown[0]!r} is none of {', '.join(_PROTECTIONS)}")
    return tuple(_PROTECTIONS[name] for name in names) or STRONGEST_FIRST


async def token_service(conf: HadoopConf, addresses: Sequence[HostPort], nameservice: str = "") -> str:
    """By what Hadoop's own code looks a daemon's token up: `ha-hdfs:<nameservice>`, or every address as `ip:port`.

    With `hadoop.security.token.service.use_ip` false the host names stay. Raises HadoopConfError for a name without address.
    """
    if nameservice and conf.is_nameservice(nameservice):
        return f"ha-hdfs:{nameservice}"
    if conf.get("hadoop.security.token.service.use_ip", "true").lower() == "false":
        return ",".join(f"{address.host.lower()}:{address.port}" for address in addresses)
    return ",".join([f"{await _ip(address)}:{address.port}" for address in addresses])


async def _ip(address: HostPort) -> str:
    try:
        found = await asyncio.get_running_loop().getaddrinfo(address.host, address.port, family=socket.AF_INET, type=socket.SOCK_STREAM)
    except OSError as error:
        raise HadoopConfError(f"the host name {address.host} has no IPv4 address: {error}") from error
    return str(found[0][4][0])
