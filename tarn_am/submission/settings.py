"""What a submission asks of YARN for the application as a whole and for its Application Master: parsed once, frozen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from tarn_common.settings import SettingsError, setting

_QUEUE = re.compile(r"[A-Za-z0-9_.-]+")
_LABEL = re.compile(r"[A-Za-z0-9_-]*")
_IMAGE = re.compile(r"(([a-zA-Z0-9.-]+)(:\d+)?/)?([a-z0-9_./-]+)(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")
_PYTHON = re.compile(r"[A-Za-z0-9_./+-]+")
_STAGING = re.compile(r"([a-z][a-z0-9+.-]*://[^\s?#]+|/?[A-Za-z0-9_./-]+)")


class AmRuntime(Enum):
    """AUTO is as the instances: in Docker where they are."""

    AUTO = "auto"
    DOCKER = "docker"
    PROCESS = "process"


class AgentSource(Enum):
    """Where a container's agent comes from: the ARCHIVE works with any image, the IMAGE with one that has TARN installed."""

    ARCHIVE = "archive"
    IMAGE = "image"


class Wait(Enum):
    """Until when `tarn submit` stays: READY: the wanted instances serve; UP: the Application Master answers; NONE: it is accepted."""

    READY = "ready"
    UP = "up"
    NONE = "none"


def _matches(pattern: re.Pattern[str], fix: str) -> object:
    def check(text: str) -> None:
        if text and not pattern.fullmatch(text):
            raise SettingsError(fix)

    return check


def _check_tags(tags: tuple[str, ...]) -> None:
    for tag in tags:
        if len(tag) > 100 or not tag.isascii() or not tag.isprintable():
            raise SettingsError(f"the tag {tag[:120]!r} is not of at most 100 ASCII characters, which YARN demands")


def _check_regex(text: str) -> None:
    try:
        re.compile(text)
    except re.error as error:
        raise SettingsError(f"it is no regular expression: {error}") from error


@dataclass(frozen=True)
class SubmitSettings:
    """One submission. Names follow the flags: `am_memory_mb` is `--am-memory-mb` and TARN_AM_MEMORY_MB."""

    queue: str = setting(
        "default", doc="queue", env="TARN_QUEUE", check=_matches(_QUEUE, "a queue has letters, digits, '.', '-' and '_' only")
    )
    priority: int = setting(0, doc="priority among the queue's applications", env="TARN_PRIORITY", low=0, high=1_000_000)
    tags: tuple[str, ...] = setting((), doc="the application's tags in YARN", env="TARN_TAGS", check=_check_tags)
    am_memory_mb: int = setting(512, doc="memory of the AM", env="TARN_AM_MEMORY_MB", unit="MiB", low=64, high=1 << 20)
    am_vcores: int = setting(1, doc="virtual cores of the AM", env="TARN_AM_VCORES", low=1, high=1000)
    am_node_label: str = setting(
        "",
        doc="node label (partition) that the AM runs on; empty: the queue's default",
        env="TARN_AM_NODE_LABEL",
        check=_matches(_LABEL, "a node label has letters, digits, '-' and '_' only"),
    )
    am_runtime: AmRuntime = setting(
        AmRuntime.AUTO, doc="docker, process (on the bare node), or auto: as the instances", env="TARN_AM_RUNTIME"
    )
    am_image: str = setting(
        "",
        doc="Docker image of the AM; empty: that of the instances",
        env="TARN_AM_IMAGE",
        check=_matches(_IMAGE, "it is not an image name such as registry:5000/team/tarn:1 (YARN takes no capitals in it)"),
    )
    am_attempts: int = setting(
        4,
        doc="AM containers that may fail within --am-validity-s before YARN ends the application",
        env="TARN_AM_ATTEMPTS",
        low=1,
        high=100,
    )
    am_validity_s: float = setting(
        3600.0, doc="failures of AM containers older than this do not count; 0: all count", env="TARN_AM_VALIDITY_S", unit="s", low=0
    )
    log_include: str = setting(
        "", doc="regular expression of the log files that YARN keeps; empty: all", env="TARN_LOG_INCLUDE", check=_check_regex
    )
    log_exclude: str = setting("", doc="regular expression of those that it does not", env="TARN_LOG_EXCLUDE", check=_check_regex)
    archive: str = setting("", doc="the archive that `tarn archive` built: a file here or a URL; empty: one is built", env="TARN_ARCHIVE")
    agent: AgentSource = setting(AgentSource.ARCHIVE, doc="the instances' agent: out of the archive, or of their image", env="TARN_AGENT")
    python: str = setting(
        "python3",
        doc="the Python of the nodes (or of the images) that runs the archive",
        env="TARN_PYTHON",
        check=_matches(_PYTHON, "it is no path of an interpreter"),
    )
    staging_dir: str = setting(
        ".tarn",
        doc="directory of what is staged: a URL, an absolute path, or a path below your home directory",
        env="TARN_STAGING_DIR",
        check=_matches(_STAGING, "it is neither a path nor a URL"),
    )
    hadoop_conf_dir: str = setting(
        "",
        doc="Hadoop's configuration directory; empty: HADOOP_CONF_DIR and YARN_CONF_DIR, else /etc/hadoop/conf",
        env="TARN_HADOOP_CONF_DIR",
    )
    tp: int = setting(1, doc="tensor parallelism: --tp times --pp GPUs an instance", env="TARN_TP", low=1, high=1024)
    pp: int = setting(1, doc="pipeline parallelism", env="TARN_PP", low=1, high=1024)
    wait: Wait = setting(Wait.READY, doc="return when the instances are ready, the AM is up, or at once (none)", env="TARN_WAIT")
    wait_s: float = setting(
        600.0, doc="longest wait; the application lives on when it passes", env="TARN_WAIT_S", unit="s", low=0, high=1e6
    )
    rm_patience_s: float = setting(
        15.0,
        doc="how long a ResourceManager or NameNode that does not answer is tried",
        env="TARN_RM_PATIENCE_S",
        unit="s",
        low=0,
        high=3600,
    )
