"""The ApplicationSubmissionContext, built as data and shown as a person can read it. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tarn_am.cluster.yarn import launch
from tarn_am.cluster.yarn.convert import Size, application, resource
from tarn_am.core.launch import checked
from tarn_am.hadoop.pb import yarn_pb2
from tarn_common.ids import ApplicationId

ARCHIVE_LINK = "tarn"
"""The archive's name in a container's working directory."""
CONF_LINK = "hadoop-conf"
SETTINGS_VARIABLE = "TARN_SETTINGS"
APPLICATION_TYPE = "TARN"
_DEFAULT_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


@dataclass(frozen=True)
class StagedFile:
    """A file that NodeManagers fetch: its URL, and the length and time that they insist on."""

    url: str
    length: int
    modified_ms: int


@dataclass(frozen=True)
class MasterSpec:
    """The Application Master's container. `settings` are JSON; `image` empty: on the bare node."""

    size: Size
    python: str
    settings: Mapping[str, Any]
    files: Mapping[str, StagedFile]
    credentials: bytes = field(repr=False)
    image: str = ""
    mounts: tuple[str, ...] = ()
    label: str = ""
    module: str = "tarn_am.am_keeper"


@dataclass(frozen=True)
class ApplicationSpec:
    """The application as YARN sees it. `validity_s` 0: every failed attempt counts, for ever."""

    application_id: ApplicationId
    name: str
    queue: str
    priority: int
    tags: Sequence[str]
    attempts: int
    validity_s: float
    master: MasterSpec
    log_include: str = ""
    log_exclude: str = ""


def encoded_settings(settings: Mapping[str, Any]) -> str:
    """Any JSON, in the alphabet that a launch script leaves alone."""
    return base64.b64encode(json.dumps(dict(settings), sort_keys=True).encode()).decode()


def decoded_settings(text: str) -> dict[str, Any]:
    """Raises ValueError."""
    found = json.loads(base64.b64decode(text.encode(), validate=True))
    if not isinstance(found, dict):
        raise ValueError("it holds no mapping")
    return found


def submission(spec: ApplicationSpec) -> yarn_pb2.ApplicationSubmissionContextProto:
    """Raises LaunchError when a value cannot travel in a container's environment."""
    context = yarn_pb2.ApplicationSubmissionContextProto(
        application_id=application(spec.application_id),
        application_name=spec.name,
        queue=spec.queue,
        applicationType=APPLICATION_TYPE,
        priority=yarn_pb2.PriorityProto(priority=spec.priority),
        maxAppAttempts=spec.attempts,
        keep_containers_across_application_attempts=True,
        resource=resource(spec.master.size),
        am_container_spec=_launch(spec.master),
        applicationTags=sorted(spec.tags),
    )
    if spec.validity_s:
        context.attempt_failures_validity_interval = int(spec.validity_s * 1000)
    if spec.master.label:
        # The label of the AM alone: the instances name theirs in each ask.
        context.am_container_resource_request.add(
            priority=yarn_pb2.PriorityProto(priority=0),
            resource_name="*",
            capability=resource(spec.master.size),
            num_containers=1,
            node_label_expression=spec.master.label,
        )
    if spec.log_include or spec.log_exclude:
        logs = context.log_aggregation_context
        logs.rolled_logs_include_pattern, logs.rolled_logs_exclude_pattern = spec.log_include or ".*", spec.log_exclude
        logs.include_pattern, logs.exclude_pattern = spec.log_include or ".*", spec.log_exclude
    return context


def _launch(master: MasterSpec) -> yarn_pb2.ContainerLaunchContextProto:
    context = yarn_pb2.ContainerLaunchContextProto(tokens=master.credentials, command=[command(master)])
    for name, value in sorted(environment(master).items()):
        context.environment.add(key=name, value=value)
    for link, file in sorted(master.files.items()):
        context.localResources.add(key=link, value=_resource(file))
    return context


def command(master: MasterSpec) -> str:
    """`exec`, so that the signals of a NodeManager reach the program and not a shell."""
    return f"exec {master.python} -Es {ARCHIVE_LINK}/run.py {master.module} 1><LOG_DIR>/stdout 2><LOG_DIR>/stderr"


def environment(master: MasterSpec) -> dict[str, str]:
    values = {SETTINGS_VARIABLE: encoded_settings(master.settings), "PATH": _DEFAULT_PATH, "LANG": "C.UTF-8", "TARN_LOG_DIR": "."}
    if master.image:
        values["YARN_CONTAINER_RUNTIME_TYPE"] = "docker"
        values["YARN_CONTAINER_RUNTIME_DOCKER_IMAGE"] = master.image
        if master.mounts:
            values["YARN_CONTAINER_RUNTIME_DOCKER_MOUNTS"] = ",".join(master.mounts)
        del values["PATH"]  # the image's own
    found = checked(values)
    found["TARN_LOG_DIR"] = "<LOG_DIR>"  # put in by the NodeManager
    return found


def _resource(file: StagedFile) -> yarn_pb2.LocalResourceProto:
    return yarn_pb2.LocalResourceProto(
        resource=launch.url(file.url), size=file.length, timestamp=file.modified_ms, type=yarn_pb2.ARCHIVE, visibility=yarn_pb2.PRIVATE
    )


def shown(spec: ApplicationSpec, secrets: Sequence[str]) -> dict[str, Any]:
    """All that would be sent, for a person: settings readable, of the credentials only the names."""
    master = spec.master
    return {
        "application": {
            "id": spec.application_id,
            "type": APPLICATION_TYPE,
            "name": spec.name,
            "queue": spec.queue,
            "priority": spec.priority,
            "tags": sorted(spec.tags),
            "max_attempts": spec.attempts,
            "attempt_failures_validity_s": spec.validity_s or None,
            "keep_containers_across_attempts": True,
            "logs": {"include": spec.log_include or ".*", "exclude": spec.log_exclude},
        },
        "master": {
            "resource": master.size.parts(),
            "node_label": master.label,
            "command": command(master),
            "environment": {**environment(master), SETTINGS_VARIABLE: dict(master.settings)},
            "files": {
                link: {"url": file.url, "bytes": file.length, "modified_ms": file.modified_ms} for link, file in master.files.items()
            },
            "credentials": sorted(secrets),
        },
    }
