"""What YARN is told to run: the ContainerLaunchContext of an instance. Pure.

YARN's launch script executes what it finds in values and commands, twice. So nothing is quoted here: every value and every word
is of an alphabet in which nothing can be executed, or it is refused. Secrets travel in the credentials alone.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from urllib.parse import urlsplit

from tarn_am.cluster.yarn.settings import Runtime, Visibility, YarnSettings
from tarn_am.core.launch import checked
from tarn_am.hadoop.pb import yarn_pb2
from tarn_am.ports import LaunchSpec
from tarn_common.ids import ContainerId

ARCHIVE_NAME = "tarn"
"""The directory, in the container's working directory, into which the agent's archive is unpacked."""
_EXPANDED_BY_YARN = re.compile(r"\{\{[A-Za-z_][A-Za-z0-9_]*\}\}|<LOG_DIR>")
_VISIBILITY = {
    Visibility.PUBLIC: yarn_pb2.PUBLIC,
    Visibility.PRIVATE: yarn_pb2.PRIVATE,
    Visibility.APPLICATION: yarn_pb2.APPLICATION,
}
_UNPACKED = (".tar.gz", ".tgz", ".zip", ".jar", ".tar")


def context(settings: YarnSettings, spec: LaunchSpec, name: ContainerId) -> yarn_pb2.ContainerLaunchContextProto:
    """Raises tarn_am.core.launch.LaunchError for a value that YARN's script might execute."""
    environ = environment(settings, spec, name)
    return yarn_pb2.ContainerLaunchContextProto(
        localResources=[yarn_pb2.StringLocalResourceMapProto(key=ARCHIVE_NAME, value=archive(settings))] if settings.archive else [],
        tokens=spec.credentials,
        environment=[yarn_pb2.StringStringMapProto(key=key, value=value) for key, value in sorted(environ.items())],
        command=[command(settings)],
    )


def environment(settings: YarnSettings, spec: LaunchSpec, name: ContainerId) -> dict[str, str]:
    """The variables that YARN is given; it adds its own (CONTAINER_ID, NM_HOST, HADOOP_TOKEN_FILE_LOCATION…)."""
    ours = {**_places(settings, spec, name), **_runtime(settings)}
    given = {**spec.environ, **ours}
    checked({key: _EXPANDED_BY_YARN.sub("", value) if key in ours else value for key, value in given.items()})
    return given


def _places(settings: YarnSettings, spec: LaunchSpec, name: ContainerId) -> dict[str, str]:
    places = {"TARN_LOG_DIR": "<LOG_DIR>", "TARN_DATA_DIR": "{{PWD}}/data", "TARN_RUN_DIR": "/tmp/tarn", "LANG": "C.UTF-8"}  # noqa: S108
    if settings.runtime is Runtime.PROCESS:
        # The node's /tmp is everybody's, and the working directory too long for a socket: a name that nobody can guess.
        secret = hashlib.sha256(spec.credentials + name.encode()).hexdigest()[:16]
        # It is none of the directories that a NodeManager removes, so the container does.
        places |= {"TARN_RUN_DIR": f"/tmp/tarn-{secret}", "TARN_KEEP_RUN_DIR": "false", "PATH": settings.path}  # noqa: S108
    if settings.archive:
        places["PYTHONPATH"] = f"{{{{PWD}}}}/{ARCHIVE_NAME}"
    return places


def _runtime(settings: YarnSettings) -> dict[str, str]:
    if settings.runtime is Runtime.PROCESS:
        return {"YARN_CONTAINER_RUNTIME_TYPE": "default"}
    values = {
        "YARN_CONTAINER_RUNTIME_TYPE": "docker",
        "YARN_CONTAINER_RUNTIME_DOCKER_IMAGE": settings.image,
        "YARN_CONTAINER_RUNTIME_DOCKER_TMPFS_MOUNTS": ",".join(settings.tmpfs),
        "YARN_CONTAINER_RUNTIME_DOCKER_MOUNTS": ",".join(settings.mounts),
    }
    # An empty value is not the same as none: YARN refuses some.
    return {key: value for key, value in values.items() if value}


def command(settings: YarnSettings) -> str:
    """`exec`, because a shell between YARN and our PID 1 passes no signal on."""
    checked({"TARN_COMMAND": _EXPANDED_BY_YARN.sub("", "/".join(settings.command))})
    # YARN's own executor for plain processes leaves the credentials readable to all who can enter the directory.
    first = "chmod 600 {{HADOOP_TOKEN_FILE_LOCATION}} && " if settings.runtime is Runtime.PROCESS else ""
    return f"{first}exec {' '.join(settings.command)} 1><LOG_DIR>/stdout 2><LOG_DIR>/stderr"


def archive(settings: YarnSettings) -> yarn_pb2.LocalResourceProto:
    """The agent's archive as YARN fetches it: only a file of exactly this time."""
    name = posixpath.basename(urlsplit(settings.archive).path)
    return yarn_pb2.LocalResourceProto(
        resource=url(settings.archive),
        size=settings.archive_bytes,
        timestamp=settings.archive_mtime_ms,
        type=yarn_pb2.ARCHIVE if name.endswith(_UNPACKED) else yarn_pb2.FILE,
        visibility=_VISIBILITY[settings.archive_visibility],
    )


def url(text: str) -> yarn_pb2.URLProto:
    """Any URL of a Hadoop file system; without host (file:///x) it has none, without port it is -1, as Java says it."""
    parts = urlsplit(text)
    found = yarn_pb2.URLProto(scheme=parts.scheme, port=parts.port or -1, file=parts.path)
    if parts.hostname:
        # As written: a nameservice may have capitals.
        found.host = parts.netloc.rpartition("@")[2].rpartition(":")[0] if parts.port else parts.netloc.rpartition("@")[2]
    return found
