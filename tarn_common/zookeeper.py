"""What this process wants of ZooKeeper, kept true: ephemeral znodes that must stand, and znodes whose content is followed.

Used by the agent's presence and by the Application Master's beacon. One says what is wanted, and one task brings it about: after
a loss of the connection, an expired session, a restart of the servers, or somebody else's hand on the znode. The latest wish
counts. A loss is logged once, and once when all is well again.

It is not a general client: no locks, no sequences, no transactions.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable
from pathlib import Path

import structlog

from tarn_common.backoff import Backoff
from tarn_common.endpoint import Ensemble
from tarn_common.zk_login import Login
from tarn_common.zk_session import ZkSession, ZooKeeperError

log = structlog.get_logger(__name__)

Listener = Callable[[bytes | None], None]

_FIRST_CONNECTION_S = 5.0
_REQUEST_S = 5.0
_RETRY = Backoff(first_s=0.2, limit_s=15.0)
_CONTEST_WINDOW_S = 60.0


class ZooKeeper:
    """One session with its wishes. All methods are called in the event loop, and none blocks it.

    With a `login` znodes are made so that its user may do all with them and the world may read.
    With `session_file` a process that was killed and started again takes its session up, and so owns its znodes still.
    """

    def __init__(self, ensemble: Ensemble, session_s: float, *, login: Login | None = None, session_file: Path | None = None) -> None:
        self._hosts, self._session_s = ensemble.hosts, session_s
        self._session = ZkSession(
            ensemble,
            session_s,
            login=login,
            session_file=session_file,
            on_connected=self._connected,
            on_lost=self._lost,
        )
        self._wishes: dict[str, bytes | None] = {}
        self._standing: set[str] = set()
        self._listeners: dict[str, list[Listener]] = {}
        self._stale: set[str] = set()
        self._failures: dict[str, int] = {}
        self._contests: dict[str, tuple[float, int]] = {}
        self._lost_at: float | None = None
        self._wake = asyncio.Event()
        self._settled = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._warned = False
        self._ended = False

    def start(self) -> None:
        """Begins to connect, in the background; returns at once."""
        self._session.open()
        loop = asyncio.get_running_loop()
        self._lost_at = loop.time()
        self._task = loop.create_task(self._work(), name="zookeeper")
        loop.call_later(_FIRST_CONNECTION_S, self._warn_unless_connected)

    @property
    def connected(self) -> bool:
        return self._session.connected

    def keep(self, path: str, data: bytes) -> None:
        """From now on an ephemeral znode of ours must stand at `path` with exactly this data, whatever stood there before."""
        if self._wishes.get(path) != data:
            self._wishes[path] = data
            self._look_at((path,))

    async def drop(self, path: str, deadline_s: float = 3.0) -> bool:
        """From now on our znode must not be at `path`, nor what an earlier process of ours left there. Returns True when
        ZooKeeper confirmed it; False when it cannot be reached now: it is removed as soon as it can, or ends with its session.
        """
        self._wishes[path] = None
        self._look_at((path,))
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        while self._unconfirmed(path) and self.connected and loop.time() < deadline:
            self._settled.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._settled.wait(), max(0.0, deadline - loop.time()))
        return path not in self._wishes

    def _unconfirmed(self, path: str) -> bool:
        return path in self._wishes and self._wishes[path] is None

    def stands(self, path: str) -> bool:
        """ZooKeeper confirmed our znode, and since then neither said otherwise nor was away for longer than the session lasts."""
        if path not in self._standing or self._wishes.get(path) is None:
            return False
        return self.connected or (self._lost_at is not None and asyncio.get_running_loop().time() - self._lost_at < self._session_s)

    def follow(self, path: str, listener: Listener) -> Callable[[], None]:
        """Calls `listener` with the znode's data (None: there is none) as soon as it is known and at every change after.

        The same content may be told twice, and of quick changes only the last. Returns what ends it.
        """
        self._listeners.setdefault(path, []).append(listener)
        self._look_at((path,))
        return lambda: self._unfollow(path, listener)

    def _unfollow(self, path: str, listener: Listener) -> None:
        listeners = self._listeners.get(path, [])
        if listener in listeners:
            listeners.remove(listener)
        if not listeners:
            self._listeners.pop(path, None)

    async def get(self, path: str) -> bytes | None:
        """A znode's data, or None; raises ZooKeeperError."""
        found = await self._session.read(path, _REQUEST_S)
        return None if found is None else found.data

    async def children(self, path: str) -> list[str] | None:
        """The names of the znodes below, sorted; None where there is none at `path`; raises ZooKeeperError."""
        found = await self._session.children(path, _REQUEST_S)
        return None if found is None else sorted(found)

    async def close(self, deadline_s: float = 3.0) -> None:
        """Ends the session: our znodes go at once. Never takes longer than the deadline."""
        self.abandon()
        if self._task is not None:
            await asyncio.wait({self._task}, timeout=deadline_s)
        await self._session.close(deadline_s)
        self._settled.set()

    def abandon(self) -> None:
        """Leaves the session as it is, for the next process to take up: nothing more is done to any znode."""
        self._ended = True  # `wait_for` before Python 3.12 may lose a cancellation that meets an answer
        if self._task is not None:
            self._task.cancel()

    def _connected(self, new_session: bool) -> None:
        if new_session:
            self._standing.clear()
        if self._warned or self._lost_at is None:
            log.info("zookeeper_back", ensemble=self._hosts, new_session=new_session)
        else:
            log.info("zookeeper_connected", ensemble=self._hosts, new_session=new_session)
        self._warned, self._lost_at = False, None
        self._failures.clear()
        self._look_at((*self._wishes, *self._listeners))

    def _lost(self) -> None:
        self._lost_at = asyncio.get_running_loop().time()
        if not self._warned:
            self._warned = True
            log.warning("zookeeper_lost", ensemble=self._hosts, session_s=self._session_s)
        self._settled.set()

    def _warn_unless_connected(self) -> None:
        if self._lost_at is not None and not self._warned and self._task is not None and not self._task.done():
            self._warned = True
            if self._session.refused:
                return  # which is told by itself
            log.warning("zookeeper_unreachable", ensemble=self._hosts, after_s=_FIRST_CONNECTION_S)

    def _look_at(self, paths: Iterable[str]) -> None:
        self._stale.update(paths)
        self._wake.set()

    async def _work(self) -> None:
        while not self._ended:
            await self._wake.wait()
            self._wake.clear()
            for path in sorted(self._stale):
                if self.connected and not self._ended and not self._held_back(path):
                    await self._settle(path)
            self._settled.set()

    async def _settle(self, path: str) -> None:
        """Makes `path` as it is wanted and tells its listeners; a failure is tried again later, or when the connection is back."""
        self._stale.discard(path)  # before, so that a change on the way counts
        try:
            content = await self._arrange(path)
            self._failures.pop(path, None)
            for listener in tuple(self._listeners.get(path, ())):
                listener(content)
        except ZooKeeperError as error:
            self._stale.add(path)
            self._try_later(path, str(error))
        except Exception as error:  # noqa: BLE001 - a defect in one listener must not end the upkeep of everything else
            log.error("zookeeper_upkeep_failed", path=path, error=f"{type(error).__name__}: {error}")

    def _try_later(self, path: str, error: str) -> None:
        if not self.connected:
            return  # `_connected` looks at everything again
        self._failures[path] = failures = self._failures.get(path, 0) + 1
        if failures == 1:
            log.warning("zookeeper_request_failed", path=path, error=error)
        delay_s = _RETRY.delay_s(failures, random.random())  # noqa: S311 - jitter
        asyncio.get_running_loop().call_later(delay_s, self._wake.set)

    async def _arrange(self, path: str) -> bytes | None:
        """One look at `path`, leaving a watch, with what it takes to make it as it is wanted. Returns what stands there."""
        wish = self._wishes.get(path)
        if self._unconfirmed(path):
            self._standing.discard(path)
            await self._session.delete(path, _REQUEST_S)
            if self._unconfirmed(path):
                del self._wishes[path]
        if wish is not None:
            await self._raise(path, wish)
        elif path not in self._listeners:
            return None
        found = await self._session.read(path, _REQUEST_S, lambda: self._look_at((path,)))
        if wish is not None:
            if found is None or not found.mine or found.data != wish:
                raise ZooKeeperError(f"{path} was changed by somebody else while it was made")
            self._standing.add(path)
        return None if found is None else found.data

    async def _raise(self, path: str, data: bytes) -> None:
        """Makes the znode ours. One that is there already may be our own, or an earlier process's that ZooKeeper still holds."""
        stood = path in self._standing
        if not await self._session.create(path, data, _REQUEST_S):
            found = await self._session.read(path, _REQUEST_S)
            if found is not None and found.mine:
                if found.data != data:
                    await self._session.write(path, data, found.version, _REQUEST_S)
                return
            log.info("znode_of_another_session_replaced", path=path)
            await self._session.delete(path, _REQUEST_S)
            await self._session.create(path, data, _REQUEST_S)
        log.info("znode_created", path=path)
        if stood:
            self._contested(path)

    def _contested(self, path: str) -> None:
        """Somebody took away a znode of ours that stood. It is made again at once, but a second time within a minute only
        after a pause: two owners of one path must not chase each other."""
        now = asyncio.get_running_loop().time()
        last, times = self._contests.get(path, (0.0, 0))
        times = times + 1 if now - last < _CONTEST_WINDOW_S else 1
        self._contests[path] = (now, times)
        log.warning("znode_was_taken_away", path=path, times=times)

    def _held_back(self, path: str) -> bool:
        last, times = self._contests.get(path, (0.0, 0))
        wait_s = last + _RETRY.delay_s(times) - asyncio.get_running_loop().time()
        if wait_s <= 0 or self._wishes.get(path) is None:
            return False
        asyncio.get_running_loop().call_later(wait_s, self._wake.set)
        return True
