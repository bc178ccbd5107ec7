"""Where the Application Master is: from its znode, from the rendezvous file, or by the first guess in the settings.

None of them is trusted further than to try it: who answers there must prove itself by the certificate. A znode or a file that
says nothing useful is passed over.
"""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import structlog

from tarn_agent.settings import AgentSettings
from tarn_common.endpoint import EndpointError, HostPort, Rendezvous, am_path, decode_rendezvous, parse_host_port
from tarn_common.ids import application_id
from tarn_common.zookeeper import ZooKeeper

log = structlog.get_logger(__name__)

_RECORD_BYTES = 65536


class Finder:
    """`changed` is set when the znode or the file names another Application Master than before."""

    def __init__(self, settings: AgentSettings, zookeeper: ZooKeeper | None) -> None:
        self._file = Path(settings.rendezvous) if settings.rendezvous and "://" not in settings.rendezvous else None
        self._guess = parse_host_port(settings.am) if settings.am else None
        self._in_znode: Rendezvous | None = None
        self._in_file: Rendezvous | None = None
        self._file_stamp: tuple[int, int] | None = None
        self.changed = asyncio.Event()
        if zookeeper is not None:
            zookeeper.follow(am_path(settings.zk_path, application_id(settings.application_id)), self._told)
        self.look()

    @property
    def known(self) -> frozenset[Rendezvous]:
        """The records that stand now."""
        return frozenset(record for record in (self._in_znode, self._in_file) if record is not None)

    def candidates(self) -> list[HostPort]:
        """Whom to try, the likeliest first; the file is looked at anew."""
        self.look()
        found = [record.agents for record in (self._in_znode, self._in_file) if record is not None]
        return list(dict.fromkeys([*found, *([self._guess] if self._guess is not None else [])]))

    def look(self) -> None:
        """Reads the file if it is another than before: one `stat` where it is not."""
        if self._file is None:
            return
        try:
            about = self._file.stat()
            stamp = (about.st_mtime_ns, about.st_ino)
            if stamp == self._file_stamp:
                return
            with self._file.open("rb") as file:
                data: bytes | None = file.read(_RECORD_BYTES)
        except OSError:
            stamp, data = None, None
        self._file_stamp = stamp
        self.heard(data, str(self._file))

    def heard(self, data: bytes | None, source: str = "the rendezvous file") -> None:
        """What the rendezvous file holds now, by whoever reads it."""
        record = _decoded(data, source)
        if record != self._in_file:
            self._in_file = record
            self._tell(record)

    async def follow_file(self, every_s: float) -> None:
        """Looks again and again; ends only by cancellation. Where there is no file it does nothing."""
        while self._file is not None:
            await asyncio.sleep(every_s)
            self.look()
        await asyncio.Event().wait()

    def _told(self, data: bytes | None) -> None:
        record = _decoded(data, "the znode of the Application Master")
        if record != self._in_znode:
            self._in_znode = record
            self._tell(record)

    def _tell(self, record: Rendezvous | None) -> None:
        if record is not None:
            self.changed.set()


def _decoded(data: bytes | None, source: str) -> Rendezvous | None:
    if data is None:
        return None
    with contextlib.suppress(EndpointError):
        return decode_rendezvous(data)
    log.warning("rendezvous_unreadable", source=source, bytes=len(data))
    return None
