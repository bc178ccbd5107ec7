"""The rendezvous record of an Application Master in HDFS, for clusters without ZooKeeper: looked for often only when it is needed.

It is read through the same stores as models, so that tokens and nameservices are as there. While the stream stands, the file is
looked at once a minute: an Application Master that was cut off and replaced may not say goodbye.
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import random
from collections.abc import Callable

import structlog

from tarn_agent.finder import Finder
from tarn_agent.ports import StageError, Store
from tarn_agent.settings import AgentSettings
from tarn_agent.stores.bounded import bounded
from tarn_agent.stores.by_url import open_store

log = structlog.get_logger(__name__)

LOST_S, AT_REST_S = 1.5, 60.0
_DEADLINE_S = 10.0
_STEP_S = 0.5
_RECORD_BYTES = 65536


class RemoteRecord:
    """Feeds `finder` from `settings.rendezvous`, a URL."""

    def __init__(self, settings: AgentSettings, finder: Finder) -> None:
        self._directory, _, self._name = settings.rendezvous.rpartition("/")
        self._settings = dataclasses.replace(settings, model_repository=self._directory)
        self._finder = finder
        self._store: Store | None = None
        self._identity = ""
        self._trouble = ""

    async def run(self, connected: Callable[[], bool]) -> None:
        """Until it is cancelled."""
        while True:
            await self._pause(connected)
            try:
                data = await asyncio.to_thread(bounded, self._look, _DEADLINE_S, f"the NameNode of {self._directory}")
            except StageError as error:
                self._store = None
                if str(error) != self._trouble:
                    log.warning("rendezvous_not_read", location=self._directory, reason=str(error))
                self._trouble = str(error)
                continue
            self._trouble = ""
            if data is not None:
                self._finder.heard(data)

    async def _pause(self, connected: Callable[[], bool]) -> None:
        """Spread, so that a fleet that lost its master does not ask the NameNode in one voice."""
        loop = asyncio.get_running_loop()
        began, share = loop.time(), 0.5 + random.random()  # noqa: S311 - jitter
        while loop.time() - began < share * (AT_REST_S if connected() else LOST_S):  # noqa: ASYNC110 - the stream's end shortens the wait
            await asyncio.sleep(_STEP_S)

    def _look(self) -> bytes | None:
        """The record, if it is another than at the last look."""
        if self._store is None:
            self._store = open_store(self._settings)
        found = next((file for file in self._store.listing(_DEADLINE_S) if file.path == self._name and not file.directory), None)
        if found is None or found.identity == self._identity or found.length > _RECORD_BYTES:
            return None
        into = io.BytesIO()
        self._store.read(found, 0, found.length, into, lambda _: None)
        self._identity = found.identity
        return into.getvalue()
