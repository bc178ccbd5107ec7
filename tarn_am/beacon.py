"""Where this Application Master is, told to whoever looks: an ephemeral znode, and a file beside the application's state.

Lit last, when everything that it points to answers. The ZooKeeper session is kept in a file, so that an AM that was killed and
started again owns the znode at once instead of waiting for the old session's end.
"""

from __future__ import annotations

from pathlib import Path

from tarn_am.settings import AmSettings
from tarn_am.state import StateDir
from tarn_common.endpoint import Rendezvous, am_path, parse_ensemble
from tarn_common.zk_login import Login
from tarn_common.zookeeper import ZooKeeper


class Beacon:
    """One application's beacon; `light` and `close` once."""

    def __init__(self, settings: AmSettings, state: StateDir, login: Login | None) -> None:
        self._state = state
        self._path = am_path(settings.zk_path, state.application_id)
        self._zookeeper: ZooKeeper | None = None
        if settings.zk_ensemble:
            self._zookeeper = ZooKeeper(
                parse_ensemble(settings.zk_ensemble), settings.zk_session_s, login=login, session_file=_session_file(state)
            )

    def light(self, record: Rendezvous) -> None:
        """Raises StateError when the file cannot be written; ZooKeeper is told in the background, as soon as it can be."""
        self._state.write_rendezvous(record)
        if self._zookeeper is not None:
            self._zookeeper.keep(self._path, record.encode())
            self._zookeeper.start()

    async def close(self) -> None:
        self._state.remove_rendezvous()
        if self._zookeeper is not None:
            await self._zookeeper.close()


def _session_file(state: StateDir) -> Path:
    return state.path / "zk-session.json"
