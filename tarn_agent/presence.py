"""The instance's ephemeral znode: there exactly while the instance is offered to clients.

`announce` and `withdraw` say what must be so from now on; the latest one counts, and saying it again changes nothing. Before the
first of them a znode that an earlier process of this container left stands is left alone: a restarted agent that finds its
Triton serving must not make it blink.
"""

from __future__ import annotations

from pathlib import Path

from tarn_agent.settings import AgentSettings
from tarn_common.credentials import ZK_DIGEST, Credentials, CredentialsError
from tarn_common.endpoint import instance_path, parse_ensemble
from tarn_common.ids import container_id
from tarn_common.zk_login import Login, LoginError, parse_login
from tarn_common.zookeeper import ZooKeeper

SESSION_FILE = "zk-session.json"


def open_zookeeper(settings: AgentSettings, credentials: Credentials) -> ZooKeeper | None:
    """The agent's one session, for its znode and for finding the Application Master; None where no ensemble is set."""
    if not settings.zk_ensemble:
        return None
    return ZooKeeper(
        parse_ensemble(settings.zk_ensemble),
        settings.zk_session_s,
        login=zookeeper_login(settings, credentials),
        session_file=Path(settings.run_dir) / SESSION_FILE,
    )


def zookeeper_login(settings: AgentSettings, credentials: Credentials) -> Login | None:
    """None where none is wanted; raises CredentialsError where the credentials' secret is none."""
    if not settings.zk_auth:
        return None
    try:
        return parse_login(credentials.secrets.get(ZK_DIGEST, b"").decode(errors="replace"), settings.zk_auth)
    except LoginError as error:
        raise CredentialsError(f"the secret {ZK_DIGEST!r} in {settings.credentials} {error}") from error


class ZooKeeperPresence:
    """Presence over a ZooKeeper session, which it begins and ends."""

    def __init__(self, settings: AgentSettings, zookeeper: ZooKeeper) -> None:
        self._path = instance_path(settings.zk_path, container_id(settings.container_id))
        self._zookeeper = zookeeper

    async def start(self) -> None:
        self._zookeeper.start()

    def announce(self, host_port: str) -> None:
        self._zookeeper.keep(self._path, host_port.encode())

    async def withdraw(self) -> None:
        await self._zookeeper.drop(self._path)

    @property
    def announced(self) -> bool:
        return self._zookeeper.stands(self._path)

    async def close(self) -> None:
        await self._zookeeper.close()


class NoPresence:
    """Where there is no ZooKeeper: clients find instances through the Application Master alone."""

    async def start(self) -> None:
        """Nothing to connect to."""

    def announce(self, host_port: str) -> None:
        """Nobody to tell."""

    async def withdraw(self) -> None:
        """Nothing stands."""

    @property
    def announced(self) -> bool:
        return False

    async def close(self) -> None:
        """Nothing is open."""
