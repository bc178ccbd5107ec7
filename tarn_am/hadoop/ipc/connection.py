"""One socket to one daemon, and the calls in flight on it.

Answers find their call by id, in whatever order they come. A call that is cancelled or too late is forgotten, and the others
go on. Nothing here waits without a deadline: opening has one, every call has one, and a connection at rest closes itself.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import structlog

from tarn_am.hadoop.errors import CallLost, CallTimeout, HadoopError, ProtocolError, Unreachable
from tarn_am.hadoop.ipc.frames import Reply
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.ipc.session import Session, SessionState
from tarn_am.hadoop.protocols import RpcProtocol
from tarn_common.endpoint import HostPort

log = structlog.get_logger(__name__)
_READ = 1 << 16


@dataclass(frozen=True)
class Limits:
    """`open_s` for the TCP connection and the SASL exchange together; `call_s` for a call unless it says otherwise.

    While calls are in flight a ping goes out every `ping_s`, so that a dead path is noticed by TCP; `idle_s` after the last
    call the connection closes, as Hadoop's own clients do.
    """

    open_s: float = 20.0
    call_s: float = 60.0
    ping_s: float = 30.0
    idle_s: float = 10.0
    max_bytes: int = 128 << 20


class Connection:
    """Made by `open`. `closed` tells whether new calls are possible; `on_close` is then called once."""

    def __init__(
        self,
        address: HostPort,
        session: Session,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        limits: Limits,
        on_close: Callable[[Connection], None],
    ) -> None:
        self.address = address
        self._session, self._reader, self._writer, self._limits, self._on_close = session, reader, writer, limits, on_close
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._highest_id = -1
        self._received_at = self._used_at = asyncio.get_running_loop().time()
        self._closed = False
        self._ending: HadoopError | None = None
        self._retired = False
        self._tasks: list[asyncio.Task[None]] = []

    @classmethod
    async def open(
        cls,
        address: HostPort,
        login: Login,
        protocol: RpcProtocol,
        client_id: bytes,
        nonce: Callable[[], str],
        limits: Limits,
        on_close: Callable[[Connection], None],
    ) -> Connection:
        """Raises Unreachable, AuthenticationError, NotHadoop, ProtocolError or the RemoteError of a refusal; each names the address."""
        writers: list[asyncio.StreamWriter] = []

        def session(names: Sequence[str]) -> Session:
            return Session(login, names, protocol, client_id, nonce, limit=limits.max_bytes)

        try:
            opened, reader = await asyncio.wait_for(_connect(address, session, login.principal, writers), limits.open_s)
        except asyncio.TimeoutError as error:
            stage = "accepted the connection but did not finish the greeting" if writers else "did not accept the connection"
            _abort(writers)
            raise Unreachable(f"{address} {stage} within {limits.open_s:g} s") from error
        except OSError as error:
            _abort(writers)
            raise Unreachable(f"{address} cannot be reached: {_why(error)}") from error
        except BaseException:
            _abort(writers)
            raise
        return cls(address, opened, reader, writers[0], limits, on_close)._run()

    def _run(self) -> Connection:
        for name, body in (("read", self._read_loop()), ("watch", self._watch_loop())):
            self._tasks.append(asyncio.create_task(body, name=f"hadoop-{name} {self.address}"))
        log.debug("hadoop_connected", address=str(self.address), method=self._session.method, protected=self._session.layer is not None)
        return self

    @property
    def closed(self) -> bool:
        return self._closed or self._retired

    async def call(self, call_id: int, retry: int, protocol: RpcProtocol, method: str, request: bytes, deadline_s: float) -> bytes:
        """The response's bytes. Raises RemoteError, CallLost, CallTimeout, TooLarge; Unreachable when nothing was sent."""
        if self.closed:
            raise self._why_closed()
        began = asyncio.get_running_loop().time()
        self._session.call(call_id, retry, protocol, method, request)
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[call_id], self._used_at = future, began
        self._highest_id = max(self._highest_id, call_id)
        try:
            self._flush()
            reply = await asyncio.wait_for(future, deadline_s)
        except asyncio.TimeoutError as error:
            # Nothing at all came meanwhile: no new calls on this connection; those in flight keep their chance.
            self._retired = self._retired or self._received_at < began
            raise CallTimeout(f"{self.address} did not answer {method} within {deadline_s:g} s") from error
        finally:
            self._forget(call_id)
        if reply.error is not None:
            raise reply.error.at(self.address)
        return reply.body

    def _why_closed(self) -> HadoopError:
        """What ended the connection, if it says more than that it ended: nothing was sent on it."""
        if self._ending is None or isinstance(self._ending, CallLost):
            return Unreachable(f"the connection to {self.address} has closed")
        return self._ending.again()

    def _flush(self) -> None:
        data = self._session.take()
        if data:
            self._writer.write(data)

    def _forget(self, call_id: int) -> None:
        self._waiting.pop(call_id, None)
        self._used_at = asyncio.get_running_loop().time()
        if self._retired and not self._waiting:
            self._end(CallLost(f"the connection to {self.address} was given up"))

    async def _read_loop(self) -> None:
        try:
            while True:
                data = await self._reader.read(_READ)
                if not data:
                    break
                self._received_at = asyncio.get_running_loop().time()
                for reply in self._session.receive(data):
                    self._deliver(reply)
            self._end(_lost(self.address, self._session.ended()))
        except HadoopError as error:
            self._end(error.at(self.address))
        except OSError as error:
            self._end(CallLost(f"the connection to {self.address} broke: {_why(error)}"))
        except Exception as error:  # noqa: BLE001 - whatever a peer's bytes provoke ends this connection; its calls must not wait on
            self._end(ProtocolError(f"{self.address} sent what this client cannot digest: {error!r}"))

    def _deliver(self, reply: Reply) -> None:
        future = self._waiting.get(reply.call_id)
        if future is not None:
            if not future.done():
                future.set_result(reply)
        elif not 0 <= reply.call_id <= self._highest_id:
            raise ProtocolError(f"answered the call {reply.call_id}, which was never made")

    async def _watch_loop(self) -> None:
        """Pings while calls wait, closes after rest."""
        loop = asyncio.get_running_loop()
        while True:
            rest_s = self._limits.ping_s if self._waiting else max(0.05, self._used_at + self._limits.idle_s - loop.time())
            await asyncio.sleep(min(self._limits.ping_s, rest_s))
            if self._waiting:
                self._session.ping()
                self._flush()
            elif loop.time() >= self._used_at + self._limits.idle_s:
                self._end(CallLost(f"the connection to {self.address} was at rest and is closed"))
                return

    def _end(self, error: HadoopError) -> None:
        """Once: the calls in flight fail with `error`, the socket closes, the owner hears of it."""
        if self._closed:
            return
        self._closed, self._ending = True, error
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(error.again())
        for task in self._tasks:
            if task is not _current_task():
                task.cancel()
        self._writer.transport.abort()
        log.debug("hadoop_disconnected", address=str(self.address), lost=len(self._waiting), reason=str(error))
        self._on_close(self)

    async def close(self) -> None:
        """Ends the connection; calls in flight are lost."""
        self._end(CallLost(f"the connection to {self.address} was closed here"))
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _connect(
    address: HostPort, make: Callable[[Sequence[str]], Session], principal: str, writers: list[asyncio.StreamWriter]
) -> tuple[Session, asyncio.StreamReader]:
    """TCP, then the greeting until the session is open. The writer is left in `writers` so that the caller can close it."""
    reader, writer = await asyncio.open_connection(address.host, address.port, happy_eyeballs_delay=0.25)
    writers.append(writer)
    _keep_alive(writer)
    session = make(await _names(address, writer, reverse="_HOST" in principal))
    session.begin()
    writer.write(session.take())
    while session.state is not SessionState.OPEN:
        data = await reader.read(_READ)
        try:
            if not data:
                raise session.ended() or Unreachable("closed the connection during the greeting")
            await _greet(session, data, may_wait=bool(principal))
        except HadoopError as error:
            raise error.at(address) from error
        writer.write(session.take())
    return session, reader


