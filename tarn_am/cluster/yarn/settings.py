"""What one instance asks of YARN, how it is launched there, and how patient the back end is: parsed once, frozen."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

from tarn_common.settings import SettingsError, setting

_SAFE_WORD = re.compile(r"(?:[A-Za-z0-9_./:=,@%+-]|\{\{[A-Za-z_][A-Za-z0-9_]*\}\})+")
_IMAGE = re.compile(r"(([a-zA-Z0-9.-]+)(:\d+)?/)?([a-z0-9_./-]+)(:[\w.-]+)?(@sha256:[0-9a-f]{64})?")
_MOUNT = re.compile(r"[A-Za-z0-9_./-]+:/[A-Za-z0-9_./-]*:(ro|rw)")
_TAG = re.compile(r"[A-Za-z0-9_.-]+")
_LABEL = re.compile(r"[A-Za-z0-9_-]*")
_ARCHIVE = re.compile(r"[a-z][a-z0-9+.-]*://[^\s?#]+|")


class Runtime(Enum):
    """DOCKER: the image's programs in a container of its own; PROCESS: the node's, as an ordinary process."""

    DOCKER = "docker"
    PROCESS = "process"


class Visibility(Enum):
    """Who may share a localized file: PUBLIC needs a file that everybody may read, the others start a JVM for each container."""

    PUBLIC = "public"
    PRIVATE = "private"
    APPLICATION = "application"


def _matches(pattern: re.Pattern[str], fix: str) -> object:
    def check(text: str) -> None:
        if text and not pattern.fullmatch(text):
            raise SettingsError(fix)

    return check


def _check_words(words: tuple[str, ...]) -> None:
    for word in words:
        if not _SAFE_WORD.fullmatch(word):
            raise SettingsError(f"{word!r} may be executed by YARN's launch script: use letters, digits and _./:=,@%+- only")


def _check_mounts(mounts: tuple[str, ...]) -> None:
    for mount in mounts:
        if not _MOUNT.fullmatch(mount):
            raise SettingsError(f"{mount!r} is not source:/target:ro or source:/target:rw")


def _check_tmpfs(paths: tuple[str, ...]) -> None:
    for path in paths:
        if not re.fullmatch(r"/[A-Za-z0-9_./-]+", path):
            raise SettingsError(f"{path!r} is not an absolute path")


@dataclass(frozen=True)
class YarnSettings:
    """One application's wishes towards YARN. Names follow the flags: `per_node` is `--per-node` and TARN_PER_NODE."""

    memory_mb: int = setting(8192, doc="memory of an instance", env="TARN_MEMORY_MB", unit="MiB", low=1, high=1 << 30)
    vcores: int = setting(4, doc="virtual cores of an instance", env="TARN_VCORES", low=1, high=100_000)
    gpus: int = setting(1, doc="GPUs of an instance; 0: it runs on the CPU", env="TARN_GPUS", low=0, high=10_000)
    gpu_resource: str = setting(
        "yarn.io/gpu",
        doc="YARN's name for a GPU",
        env="TARN_GPU_RESOURCE",
        check=_matches(re.compile(r"([A-Za-z0-9.-]+/)?[A-Za-z0-9._-]+"), "it is not a resource name such as yarn.io/gpu"),
    )
    node_label: str = setting(
        "",
        doc="node label (partition) that instances run on; empty: the queue's default",
        env="TARN_NODE_LABEL",
        check=_matches(_LABEL, "a node label has letters, digits, '-' and '_' only"),
    )
    placement_tag: str = setting(
        "nvidia",
        doc="tag that keeps instances apart",
        env="TARN_PLACEMENT_TAG",
        check=_matches(_TAG, "a tag has letters, digits, '.', '-' and '_' only"),
    )
    per_node: int = setting(1, doc="at most so many instances on one node; 0: as many as fit", env="TARN_PER_NODE", low=0, high=1000)
    ask_priority: int = setting(1, doc="priority of the asks within the application", env="TARN_ASK_PRIORITY", low=0, high=1000)
    runtime: Runtime = setting(Runtime.DOCKER, doc="docker, or process for clusters without Docker", env="TARN_RUNTIME")
    image: str = setting(
        "",
        doc="Docker image of the instances; must be given with docker",
        env="TARN_IMAGE",
        check=_matches(_IMAGE, "it is not an image name such as registry:5000/team/tarn:1 (YARN takes no capitals in it)"),
    )
    mounts: tuple[str, ...] = setting(
        (), doc="source:/target:ro|rw for the Docker container; may be repeated", env="TARN_MOUNTS", check=_check_mounts
    )
    tmpfs: tuple[str, ...] = setting(
        ("/dev/shm",),  # noqa: S108 - a mount point inside the container
        doc="paths that are memory in the Docker container; without /dev/shm Triton's Python back end has 64 MB",
        env="TARN_TMPFS",
        check=_check_tmpfs,
    )
    command: tuple[str, ...] = setting(
        ("python3", "-m", "tarn_agent.init"), doc="the container's one program and its arguments", env="TARN_COMMAND", check=_check_words
    )
    path: str = setting(
        "/usr/local/bin:/usr/bin:/bin",
        doc="PATH with the process runtime; an image brings its own",
        env="TARN_CONTAINER_PATH",
        check=_matches(re.compile(r"[A-Za-z0-9_./:-]+"), "it is not a list of directories"),
    )
    archive: str = setting(
        "",
        doc="URL of the agent's archive, for images and nodes that have no agent; empty: they have",
        env="TARN_AGENT_ARCHIVE",
        check=_matches(_ARCHIVE, "it is not a URL such as hdfs://nameservice/path/tarn.tar.gz"),
    )
    archive_bytes: int = setting(0, doc="the archive's length", env="TARN_AGENT_ARCHIVE_BYTES", unit="bytes", low=0)
    archive_mtime_ms: int = setting(
        0, doc="when the archive was modified; YARN refuses any other file", env="TARN_AGENT_ARCHIVE_MTIME_MS", unit="ms", low=0
    )
    archive_visibility: Visibility = setting(
        Visibility.APPLICATION, doc="public, private or application", env="TARN_AGENT_ARCHIVE_VISIBILITY"
    )
    ask_beat_s: float = setting(
        0.1, doc="between heartbeats while something is awaited", env="TARN_ASK_BEAT_S", unit="s", low=0.02, high=60
    )
    rest_beat_s: float = setting(1.0, doc="between heartbeats at rest", env="TARN_REST_BEAT_S", unit="s", low=0.1, high=60)
    call_s: float = setting(10.0, doc="longest wait for the ResourceManager's answer", env="TARN_RM_CALL_S", unit="s", low=0.5, high=300)
    register_s: float = setting(900.0, doc="how long the first registration is tried", env="TARN_REGISTER_S", unit="s", low=1)
    trust_s: float = setting(
        10.0, doc="nothing is started or stopped when no heartbeat succeeded for so long", env="TARN_RM_TRUST_S", unit="s", low=1
    )
    node_call_s: float = setting(20.0, doc="longest wait for a NodeManager's answer", env="TARN_NM_CALL_S", unit="s", low=0.5, high=55)
    bad_node_failures: int = setting(2, doc="failures on a node before it is avoided", env="TARN_BAD_NODE_FAILURES", low=1)
    bad_node_window_s: float = setting(600.0, doc="failures older than this do not count", env="TARN_BAD_NODE_WINDOW_S", unit="s", low=1)
    bad_node_s: float = setting(
        60.0, doc="how long a node is avoided at first; each time twice as long", env="TARN_BAD_NODE_S", unit="s", low=1
    )
    bad_node_limit_s: float = setting(3600.0, doc="never avoided longer than this", env="TARN_BAD_NODE_LIMIT_S", unit="s", low=1)
    young_s: float = setting(
        300.0, doc="a container that fails sooner than this speaks against its node", env="TARN_YOUNG_S", unit="s", low=0
    )

    def __post_init__(self) -> None:
        if self.runtime is Runtime.DOCKER and not self.image:
            raise SettingsError("--image is not set: name the Docker image of the instances, or give --runtime=process")
        if self.archive and not self.archive_mtime_ms:
            raise SettingsError(f"--archive={self.archive} has no --archive-mtime-ms: YARN takes a file only with its exact time")
        if self.rest_beat_s < self.ask_beat_s:
            raise SettingsError(f"--rest-beat-s {self.rest_beat_s:g} is shorter than --ask-beat-s {self.ask_beat_s:g}: swap them")
        if self.trust_s < 2 * self.rest_beat_s:
            raise SettingsError(f"--trust-s {self.trust_s:g} is not twice --rest-beat-s {self.rest_beat_s:g}: raise it")
