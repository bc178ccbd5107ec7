"""The Application Master's settings: flags, then environment, then defaults, parsed once, frozen."""

from __future__ import annotations

from dataclasses import dataclass

from tarn_common.endpoint import DEFAULT_ZK_PATH, check_ensemble
from tarn_common.repository import check_launched, check_repository
from tarn_common.settings import SettingsError, setting
from tarn_common.zk_login import check_scheme


def _check_level(text: str) -> None:
    if text.upper() not in ("DEBUG", "INFO", "WARNING", "ERROR"):
        raise SettingsError("give DEBUG, INFO, WARNING or ERROR")


@dataclass(frozen=True)
class AmSettings:
    """One application. Names follow the flags: `min_instances` is `--min-instances` and TARN_MIN_INSTANCES."""

    model_repository: str = setting(
        doc="model repository: hdfs://, webhdfs://, file: or an absolute path", env="TARN_MODEL_REPOSITORY", check=check_repository
    )
    name: str = setting("tarn", doc="the application's name", env="TARN_NAME")
    models: tuple[str, ...] = setting((), doc="models to serve, by name; empty: all", env="TARN_MODELS")
    model_failure: str = setting(
        "strict", doc="a model that fails to load: strict (the instance fails) or partial (the rest serves)", env="TARN_MODEL_FAILURE"
    )
    min_instances: int = setting(1, doc="never fewer instances than this", env="TARN_MIN_INSTANCES", low=0, high=10_000)
    max_instances: int = setting(10, doc="never more instances than this", env="TARN_MAX_INSTANCES", low=1, high=10_000)
    bind: str = setting("127.0.0.1", doc="IP address that the AM's ports bind", env="TARN_AM_BIND")
    address: str = setting("", doc="host name or address of this AM as others reach it; empty: the bound one", env="TARN_AM_ADDRESS")
    am_port: int = setting(8888, doc="port of the HTTP API and dashboard; 0: a free one", env="TARN_AM_PORT", low=0, high=65535)
    agent_port: int = setting(0, doc="port of the agents' gRPC stream; 0: a free one", env="TARN_AGENT_PORT", low=0, high=65535)
    port: int = setting(0, doc="Triton's HTTP port; 0: a free one for each instance", env="TARN_PORT", low=0, high=65535)
    grpc_port: int = setting(0, doc="Triton's gRPC port; 0: a free one", env="TARN_GRPC_PORT", low=0, high=65535)
    metrics_port: int = setting(0, doc="Triton's metrics port; 0: a free one", env="TARN_METRICS_PORT", low=0, high=65535)
    zk_ensemble: str = setting("", doc="ZooKeeper hosts, host:port,…; empty: no ZooKeeper", env="TARN_ZK_ENSEMBLE", check=check_ensemble)
    zk_path: str = setting(DEFAULT_ZK_PATH, doc="znode under which instances announce themselves", env="TARN_ZK_PATH", check=check_launched)
    zk_session_s: float = setting(10.0, doc="ZooKeeper session time-out", env="TARN_ZK_SESSION_S", unit="s", low=1, high=300)
    zk_digest_file: str = setting("", doc="file with user:password for ZooKeeper, for --zk-auth", env="TARN_ZK_DIGEST_FILE")
    zk_auth: str = setting(
        "", doc="how the --zk-digest-file is used: digest or sasl (DIGEST-MD5); empty: digest", env="TARN_ZK_AUTH", check=check_scheme
    )
    token_file: str = setting("", doc="file with the API token; empty: one is made in the state directory", env="TARN_TOKEN_FILE")
    report_interval_s: float = setting(1.0, doc="between two reports of an agent", env="TARN_REPORT_INTERVAL_S", unit="s", low=0.1, high=60)
    lease_s: float = setting(600.0, doc="an agent that hears of no AM for so long drains and ends", env="TARN_LEASE_S", unit="s", low=5)
    launch_deadline_s: float = setting(120.0, doc="from launch to the agent's first hello", env="TARN_LAUNCH_DEADLINE_S", unit="s", low=1)
    silent_s: float = setting(
        5.0, doc="an instance whose agent is silent for so long is not listed", env="TARN_SILENT_S", unit="s", low=0.5
    )
    lost_s: float = setting(60.0, doc="an instance whose agent is silent for so long is replaced", env="TARN_LOST_S", unit="s", low=1)
    drain_s: float = setting(120.0, doc="longest drain", env="TARN_DRAIN_S", unit="s", low=0)
    drain_grace_s: float = setting(
        3.0, doc="wait for balancers to let go of a draining instance", env="TARN_DRAIN_GRACE_S", unit="s", low=0
    )
    crash_limit: int = setting(
        5, doc="instances that fail in a row, none becoming READY, before no more are asked for", env="TARN_CRASH_LIMIT", low=1
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
    env: tuple[str, ...] = setting(
        (), doc="KEY=VALUE for tritonserver's environment; may be repeated; the variable: with commas, or a JSON list", env="TARN_ENV"
    )
    triton_args: tuple[str, ...] = setting((), doc="more arguments for tritonserver; may be repeated", env="TARN_TRITON_ARGS")
    log_level: str = setting("INFO", doc="DEBUG, INFO, WARNING or ERROR", env="TARN_LOG_LEVEL", check=_check_level)

    def __post_init__(self) -> None:
        if self.min_instances > self.max_instances:
            raise SettingsError(
                f"--min-instances {self.min_instances} is more than --max-instances {self.max_instances}: raise the second or lower the first"
            )
        if self.model_failure not in ("strict", "partial"):
            raise SettingsError(f"--model-failure={self.model_failure!r} is not one of strict, partial")
