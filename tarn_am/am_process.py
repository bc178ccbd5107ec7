"""The Application Master in a YARN container: what the submission put into the environment and the credentials becomes settings,
state and a cluster, and then it is the same Application Master as everywhere (tarn_am.daemon).

It ends with one of TARN's own statuses when it ends on purpose, which its keeper (tarn_am.am_keeper) takes as final; any other end
is a crash, and the next process of this container resumes the attempt.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog

from tarn_am import daemon
from tarn_am.cluster.yarn.cluster import YarnCluster
from tarn_am.cluster.yarn.rm import Presence
from tarn_am.cluster.yarn.settings import YarnSettings
from tarn_am.hadoop.conf import RM_PRINCIPAL, login, protections
from tarn_am.hadoop.credentials import AMRM, RM_DELEGATION, of_kind
from tarn_am.hadoop.credentials import read as read_credentials
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.ports import ClusterError
from tarn_am.settings import AmSettings
from tarn_am.state import Identity, StateError
from tarn_am.submission.context import CONF_LINK, SETTINGS_VARIABLE, decoded_settings
from tarn_am.submission.errors import SubmissionError
from tarn_am.submission.files import files_of
from tarn_am.submission.submitter import AM_KEY, API_TOKEN
from tarn_am.yarn_state import STATE, Mirror, YarnState, decoded_target
from tarn_common import hadoop_conf, logs
from tarn_common.credentials import AGENT_SECRET, AM_CERTIFICATE, ZK_DIGEST, Credentials, CredentialsError
from tarn_common.endpoint import Rendezvous
from tarn_common.exits import Exit
from tarn_common.hadoop_conf import HadoopConf, HadoopConfError
from tarn_common.ids import ApplicationId, IdError, application_of, container_id
from tarn_common.settings import SettingsError, load

log = structlog.get_logger(__name__)

_PATIENCE_S = 10.0
_FAREWELL_S = 5.0


class Unfit(Exception):
    """The container was given something that no Application Master can run on; one sentence."""


@dataclass(frozen=True)
class Brief:
    """All that this attempt was given."""

    am: AmSettings
    yarn: YarnSettings
    staging: str
    application_id: ApplicationId
    attempt: int
    node: str
    user: str
    credentials: Credentials
    conf: HadoopConf


class Cluster(YarnCluster):
    """Knows whether the application was unregistered: only then is this process's end the application's."""

    unregistered = False

    async def finish(self, succeeded: bool, message: str) -> None:
        await super().finish(succeeded, message)
        self.unregistered = True


def main() -> None:
    sys.exit(start(os.environ, Path.cwd()))


def start(environ: Mapping[str, str], directory: Path) -> int:
    """Runs until the application is over or this attempt is; returns the exit status. `directory` is the container's own."""
    log_file = Path(environ.get("TARN_LOG_DIR") or ".") / "am.log"
    # It is open for as long as the process lives.
    logs.configure(stream=log_file.open("a", buffering=1), json=True)
    try:
        brief = read_brief(environ, directory)
        logs.configure(
            brief.am.log_level,
            stream=log_file.open("a", buffering=1),
            json=True,
            application=brief.application_id,
            attempt=str(brief.attempt),
        )
        return asyncio.run(_run(brief, directory))
    except (Unfit, SettingsError, CredentialsError, HadoopConfError) as error:
        log.error("application_master_unfit", reason=str(error))
        print(f"tarn: {error}", file=sys.stderr)
        return Exit.SETTINGS
    except (daemon.StartError, ClusterError, StateError, SubmissionError) as error:
        log.error("application_master_not_started", reason=str(error))
        print(f"tarn: {error}", file=sys.stderr)
        return Exit.INTERNAL


def read_brief(environ: Mapping[str, str], directory: Path) -> Brief:
    """Raises Unfit, SettingsError, CredentialsError or HadoopConfError."""
    try:
        values = decoded_settings(environ[SETTINGS_VARIABLE])
        am, yarn, staging = dict(values["am"]), dict(values["yarn"]), str(values["staging"])
    except (KeyError, ValueError, TypeError) as error:
        raise Unfit(f"{SETTINGS_VARIABLE} is not what tarn submit writes ({error!r}): submit the application again") from error
    try:
        container = container_id(environ.get("CONTAINER_ID", ""))
    except IdError as error:
        raise Unfit(f"CONTAINER_ID: {error}; this program runs in a container of YARN") from error
    conf = hadoop_conf.read(directory / CONF_LINK, environ)
    found = re.search(r"_(\d+)_\d+$", container)
    assert found is not None, "checked by container_id"
    return Brief(
        _typed(AmSettings, am),
        _typed(YarnSettings, yarn),
        staging,
        application_of(container),
        int(found[1]),
        environ.get("NM_HOST", ""),
        environ.get("USER", ""),
        read_credentials(Path(environ.get("HADOOP_TOKEN_FILE_LOCATION", "container_tokens"))),
        conf,
    )


