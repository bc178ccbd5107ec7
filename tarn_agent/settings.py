"""The agent's settings: from its environment alone, parsed once, frozen. Secrets come from the credentials file."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from enum import Enum
from typing import Any

from tarn_common.endpoint import DEFAULT_ZK_PATH, check_ensemble, parse_host_port
from tarn_common.ids import application_id, container_id
from tarn_common.repository import check_plain
from tarn_common.settings import setting
from tarn_common.zk_login import check_scheme


class ModelFailure(Enum):
    """What a model that fails to load means: STRICT, the instance FAILS; PARTIAL, the others serve."""

    STRICT = "strict"
    PARTIAL = "partial"


def _check_am(text: str) -> None:
    if text:
        parse_host_port(text)


def _unpacked(text: str) -> Any:
    """base64 of JSON, which passes through a launch script unharmed; an empty text is None. Raises ValueError."""
    return json.loads(base64.b64decode(text, validate=True)) if text else None


def _check_args(text: str) -> None:
    found = _unpacked(text) or []
    if not isinstance(found, list) or not all(isinstance(item, str) for item in found):
        raise ValueError("it must hold a JSON list of texts")


def _check_env(text: str) -> None:
    found = _unpacked(text) or {}
    if not isinstance(found, dict) or not all(isinstance(item, str) for item in found.values()):
        raise ValueError("it must hold a JSON object of texts")


@dataclass(frozen=True)
class AgentSettings:
    """Everything that an agent is told. YARN sets CONTAINER_ID, NM_HOST and HADOOP_TOKEN_FILE_LOCATION itself."""

    container_id: str = setting(doc="this container's id", env="CONTAINER_ID", check=container_id)
    application_id: str = setting(doc="the application's id", env="TARN_APPLICATION_ID", check=application_id)
    credentials: str = setting(doc="path of the Hadoop credentials file with the application's secret", env="HADOOP_TOKEN_FILE_LOCATION")
    log_dir: str = setting(doc="directory for the container's logs", env="TARN_LOG_DIR")
    run_dir: str = setting(doc="short directory for sockets and run files", env="TARN_RUN_DIR")
    data_dir: str = setting(doc="directory for the staged model repository", env="TARN_DATA_DIR", check=check_plain)
    model_repository: str = setting(doc="hdfs://, webhdfs://, file: or an absolute path", env="TARN_MODEL_REPOSITORY")
    keep_run_dir: bool = setting(
        True, doc="keep the run directory when the container ends; false where nobody else removes it", env="TARN_KEEP_RUN_DIR"
    )
    node: str = setting("localhost", doc="the node's name", env="NM_HOST")
    address: str = setting("", doc="host name or address to announce; empty: the node's name", env="TARN_ADDRESS")
    bind: str = setting("0.0.0.0", doc="IP address that Triton binds", env="TARN_BIND")
    am: str = setting("", doc="host:port of the AM's agent port, first guess", env="TARN_AM", check=_check_am)
    rendezvous: str = setting("", doc="path or URL of the AM's rendezvous file, where there is no ZooKeeper", env="TARN_RENDEZVOUS")
    zk_ensemble: str = setting("", doc="ZooKeeper hosts, host:port,…; empty: none", env="TARN_ZK_ENSEMBLE", check=check_ensemble)
    zk_path: str = setting(DEFAULT_ZK_PATH, doc="znode under which instances announce themselves", env="TARN_ZK_PATH")
    zk_session_s: float = setting(10.0, doc="ZooKeeper session time-out", env="TARN_ZK_SESSION_S", unit="s", low=1, high=300)
    zk_auth: str = setting(
        "", doc="digest or sasl (DIGEST-MD5), by the user:password in the credentials; empty: none", env="TARN_ZK_AUTH", check=check_scheme
    )
    models: tuple[str, ...] = setting((), doc="models to serve, by name; empty: all", env="TARN_MODELS")
    model_failure: ModelFailure = setting(ModelFailure.STRICT, doc="what a model that fails to load means", env="TARN_MODEL_FAILURE")
    http_port: int = setting(0, doc="Triton's HTTP port; 0: a free one", env="TARN_HTTP_PORT", low=0, high=65535)
    grpc_port: int = setting(0, doc="Triton's gRPC port; 0: a free one", env="TARN_GRPC_PORT", low=0, high=65535)
    metrics_port: int = setting(0, doc="Triton's metrics port; 0: a free one", env="TARN_METRICS_PORT", low=0, high=65535)
    triton_bin: str = setting("tritonserver", doc="the tritonserver program", env="TARN_TRITON_BIN")
    triton_backends: str = setting(
        "", doc="directory of Triton's back ends; empty: Triton's own", env="TARN_TRITON_BACKENDS", check=check_plain
    )
    triton_args: str = setting("", doc="more arguments for tritonserver: base64 of a JSON list", env="TARN_TRITON_ARGS", check=_check_args)
    user_env: str = setting("", doc="variables for tritonserver: base64 of a JSON object", env="TARN_USER_ENV", check=_check_env)
    accept_s: float = setting(120.0, doc="how long to wait for an AM to accept this container", env="TARN_ACCEPT_S", unit="s", low=1)
    lease_s: float = setting(600.0, doc="how long to serve without hearing of any AM", env="TARN_LEASE_S", unit="s", low=5)
    drain_s: float = setting(60.0, doc="longest drain when a TERM arrives", env="TARN_DRAIN_S", unit="s", low=0)
    drain_grace_s: float = setting(
        2.0, doc="wait between the znode's end and the first unload, on TERM", env="TARN_DRAIN_GRACE_S", unit="s", low=0
    )
    stage_stall_s: float = setting(300.0, doc="staging fails when nothing moved for so long", env="TARN_STAGE_STALL_S", unit="s", low=1)
    disk_reserve_bytes: int = setting(1 << 30, doc="free space that staging leaves", env="TARN_DISK_RESERVE_BYTES", unit="bytes", low=0)
    load_stall_s: float = setting(
        600.0, doc="a start fails when no model's state changed for so long", env="TARN_LOAD_STALL_S", unit="s", low=1
    )
    probe_interval_s: float = setting(1.0, doc="between two probes of Triton", env="TARN_PROBE_INTERVAL_S", unit="s", low=0.05)
    probe_deadline_s: float = setting(
        2.0, doc="one probe's deadline; a hung Triton is out of discovery after it", env="TARN_PROBE_DEADLINE_S", unit="s", low=0.1
    )
    hang_s: float = setting(20.0, doc="a Triton that answered nothing for so long is killed", env="TARN_HANG_S", unit="s", low=1)
    triton_restart_limit: int = setting(
        5, doc="restarts within the window before the instance gives up", env="TARN_TRITON_RESTART_LIMIT", low=0
    )
    triton_restart_window_s: float = setting(600.0, doc="the window of that limit", env="TARN_TRITON_RESTART_WINDOW_S", unit="s", low=1)
    stats_window_s: float = setting(10.0, doc="window of the rates that are reported", env="TARN_STATS_WINDOW_S", unit="s", low=1)
    log_level: str = setting("INFO", doc="DEBUG, INFO, WARNING or ERROR", env="TARN_LOG_LEVEL")
    webhdfs: str = setting("", doc="http(s) address of WebHDFS for hdfs:// repositories; empty: native RPC", env="TARN_WEBHDFS")
    hadoop_conf_dir: str = setting("", doc="Hadoop's configuration directory", env="HADOOP_CONF_DIR")
    hadoop_user: str = setting("", doc="the user towards a Hadoop without Kerberos; empty: the process's own", env="HADOOP_USER_NAME")

    @property
    def announced_host(self) -> str:
        return self.address or self.node

    @property
    def triton_arguments(self) -> tuple[str, ...]:
        return tuple(_unpacked(self.triton_args) or ())

    @property
    def user_environment(self) -> dict[str, str]:
        return dict(_unpacked(self.user_env) or {})
