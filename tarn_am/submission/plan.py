"""From settings to what is sent: sizes, flags, the Application Master's own settings. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from tarn_am.cluster.yarn.convert import MEMORY, VCORES, Size
from tarn_am.cluster.yarn.settings import Runtime, Visibility, YarnSettings
from tarn_am.settings import AmSettings
from tarn_am.submission.ask import Ask
from tarn_am.submission.context import ARCHIVE_LINK, CONF_LINK, ApplicationSpec, MasterSpec, StagedFile
from tarn_am.submission.errors import SubmissionError
from tarn_am.submission.settings import AgentSource, AmRuntime, SubmitSettings
from tarn_common.ids import ApplicationId

_STAYS_HERE = ("token_file", "zk_digest_file", "name")
"""Files of the client's machine: their contents travel in the credentials."""


@dataclass(frozen=True)
class Wish:
    """All that a submission asks for. `secrets` go into the Application Master's credentials by their names there."""

    am: AmSettings
    yarn: YarnSettings
    own: SubmitSettings
    secrets: Mapping[str, bytes] = field(default_factory=dict, repr=False)


@dataclass(frozen=True)
class Staged:
    """Where things are. `directory` is the URL of the application's own directory; `archive` None: everything is in the images."""

    directory: str
    archive: StagedFile
    conf: StagedFile


def repository(text: str, default_fs: str) -> str:
    """The model repository as a container can find it: `hdfs:///x` with the cluster's own NameNode. Raises SubmissionError."""
    scheme, colon, rest = text.partition(":")
    if not colon or "/" in scheme:
        if not text.startswith("/"):
            raise SubmissionError(
                f"--model-repository={text!r} is no place that every node knows: give hdfs:///path, or the absolute path of a directory that all mount"
            )
        return text
    path = "/" + rest.lstrip("/")
    if scheme != "hdfs" or (rest.startswith("//") and not rest.startswith("///")):
        return text
    if not default_fs.startswith("hdfs://"):
        raise SubmissionError(
            f"--model-repository={text} names no NameNode, and fs.defaultFS is {default_fs or 'not set'}: give hdfs://host:port{path}"
        )
    return default_fs.rstrip("/") + path


def asks(wish: Wish) -> list[Ask]:
    """The Application Master's, and an instance's."""
    own, yarn = wish.own, wish.yarn
    master = Ask(
        "the Application Master",
        Size(own.am_memory_mb, own.am_vcores),
        own.am_node_label,
        {MEMORY: "--am-memory-mb", VCORES: "--am-vcores", "label": "--am-node-label"},
    )
    parallel = "--tp and --pp" if own.tp * own.pp > 1 else "--gpus"
    others = {yarn.gpu_resource: yarn.gpus} if yarn.gpus else {}
    flags = {MEMORY: "--memory-mb", VCORES: "--vcores", yarn.gpu_resource: parallel, "label": "--node-label"}
    return [master, Ask("an instance", Size(yarn.memory_mb, yarn.vcores, others), yarn.node_label, flags)]


def master_settings(wish: Wish, staged: Staged) -> dict[str, Any]:
    """What the Application Master reads at its start: JSON values, by the fields' names."""
    yarn = wish.yarn
    if wish.own.agent is AgentSource.ARCHIVE:
        yarn = dataclasses.replace(
            yarn,
            archive=staged.archive.url,
            archive_bytes=staged.archive.length,
            # What is not uploaded yet (--dry-run) has no time; YARN counts in whole milliseconds and never has 0.
            archive_mtime_ms=staged.archive.modified_ms or 1,
            archive_visibility=Visibility.PRIVATE,
            command=agent_command(yarn, wish.own.python),
        )
    am = {name: value for name, value in plain(wish.am).items() if name not in _STAYS_HERE}
    return {"am": {**am, "name": wish.am.name}, "yarn": plain(yarn), "staging": staged.directory}


def agent_command(yarn: YarnSettings, python: str) -> tuple[str, ...]:
    """The given one, or the agent out of the archive."""
    default = next(each.default for each in dataclasses.fields(YarnSettings) if each.name == "command")
    return yarn.command if yarn.command != default else (python, "-Es", f"{ARCHIVE_LINK}/run.py", "tarn_agent.init")


def plain(settings: Any) -> dict[str, Any]:
    """A settings object as JSON values that `tarn_common.settings.load` takes back."""
    return {each.name: _plain(getattr(settings, each.name)) for each in dataclasses.fields(settings)}


def _plain(value: Any) -> Any:
    if isinstance(value, Enum):
        return value.value
    return list(value) if isinstance(value, tuple) else value


def application(wish: Wish, application_id: ApplicationId, staged: Staged, credentials: bytes) -> ApplicationSpec:
    own = wish.own
    docker = own.am_runtime is AmRuntime.DOCKER or (own.am_runtime is AmRuntime.AUTO and wish.yarn.runtime is Runtime.DOCKER)
    master = MasterSpec(
        size=asks(wish)[0].size,
        python=own.python,
        settings=master_settings(wish, staged),
        files={ARCHIVE_LINK: staged.archive, CONF_LINK: staged.conf},
        credentials=credentials,
        image=(own.am_image or wish.yarn.image) if docker else "",
        label=own.am_node_label,
    )
    return ApplicationSpec(
        application_id=application_id,
        name=wish.am.name,
        queue=own.queue,
        priority=own.priority,
        tags=own.tags,
        attempts=own.am_attempts,
        validity_s=own.am_validity_s,
        master=master,
        log_include=own.log_include,
        log_exclude=own.log_exclude,
    )
