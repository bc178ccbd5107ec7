"""The state directory of an Application Master on YARN: a scratch directory of its container, with what must outlive the container
written to the application's staging directory as well.

    state.json   the last target      read by the next attempt, on whatever node
    am.json      the rendezvous       read by agents of a cluster without ZooKeeper

What is written there is written in the background, the newest only: the fleet never waits for HDFS, and a NameNode that is
away for minutes costs nothing but the news of those minutes.
"""

from __future__ import annotations

import asyncio
import json
import random
from pathlib import Path

import structlog

from tarn_am.state import Application, Identity, StateDir
from tarn_am.submission.errors import SubmissionError
from tarn_am.submission.files import Files
from tarn_common.backoff import Backoff
from tarn_common.endpoint import Rendezvous
from tarn_common.ids import ApplicationId

log = structlog.get_logger(__name__)

STATE, RENDEZVOUS = "state.json", "am.json"
_BACKOFF = Backoff(first_s=0.5, limit_s=30.0)


class Mirror:
    """Files of one directory of the staging file system; `put` returns at once. `run` is its one task."""

    def __init__(self, files: Files, directory: str) -> None:
        self._files, self._directory = files, directory
        self._due: dict[str, bytes | None] = {}
        self._news = asyncio.Event()

    def url(self, name: str) -> str:
        return self._files.url(f"{self._directory}/{name}")

    def put(self, name: str, data: bytes | None) -> None:
        """None deletes."""
        self._due[name] = data
        self._news.set()

    async def run(self) -> None:
        """Until it is cancelled; what fails is tried again for as long as it is the newest."""
        failures = 0
        while True:
            await self._news.wait()
            self._news.clear()
            for name, data in list(self._due.items()):
                try:
                    await self._write(name, data)
                    failures = 0
                except SubmissionError as error:
                    failures += 1
                    log.warning("state_not_mirrored", file=name, reason=str(error), failures=failures)
                    self._news.set()
                else:
                    if self._due.get(name) is data:
                        del self._due[name]
            if failures:
                await asyncio.sleep(_BACKOFF.delay_s(failures, random.random()))  # noqa: S311 - jitter

    async def _write(self, name: str, data: bytes | None) -> None:
        path = f"{self._directory}/{name}"
        if data is None:
            await self._files.delete(path)
        else:
            await self._files.put(path, data, replace=True)

    async def recall(self, name: str) -> bytes | None:
        return await self._files.read(f"{self._directory}/{name}")

    async def remove(self) -> None:
        """The application is over: its directory goes."""
        await self._files.delete(self._directory)


class YarnState(StateDir):
    """`plant` before anything else."""

    def __init__(self, path: Path, mirror: Mirror) -> None:
        super().__init__(path)
        self._mirror = mirror

    @property
    def meeting_place(self) -> str:
        """A URL that every node knows; a directory that all mount is a path to them."""
        return self._mirror.url(RENDEZVOUS).removeprefix("file://")

    def plant(self, application_id: ApplicationId, secret: str, identity: Identity, target: int | None) -> None:
        """What the submission gave, and an earlier attempt left. A file that is there is of an earlier process of this container."""
        self._write("application.json", json.dumps(_first(application_id, target)).encode(), once=True)
        self._write("secret", secret.encode(), once=True)
        self._write("key.pem", identity.key, once=True)
        self._write("cert.pem", identity.certificate, once=True)

    def keep_target(self, target: int | None) -> None:
        super().keep_target(target)
        self._mirror.put(STATE, json.dumps({"target": target}).encode())

    def write_rendezvous(self, record: Rendezvous) -> None:
        super().write_rendezvous(record)
        self._mirror.put(RENDEZVOUS, record.encode())


def _first(application_id: ApplicationId, target: int | None) -> dict[str, object]:
    first = Application(application_id, target=target)
    return {"application_id": first.application_id, "attempt": first.attempt, "target": first.target, "agent_port": first.agent_port}


def decoded_target(data: bytes | None) -> int | None:
    """The target in a state.json; None where there is none, or none that can be read."""
    if data is None:
        return None
    try:
        target = json.loads(data)["target"]
        return None if target is None else max(0, int(target))
    except (ValueError, KeyError, TypeError):
        log.warning("kept_target_unreadable", bytes=len(data))
        return None
