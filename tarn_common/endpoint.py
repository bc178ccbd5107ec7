"""What stands in a znode: `host:port`, and where an agent finds its Application Master. Formats only, no I/O."""

from __future__ import annotations

import json
from dataclasses import dataclass

from tarn_common.ids import ApplicationId, ContainerId

DEFAULT_ZK_PATH = "/services/triton/instances"


class EndpointError(ValueError):
    """A text that is not `host:port`, or a rendezvous record that cannot be read."""


@dataclass(frozen=True, order=True)
class HostPort:
    """A host name or address and a TCP port (1-65535)."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_host_port(text: str) -> HostPort:
    """`host:port` or `[v6]:port`; raises EndpointError with the value and the form wanted."""
    host, colon, port = text.strip().rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if (
        not colon
        or not host
        or not port.isascii()
        or not port.isdigit()
        or not 0 < int(port) < 65536
        or any(c.isspace() or c in "/@" for c in host)
    ):
        raise EndpointError(f"{text!r} is not host:port, such as node7.example.com:8000")
    return HostPort(host, int(port))


@dataclass(frozen=True)
class Endpoint:
    """Where one instance serves. Ports are 0 until they are chosen."""

    host: str
    http_port: int
    grpc_port: int
    metrics_port: int

    @property
    def http(self) -> HostPort:
        return HostPort(self.host, self.http_port)


@dataclass(frozen=True)
class Rendezvous:
    """Where the Application Master of an application is: what its znode and its rendezvous file hold.

    `incarnation` tells one start of the AM from the next; `http` is the base URL of its HTTP API.
    """

    agents: HostPort
    http: str
    incarnation: str

    def encode(self) -> bytes:
        return json.dumps({"agents": str(self.agents), "http": self.http, "incarnation": self.incarnation}, sort_keys=True).encode()


def decode_rendezvous(data: bytes) -> Rendezvous:
    """Reads `Rendezvous.encode`; unknown keys are ignored. Raises EndpointError on anything else."""
    try:
        record = json.loads(data)
        return Rendezvous(parse_host_port(record["agents"]), str(record["http"]), str(record["incarnation"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise EndpointError(f"not a rendezvous record: {data[:200]!r}") from error


@dataclass(frozen=True)
class Ensemble:
    """ZooKeeper's servers, and the path (empty, or `/...` without a slash at its end) under which everything of ours lies."""

    servers: tuple[HostPort, ...]
    chroot: str = ""

    @property
    def hosts(self) -> str:
        return ",".join(str(server) for server in self.servers)


def parse_ensemble(text: str) -> Ensemble:
    """`host:port,host:port/chroot`; the port may be left out (2181). Raises EndpointError with the value and the form wanted."""
    hosts, slash, chroot = text.strip().partition("/")
    path = slash + chroot.rstrip("/")
    parts = [part.strip() for part in hosts.split(",") if part.strip()]
    if not parts or "//" in path or any(c.isspace() for c in path):
        raise EndpointError(f"{text!r} is not a ZooKeeper ensemble, such as zk1.example.com:2181,zk2.example.com:2181")
    servers = tuple(parse_host_port(part if ":" in part.rpartition("]")[2] else part + ":2181") for part in parts)
    return Ensemble(servers, path if len(path) > 1 else "")


def check_ensemble(text: str) -> None:
    """For settings: an empty text is no ensemble; anything else must parse."""
    if text:
        parse_ensemble(text)


def instance_path(zk_path: str, container: ContainerId) -> str:
    """The ephemeral znode of one instance."""
    return f"{zk_path.rstrip('/')}/{container}"


def am_path(zk_path: str, application: ApplicationId) -> str:
    """The ephemeral znode of an application's AM: beside the instances' directory, in `am/`."""
    parent = zk_path.rstrip("/").rpartition("/")[0]
    return f"{parent}/am/{application}"