async def _names(address: HostPort, writer: asyncio.StreamWriter, *, reverse: bool) -> list[str]:
    """What the host is called: as configured, and by the name service for its address, which Kerberos principals follow."""
    names = [address.host.lower()]
    if reverse:
        try:
            peer = writer.get_extra_info("peername")
            canonical, _ = await asyncio.get_running_loop().getnameinfo(peer, socket.NI_NAMEREQD)
        except OSError:
            return names
        if canonical.lower() not in names:
            names.append(canonical.lower())
    return names


async def _greet(session: Session, data: bytes, *, may_wait: bool) -> None:
    """In a thread where Kerberos may have to wait for its KDC."""

    def greet() -> None:
        for reply in session.receive(data):
            raise ProtocolError(f"answered the call {reply.call_id}, which was never made")

    if may_wait:
        await asyncio.get_running_loop().run_in_executor(None, greet)
    else:
        greet()


def _keep_alive(writer: asyncio.StreamWriter) -> None:
    connected = writer.get_extra_info("socket")
    if connected is not None and connected.family in (socket.AF_INET, socket.AF_INET6):
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _abort(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.transport.abort()


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:
        return None


def _why(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno and not isinstance(error, socket.gaierror) else error.strerror or str(error)


def _lost(address: HostPort, torn: HadoopError | None) -> HadoopError:
    return (torn or CallLost("closed the connection")).at(address)