def _typed(cls: type[Any], values: dict[str, Any]) -> Any:
    """The environment of a node has no say: what the submission wrote counts, and what it did not write has its default."""
    known = {field.name for field in dataclasses.fields(cls)}
    return load(cls, {}, {name: value for name, value in values.items() if name in known})


async def _run(brief: Brief, directory: Path) -> int:
    files, _ = files_of(brief.conf, brief.staging, brief.user, _PATIENCE_S)
    mirror = Mirror(files, urlsplit(brief.staging).path)
    mirroring = asyncio.create_task(mirror.run(), name="mirror")
    cluster = _cluster(brief, directory)
    try:
        state = YarnState(directory / "am-state", mirror)
        state.plant(brief.application_id, _secret(brief, AGENT_SECRET), _identity(brief), await _kept_target(brief, mirror))
        settings = _with_secret_files(brief, state.path)
        status = await daemon.run(settings, cluster, state, lambda record: _show(cluster, brief, record))
        return await _farewell(cluster, mirror, status)
    finally:
        mirroring.cancel()
        await asyncio.gather(mirroring, return_exceptions=True)
        await cluster.close()
        await files.close()


def _cluster(brief: Brief, directory: Path) -> Cluster:
    token = of_kind(brief.credentials, AMRM)
    if token is None:
        raise Unfit(f"the credentials hold no {AMRM}, which YARN gives every attempt: this program runs in a container of YARN")
    # The scheduler's port takes nothing but a token, also where the cluster has no Kerberos.
    attempt = Login(brief.user, token=token, allowed=protections(brief.conf))
    ours = of_kind(brief.credentials, RM_DELEGATION)
    client = login(brief.conf, brief.user, RM_PRINCIPAL, ours) if ours is not None or not brief.conf.secure else None
    return Cluster(
        brief.yarn, brief.conf, attempt, brief.application_id, brief.attempt,
        client_login=client, memory=directory / "attempt.json", presence=Presence(brief.node),
    )  # fmt: skip


async def _kept_target(brief: Brief, mirror: Mirror) -> int | None:
    """What an earlier attempt left. Where it cannot be read the fleet begins with its smallest size, and says so."""
    if brief.attempt == 1:
        return None
    try:
        return decoded_target(await mirror.recall(STATE))
    except SubmissionError as error:
        log.warning("kept_target_unknown", reason=str(error))
        return None


def _show(cluster: YarnCluster, brief: Brief, record: Rendezvous) -> None:
    cluster.show(Presence(brief.node, record.http))
    log.info("application_master_answers", http=record.http, agents=str(record.agents))


async def _farewell(cluster: Cluster, mirror: Mirror, status: int) -> int:
    """The staging directory goes with the application, and only with it."""
    if not cluster.unregistered:
        log.error("attempt_ends", status=status, over=cluster.view().over)
        return Exit.REFUSED if cluster.view().over else Exit.INTERNAL
    with contextlib.suppress(SubmissionError, asyncio.TimeoutError):
        await asyncio.wait_for(mirror.remove(), _FAREWELL_S)
    log.info("application_ends", status=status)
    return Exit.ORDERED


def _secret(brief: Brief, name: str) -> str:
    return _bytes(brief, name).decode("ascii", "replace")


def _bytes(brief: Brief, name: str) -> bytes:
    found = brief.credentials.secrets.get(name)
    if not found:
        raise Unfit(f"the credentials hold no {name}, which tarn submit puts there: submit the application again")
    return found


def _identity(brief: Brief) -> Identity:
    return Identity(_bytes(brief, AM_KEY), _bytes(brief, AM_CERTIFICATE))


def _with_secret_files(brief: Brief, directory: Path) -> AmSettings:
    """The daemon takes secrets from files, of this container's own directory here."""
    settings = dataclasses.replace(brief.am, address=brief.am.address or brief.node)
    held = brief.credentials.secrets
    return dataclasses.replace(
        settings,
        token_file=_secret_file(directory / "token", held.get(API_TOKEN)),
        zk_digest_file=_secret_file(directory / "zk-digest", held.get(ZK_DIGEST)),
    )


def _secret_file(path: Path, secret: bytes | None) -> str:
    if not secret:
        return ""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secret)
    return str(path)


if __name__ == "__main__":
    main()
