"""One ZooKeeper session over kazoo, brought into the event loop.

The adapter of the library: kazoo's threads, results, states and exceptions end here. It connects in the background and for
ever, keeps its session's id and password in a file so that a restarted process takes the same session up again, and begins a
new session when the old one is over. It knows nothing of what the znodes mean: `zookeeper.ZooKeeper` does.

Guarantees: nothing blocks the event loop; every request has a deadline; listeners are called in the event loop's thread; an
answer that cannot be understood ends the connection and never the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
from kazoo.client import KazooClient
from kazoo.exceptions import (
    AuthFailedError,
    ConnectionClosedError,
    ConnectionLoss,
    KazooException,
    NoAuthError,
    NodeExistsError,
    NoNodeError,
    NotEmptyError,
    SessionExpiredError,
)
from kazoo.handlers.threading import SequentialThreadingHandler
from kazoo.protocol.states import KeeperState
from kazoo.retry import KazooRetry

from tarn_common import zk_auth
from tarn_common.backoff import Backoff
from tarn_common.endpoint import Ensemble
from tarn_common.zk_login import SASL, Login

log = structlog.get_logger(__name__)

# kazoo tells each attempt and each dropped connection at WARNING; we tell a loss once. Its lines go nowhere.
_silent = logging.getLogger("tarn_common.zk_session.kazoo")
_silent.setLevel(logging.CRITICAL + 1)

_REOPEN = Backoff(first_s=1.0, limit_s=30.0)
_SESSIONS_UNTIL_NEW = 3.0  # lost for so many session time-outs, we stop asking for the old one
_DEAD = (KeeperState.CLOSED, KeeperState.AUTH_FAILED)
_LOST = (*_DEAD, KeeperState.EXPIRED_SESSION)  # the states that kazoo tells as its LOST
_AWAY = (ConnectionLoss, ConnectionClosedError, SessionExpiredError)


class ZooKeeperError(Exception):
    """ZooKeeper did not do what was asked; the text says what and why. `away`: it could not be reached, and time may mend it."""

    def __init__(self, text: str, *, away: bool = False) -> None:
        super().__init__(text)
        self.away = away


@dataclass(frozen=True)
class Znode:
    """A znode as read: `mine` says that it is an ephemeral of this very session."""

    data: bytes
    version: int
    mine: bool


@dataclass(frozen=True)
class SessionId:
    """What takes a session up again."""

    number: int
    password: bytes

    def encode(self, hosts: str) -> str:
        return json.dumps({"hosts": hosts, "session_id": self.number, "password": self.password.hex()})


def decode_session(text: str, hosts: str) -> SessionId | None:
    """The session kept in a file, or None where it is of other servers or cannot be read: then a new one is begun."""
    try:
        record = json.loads(text)
        number, password = int(record["session_id"]), bytes.fromhex(record["password"])
        usable = record["hosts"] == hosts and len(password) == 16 and -(1 << 63) <= number < 1 << 63
    except (ValueError, KeyError, TypeError, OverflowError):
        return None
    return SessionId(number, password) if usable else None


class _Handler(SequentialThreadingHandler):  # type: ignore[misc]
    """kazoo's threads, each ending quietly: what a stranger's bytes raise there must not leave a traceback on stderr."""

    def spawn(self, func: Callable[..., Any], *args: Any, **kwargs: Any) -> threading.Thread:
        def guarded() -> None:
            try:
                func(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - the thread's last frame; the session is opened anew by `_on_state`
                log.debug("zookeeper_connection_thread_ended", error=f"{type(error).__name__}: {error}")

        thread = threading.Thread(target=guarded, name="zookeeper", daemon=True)
        thread.start()
        return thread


class ZkSession:
    """A session that is kept: connected, lost, connected again, or begun anew.

    `on_connected(new_session)` and `on_lost()` are called in the event loop's thread. Requests raise ZooKeeperError or
    kazoo's NoNodeError, NodeExistsError, which only `zookeeper` sees.
    """

    def __init__(
        self,
        ensemble: Ensemble,
        session_s: float,
        *,
        login: Login | None,
        session_file: Path | None,
        on_connected: Callable[[bool], None],
        on_lost: Callable[[], None],
    ) -> None:
        self._ensemble, self._session_s, self._login, self._file = ensemble, session_s, login, session_file
        self._on_connected, self._on_lost = on_connected, on_lost
        self._acl = zk_auth.acl(login)
        self._client: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._session: SessionId | None = None
        self._closing = False
        self._deaths = 0
        self.connected = False
        self.refused = False
        """The servers answer and do not take our login."""

    def open(self) -> None:
        """Begins to connect; returns at once. Called in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._session = self._remembered()
        self._open()

    def _open(self) -> None:
        if self._closing:
            return
        known = self._session
        self._client = KazooClient(
            hosts=self._ensemble.hosts,
            timeout=self._session_s,
            client_id=(known.number, known.password) if known else None,
            handler=_Handler(),
            connection_retry=KazooRetry(max_tries=-1, delay=0.1, backoff=2, max_jitter=0.4, max_delay=1.5),
            logger=_silent,
            **zk_auth.options(self._login),
        )
        client = self._client
        client.add_listener(lambda _state: self._post(self._on_state, client, client.client_state))
        client.start_async()

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        """From kazoo's threads into the loop; after the loop's end there is nobody to tell."""
        assert self._loop is not None
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *args)

    def _on_state(self, client: Any, told: str) -> None:
        """Looks at the client as it is now: of several changes at once only the last one counts."""
        if client is not self._client or self._closing:
            return
        state = client.client_state
        identity = client.client_id if state == KeeperState.CONNECTED else None
        if identity is not None and identity[0] is not None:
            self._greeted(client, SessionId(*identity))
            return
        was, self.connected = self.connected, False
        if was:
            self._on_lost()
            self._give_up_later(client)
        if state in _DEAD and told in _LOST:
            self._begin_later(client, refused=told == KeeperState.AUTH_FAILED)

    def _begin_later(self, client: Any, *, refused: bool) -> None:
        """This client is at its end. A login that is refused is told once; the first time it may be a connection that was lost."""
        self._client = None
        self._stop(client)
        self._deaths += 1
        delay_s = _REOPEN.delay_s(self._deaths, random.random())  # noqa: S311 - jitter
        if not refused:
            log.warning("zookeeper_connection_given_up", ensemble=self._ensemble.hosts, again_in_s=round(delay_s, 1))
        elif self._deaths > 1 and not self.refused and self._login is not None:
            self.refused = True
            log.error("zookeeper_login_refused", error=_refusal(self._ensemble, self._login))
        assert self._loop is not None
        self._loop.call_later(delay_s, self._open)

    def _greeted(self, client: Any, session: SessionId) -> None:
        """kazoo says that it is connected before it is logged in by SASL; what is asked then is answered after that."""
        if self._login is None or self._login.scheme != SASL:
            self._connected_as(session)
            return

        def answered(result: Any) -> None:
            if result.exception is None:
                self._post(self._logged_in, client, session)

        client.exists_async("/").rawlink(answered)

    def _logged_in(self, client: Any, session: SessionId) -> None:
        now = client.client_state == KeeperState.CONNECTED and client.client_id == (session.number, session.password)
        if now and client is self._client and not self._closing:
            self._connected_as(session)

    def _give_up_later(self, client: Any) -> None:
        """A server that lost its data refuses, for ever, a client that has seen newer: so after a while we come as a new one."""

        def give_up() -> None:
            if client is not self._client or self.connected or self._closing:
                return
            log.info("zookeeper_session_given_up", ensemble=self._ensemble.hosts)
            self._session = None
            self._client = None
            self._stop(client)
            self._open()

        assert self._loop is not None
        self._loop.call_later(max(5.0, _SESSIONS_UNTIL_NEW * self._session_s), give_up)

    def _connected_as(self, session: SessionId) -> None:
        new = session != self._session
        if self.connected and not new:
            return
        self._session, self.connected, self._deaths, self.refused = session, True, 0, False
        if new:
            self._remember(session)
        self._on_connected(new)

    def _remembered(self) -> SessionId | None:
        if self._file is None:
            return None
        try:
            return decode_session(self._file.read_text(errors="replace")[:4096], self._ensemble.hosts)
        except OSError:
            return None

    def _remember(self, session: SessionId) -> None:
        """Written before the first znode is made, so that whoever comes after us owns what we make."""
        if self._file is None:
            return
        temporary = self._file.with_name(self._file.name + ".tmp")
        try:
            temporary.unlink(missing_ok=True)
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(session.encode(self._ensemble.hosts))
            temporary.replace(self._file)
        except OSError as error:
            log.warning("zookeeper_session_not_kept", path=str(self._file), error=error.strerror)

    async def _ask(self, what: str, path: str, deadline_s: float, method: str, *args: Any, **kwargs: Any) -> Any:
        """One request: kazoo's result becomes a future of the loop."""
        if not self.connected or self._loop is None:
            raise ZooKeeperError(f"cannot {what} {path}: ZooKeeper at {self._ensemble.hosts} is not connected", away=True)
        future: asyncio.Future[Any] = self._loop.create_future()

        def transfer(result: Any) -> None:
            if future.done():
                return
            if result.exception is not None:
                future.set_exception(result.exception)
            else:
                future.set_result(result.value)

        pending = getattr(self._client, method)(path, *args, **kwargs)
        pending.rawlink(lambda result: self._post(transfer, result))
        try:
            return await asyncio.wait_for(future, deadline_s)
        except (NoNodeError, NodeExistsError):
            raise
        except asyncio.TimeoutError as error:
            raise ZooKeeperError(f"cannot {what} {path}: no answer from ZooKeeper within {deadline_s:g} s", away=True) from error
        except KazooException as error:
            raise _translated(what, path, error) from error

    def _full(self, path: str) -> str:
        return self._ensemble.chroot + path

    async def read(self, path: str, deadline_s: float, watch: Callable[[], None] | None = None) -> Znode | None:
        """The znode, or None; `watch` is called once, in the loop, when this may no longer be so."""
        observer = None if watch is None else lambda _event: self._post(watch)
        full = self._full(path)
        while True:
            try:
                data, stat = await self._ask("read", full, deadline_s, "get_async", watch=observer)
            except NoNodeError:
                if observer is None or await self._ask("watch", full, deadline_s, "exists_async", watch=observer) is None:
                    return None
                continue  # it came between the two requests
            return Znode(data, stat.version, self._session is not None and stat.ephemeralOwner == self._session.number)

    async def children(self, path: str, deadline_s: float) -> list[str] | None:
        """The names below, in no order; None where there is no such znode."""
        try:
            return list(await self._ask("list", self._full(path), deadline_s, "get_children_async"))
        except NoNodeError:
            return None

    async def create(self, path: str, data: bytes, deadline_s: float) -> bool:
        """Makes an ephemeral of this session, and its parents where they lack; False where there is one of that path."""
        return await self._create(self._full(path), data, deadline_s, ephemeral=True)

    async def _create(self, full: str, data: bytes, deadline_s: float, *, ephemeral: bool) -> bool:
        try:
            await self._ask("create", full, deadline_s, "create_async", data, acl=self._acl, ephemeral=ephemeral)
        except NodeExistsError:
            return False
        except NoNodeError as error:
            parent = full.rpartition("/")[0]
            if not parent:
                raise ZooKeeperError(f"cannot create {full}: ZooKeeper says that there is no root") from error
            await self._create(parent, b"", deadline_s, ephemeral=False)
            return await self._create(full, data, deadline_s, ephemeral=ephemeral)
        return True

    async def write(self, path: str, data: bytes, version: int, deadline_s: float) -> None:
        """Changes the data if the znode still has that version; nothing happens where there is none."""
        with contextlib.suppress(NoNodeError):
            await self._ask("write", self._full(path), deadline_s, "set_async", data, version=version)

    async def delete(self, path: str, deadline_s: float) -> None:
        """Nothing happens where there is none."""
        with contextlib.suppress(NoNodeError):
            await self._ask("delete", self._full(path), deadline_s, "delete_async")

    async def close(self, deadline_s: float) -> None:
        """Ends the session, and with it its ephemerals at once; where the servers are away, they end by themselves."""
        self._closing = True
        client, self._client = self._client, None
        if client is None or self._loop is None:
            return
        ended = asyncio.Event()
        was_connected, self.connected = self.connected, False
        self._stop(client, ended.set)
        try:
            await asyncio.wait_for(ended.wait(), deadline_s)
        except asyncio.TimeoutError:
            log.warning("zookeeper_session_not_closed", ensemble=self._ensemble.hosts, deadline_s=deadline_s)
            return
        if was_connected and self._file is not None:
            with contextlib.suppress(OSError):
                self._file.unlink()

    def _stop(self, client: Any, then: Callable[[], None] = lambda: None) -> None:
        """In a daemon thread of its own: kazoo's `stop` may wait for ten seconds or for ever, and must not hold the process's end."""

        def stop() -> None:
            try:
                client.stop()
                client.close()
            except Exception as error:  # noqa: BLE001 - the thread's last frame
                log.debug("zookeeper_close_failed", error=f"{type(error).__name__}: {error}")
            self._post(then)

        threading.Thread(target=stop, name="zookeeper-close", daemon=True).start()


def _refusal(ensemble: Ensemble, login: Login) -> str:
    return (
        f"ZooKeeper at {ensemble.hosts} does not let the {login.scheme} user {login.user!r} in: "
        "check the password, and that the servers have SASL and name this user in their JAAS file"
    )


def _translated(what: str, path: str, error: KazooException) -> ZooKeeperError:
    if isinstance(error, _AWAY):
        return ZooKeeperError(f"cannot {what} {path}: the connection to ZooKeeper was lost", away=True)
    if isinstance(error, NoAuthError | AuthFailedError):
        return ZooKeeperError(f"cannot {what} {path}: ZooKeeper refuses it to us; check the znode's ACL and the login given")
    if isinstance(error, NotEmptyError):
        return ZooKeeperError(f"cannot {what} {path}: it has children; an instance's znode has none, so remove it by hand")
    return ZooKeeperError(f"cannot {what} {path}: {type(error).__name__} {error}".rstrip())
