"""The API's TCP port, so that no number of connections and no bytes on them disturb anybody else.

Guarantees: at most `limit` connections; when they are used up, the one that has been silent longest makes room, and a newcomer
is closed only when every single one is in the middle of a request. A connection that has begun no full request header within
`header_s` is closed, one that idles between requests after `idle_s`. Long polls are requests, and are not cut. Whatever cannot
be parsed is answered with our JSON error and closed. Each of these is in the log once a minute with a count.
"""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

import structlog
from aiohttp import web
from aiohttp.web_request import BaseRequest

from tarn_am.api.answers import ApiError
from tarn_am.api.repeats import Repeats
from tarn_common.clock import Clock
from tarn_common.endpoint import HostPort

log = structlog.get_logger(__name__)

Handle = Callable[[BaseRequest], Awaitable[web.StreamResponse]]
MAX_BODY = 64 * 1024
_SWEEP_S = 1.0
_SENTENCES = {
    "full": ("http_connections_full", "more connections than the limit: the ones silent longest were closed for new ones"),
    "refused": ("http_connections_refused", "every connection was in the middle of a request: new ones were closed"),
    "slow": ("http_header_late", "connections without a full request header in time were closed"),
    "garbage": ("http_not_http", "what came in was no HTTP request"),
}


class Connection(web.RequestHandler):
    """One connection: aiohttp's, which tells the listener what it is doing."""

    __slots__ = ("_following", "_listener")

    def __init__(self, server: web.Server, listener: Listener) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            access_log=None,  # type: ignore[arg-type]  # None is how aiohttp is told to keep none
            keepalive_timeout=listener.idle_s,
            auto_decompress=False,
            max_line_size=8190,
            max_field_size=8190,
            lingering_time=1.0,
        )
        self._listener = listener
        self._following: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._listener.opened(self)

    def data_received(self, data: bytes) -> None:
        self._listener.heard(self)
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._listener.closed(self)
        if self._following is not None:
            self._following.cancel()
        super().connection_lost(exc)

    def handle_error(
        self, request: BaseRequest, status: int = 500, exc: BaseException | None = None, message: str | None = None
    ) -> web.StreamResponse:
        """What aiohttp could not parse. Our handler lets no exception out, so nothing else comes here."""
        if not isinstance(exc, ConnectionError):
            self._listener.note("garbage")
        if request.writer.output_size > 0:
            raise ConnectionError("the answer has begun")
        error = ApiError(400, "this is not an HTTP request that can be read", "speak plain HTTP/1.1; headers of at most 8 KiB")
        answer = error.answer()
        answer.force_close()
        return answer

    @contextmanager
    def cancelled_when_gone(self) -> Iterator[None]:
        """In here the running task is cancelled when the client goes: for what waits or streams, never for an order."""
        self._following = asyncio.current_task()
        try:
            yield
        finally:
            self._following = None

    def cancel_following(self) -> None:
        if self._following is not None:
            self._following.cancel()

    def cut(self) -> None:
        """Ends the connection now, with whatever is unsent."""
        if isinstance(self.transport, asyncio.Transport):
            self.transport.abort()


class _Refusal(asyncio.Protocol):
    """A connection that there is no room for."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.abort()


class Listener:
    """Opens the port, keeps the connections' accounts, closes all of it again."""

    def __init__(
        self, handle: Handle, clock: Clock, limit: int = 1024, header_s: float = 10.0, idle_s: float = 75.0,
        each_second: Callable[[float], None] = lambda now: None,
    ) -> None:  # fmt: skip
        self._handle, self._clock, self._each_second = handle, clock, each_second
        self.limit, self.header_s, self.idle_s = limit, header_s, idle_s
        self._silent: dict[Connection, float] = {}  # no full header yet, and since when; the oldest first
        self._idle: dict[Connection, float] = {}  # between two requests; the oldest first
        self._busy: set[Connection] = set()
        self._repeats = Repeats()
        self._server: web.Server | None = None
        self._port: asyncio.Server | None = None
        self._sweeper: asyncio.TimerHandle | None = None

    async def start(self, bind: str, port: int) -> HostPort:
        """Raises OSError when the port cannot be had."""
        self.limit = min(self.limit, _affordable())
        self._server = web.Server(self._answer, request_factory=_request)
        loop = asyncio.get_running_loop()
        self._port = await loop.create_server(self._connection, bind, port, backlog=1024, reuse_address=True)
        self._sweeper = loop.call_later(_SWEEP_S, self._sweep)
        host, chosen = self._port.sockets[0].getsockname()[:2]
        return HostPort(host, chosen)

    async def close(self, deadline_s: float = 2.0) -> None:
        """No new connections; requests in hand have until the deadline, long polls and logs end now."""
        if self._sweeper is not None:
            self._sweeper.cancel()
        if self._port is None or self._server is None:
            return
        self._port.close()
        for connection in list(self._busy):
            connection.cancel_following()
        self._server.pre_shutdown()
        await self._server.shutdown(deadline_s)

    @property
    def connections(self) -> int:
        return len(self._silent) + len(self._idle) + len(self._busy)

    def opened(self, connection: Connection) -> None:
        self._silent[connection] = self._clock.monotonic()

    def heard(self, connection: Connection) -> None:
        """Bytes after a pause begin a header, which has its deadline."""
        if self._idle.pop(connection, None) is not None:
            self._silent[connection] = self._clock.monotonic()

    def closed(self, connection: Connection) -> None:
        self._silent.pop(connection, None)
        self._idle.pop(connection, None)
        self._busy.discard(connection)

    def note(self, what: str, now: float | None = None) -> None:
        if self._repeats.note(what, self._clock.monotonic() if now is None else now):
            _tell(what, 1)

    async def _answer(self, request: BaseRequest) -> web.StreamResponse:
        connection = request.protocol
        assert isinstance(connection, Connection)
        self._silent.pop(connection, None)
        self._idle.pop(connection, None)
        self._busy.add(connection)
        try:
            return await self._handle(request)
        finally:
            if connection in self._busy:
                self._busy.discard(connection)
                self._idle[connection] = self._clock.monotonic()

    def _connection(self) -> asyncio.BaseProtocol:
        assert self._server is not None
        return Connection(self._server, self) if self._room() else _Refusal()

    def _room(self) -> bool:
        if self.connections < self.limit:
            return True
        oldest = next(iter(self._silent), None) or next(iter(self._idle), None)
        if oldest is None:
            self.note("refused")
            return False
        self.note("full")
        self._drop(oldest)
        return True

    def _drop(self, connection: Connection) -> None:
        self.closed(connection)
        connection.cut()

    def _sweep(self) -> None:
        now = self._clock.monotonic()
        late = [connection for connection, since in self._silent.items() if now - since >= self.header_s]
        for connection in late:
            self.note("slow", now)
            self._drop(connection)
        for what, count in self._repeats.due(now):
            _tell(what, count)
        self._each_second(now)
        self._sweeper = asyncio.get_running_loop().call_later(_SWEEP_S, self._sweep)


def _tell(what: str, count: int) -> None:
    event, sentence = _SENTENCES[what]
    log.warning(event, meaning=sentence, count=count)


def _request(message: object, payload: object, protocol: object, writer: object, task: object) -> BaseRequest:
    return BaseRequest(message, payload, protocol, writer, task, asyncio.get_running_loop(), client_max_size=MAX_BODY)  # type: ignore[arg-type]


def _affordable() -> int:
    """Half of the files that this process may open: the rest is the agents' and the cluster's."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1 << 20 if soft == resource.RLIM_INFINITY else max(16, soft // 2)
