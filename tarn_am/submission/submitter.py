"""One submission from its checks to its acceptance, and back: what fails on the way leaves nothing behind.

The order is from free to costly: the configuration, the queue, the ask against the cluster's nodes, the files, the tokens, the
application. Everything that was made is written down as it is made, and undone in reverse when a later step fails or is interrupted.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Callable
from pathlib import Path

from tarn_am.cluster.yarn import launch as yarn_launch
from tarn_am.core import launch
from tarn_am.core.launch import LaunchError
from tarn_am.hadoop.conf import RmService, resource_managers
from tarn_am.ports import LaunchSpec
from tarn_am.state import make_identity
from tarn_am.submission import conf as client_conf
from tarn_am.submission import context, plan
from tarn_am.submission.ask import AskError, check
from tarn_am.submission.conf import ClientConf
from tarn_am.submission.context import ApplicationSpec, StagedFile
from tarn_am.submission.errors import SubmissionError
from tarn_am.submission.files import files_of
from tarn_am.submission.plan import Staged, Wish
from tarn_am.submission.resource_manager import Report, ResourceManager
from tarn_common import credentials
from tarn_common.credentials import Credentials
from tarn_common.endpoint import HostPort
from tarn_common.hadoop_conf import HadoopConfError
from tarn_common.ids import ApplicationId, make_container_id

AM_KEY = "tarn.am.key"
API_TOKEN = "tarn.api.token"  # noqa: S105
_LOOK_S = 0.05
_ACCEPT_S = 120.0
Tell = Callable[[str], None]


class Submitter:
    """Of one user, with one configuration. Raises SubmissionError throughout; `close` afterwards."""

    def __init__(self, found: ClientConf, wish: Wish, user: str) -> None:
        self._conf, self._wish, self.user = found.conf, wish, user
        try:
            self.rm = ResourceManager(found.conf, user, wish.own.rm_patience_s)
            self.addresses = ", ".join(map(str, resource_managers(found.conf, RmService.CLIENT)))
        except HadoopConfError as error:
            raise SubmissionError(f"{error} (read: {', '.join(map(str, found.directories))})") from error
        self._files, self._base = files_of(found.conf, wish.own.staging_dir, user, wish.own.rm_patience_s)
        self._undo: list[tuple[str, bool]] = []

    async def close(self) -> None:
        await self.rm.close()
        await self._files.close()

    async def check(self) -> ApplicationId:
        """Everything that can be known before anything is made, or built; returns the application's id."""
        own = self._wish.own
        # Side by side: none needs another's answer.
        (application_id, maximum), *_ = await asyncio.gather(
            self.rm.new_application(),
            self.rm.check_queue(own.queue, own.am_node_label),
            self.rm.check_queue(own.queue, self._wish.yarn.node_label),
        )
        offer = await self.rm.offer(maximum)
        try:
            for ask in plan.asks(self._wish):
                check(ask, offer)
        except AskError as error:
            raise SubmissionError(str(error)) from error
        nothing = StagedFile("", 0, 0)
        self._spec(application_id, Staged("", nothing, nothing), b"")
        return application_id

    async def dry(self, application_id: ApplicationId, archive: Path | str) -> dict[str, object]:
        """What `submit` would send, with nothing made. A file that is not staged yet has the time 0."""
        staged = Staged(
            self._files.url(self._directory(application_id)),
            await self._would_stage("archives", archive),
            await self._would_stage("conf", client_conf.packed(self._conf)),
        )
        held = self._credentials()
        spec = self._spec(application_id, staged, b"")
        context.submission(spec)
        tokens = ["HDFS_DELEGATION_TOKEN", "RM_DELEGATION_TOKEN"] if self._conf.secure else []
        return context.shown(spec, [*held.secrets, *tokens])

    async def submit(self, application_id: ApplicationId, archive: Path | str, tell: Tell) -> Report:
        """Stages and submits; returns the report that says ACCEPTED. Undoes all of it when that does not come about."""
        try:
            return await self._submit(application_id, archive, tell)
        except BaseException:  # also an interruption: what was made is undone first
            await asyncio.shield(self._take_back(application_id))
            raise

    async def remove(self, application_id: ApplicationId) -> None:
        """The directory of an application that is over."""
        await self._files.delete(self._directory(application_id))

    async def sweep(self) -> None:
        """The directories of applications that ended without their masters: killed by YARN, or failed too often. Nothing depends on it."""
        with contextlib.suppress(SubmissionError):
            left = {name for name in await self._files.names(self._base) if name.startswith("application_")}
            if len(left) > 1:
                for report in await self.rm.applications(user=self.user, living=False):
                    if report.ended and report.application_id in left:
                        await self.remove(report.application_id)

    async def _submit(self, application_id: ApplicationId, archive: Path | str, tell: Tell) -> Report:
        directory = self._directory(application_id)
        await self._make(self._base)
        await self._make(directory)
        staged = Staged(
            self._files.url(directory),
            await self._stage("archives", archive, tell),
            await self._stage("conf", client_conf.packed(self._conf), tell),
        )
        held = self._credentials()
        tokens = {token.service: token for token in await self._tokens()}
        spec = self._spec(application_id, staged, credentials.encode(Credentials(tokens, held.secrets)))
        await self.rm.submit(context.submission(spec))
        return await self._accepted(application_id, tell)

    async def _accepted(self, application_id: ApplicationId, tell: Tell) -> Report:
        end = asyncio.get_running_loop().time() + _ACCEPT_S
        while True:
            report = await self.rm.report(application_id)
            if report.accepted:
                return report
            if report.ended:
                raise SubmissionError(f"YARN refused {application_id}: {_reason(report)}")
            if asyncio.get_running_loop().time() > end:
                raise SubmissionError(
                    f"YARN did not accept {application_id} within {_ACCEPT_S:g} s (it is {report.state}); it was taken back"
                )
            tell(f"{application_id} is {report.state.lower()}")
            await asyncio.sleep(_LOOK_S)

    async def _tokens(self) -> list[credentials.Token]:
        """On a secure cluster: of HDFS, for the nodes and the instances; of the RM, for the AM's questions."""
        found = await self._files.token(self.rm.renewer)
        return [found, await self.rm.delegation_token()] if found is not None else []

    def _credentials(self) -> Credentials:
        """The secrets that every attempt of the Application Master finds again: agents outlive attempts."""
        identity = make_identity()
        made = {
            credentials.AGENT_SECRET: secrets.token_urlsafe(32).encode(),
            credentials.AM_CERTIFICATE: identity.certificate,
            AM_KEY: identity.key,
        }
        return Credentials(secrets={**made, **self._wish.secrets})

    def _spec(self, application_id: ApplicationId, staged: Staged, held: bytes) -> ApplicationSpec:
        try:
            spec = plan.application(self._wish, application_id, staged, held)
            context.environment(spec.master)
            # The instances' too: what cannot be launched is refused here, not by a master that nobody watches.
            meeting = launch.Meeting(HostPort("master", 1))
            instance = LaunchSpec(launch.environment(application_id, self._wish.am, meeting), b"")
            yarn_launch.context(self._wish.yarn, instance, make_container_id(application_id, 1, 2))
        except LaunchError as error:
            raise SubmissionError(str(error)) from error
        return spec

    def _directory(self, application_id: ApplicationId) -> str:
        return f"{self._base}/{application_id}"

    def _path(self, kind: str, source: Path | bytes) -> str:
        digest = hashlib.sha256(source if isinstance(source, bytes) else source.read_bytes()).hexdigest()
        return f"{self._base}/{kind}/{digest[:32]}.tar.gz"

    async def _would_stage(self, kind: str, source: Path | bytes | str) -> StagedFile:
        if isinstance(source, str):
            return await self._there(source)
        path = self._path(kind, source)
        length = len(source) if isinstance(source, bytes) else source.stat().st_size
        return await self._files.info(path) or StagedFile(self._files.url(path), length, 0)

    async def _stage(self, kind: str, source: Path | bytes | str, tell: Tell) -> StagedFile:
        """Uploaded once: the name is the content's digest."""
        if isinstance(source, str):
            return await self._there(source)
        path = self._path(kind, source)
        found = await self._files.info(path)
        if found is not None:
            return found
        await self._make(f"{self._base}/{kind}")
        tell(f"uploading {self._files.url(path)}")
        self._undo.append((path, False))
        return await self._files.put(path, source)

    async def _there(self, url: str) -> StagedFile:
        """An archive that somebody put into the cluster."""
        files, path = files_of(self._conf, url, self.user, self._wish.own.rm_patience_s)
        try:
            found = await files.info(path)
        finally:
            await files.close()
        if found is None:
            raise SubmissionError(f"--archive={url} is not there: put it there, or give a file that `tarn archive` built")
        return found

    async def _make(self, path: str) -> None:
        if await self._files.make_directory(path):
            self._undo.append((path, True))

    async def _take_back(self, application_id: ApplicationId) -> None:
        """Everything that this submission made, and the application if YARN has it. What fails here must not hide why we are here."""
        with contextlib.suppress(SubmissionError):
            if not (await self.rm.report(application_id)).ended:
                await self.kill(application_id, "its submission was taken back")
        with contextlib.suppress(SubmissionError):
            await self._files.delete(self._directory(application_id))
            # Another submission may have found what this one uploaded, and may rely on it.
            others = [name for name in await self._files.names(self._base) if name.startswith("application_")] if self._undo else []
            for path, is_directory in reversed(self._undo):
                if is_directory or not others:
                    with contextlib.suppress(SubmissionError):
                        await self._files.delete(path, empty=is_directory)

    async def kill(self, application_id: ApplicationId, why: str) -> None:
        """Returns when it is over."""
        while True:
            if await self.rm.kill(application_id, why):
                return
            await asyncio.sleep(_LOOK_S)


def _reason(report: Report) -> str:
    lines = [line.strip() for line in report.diagnostics.splitlines() if line.strip()]
    return lines[0][:400] if lines else f"its state is {report.state}, and no reason is given"
