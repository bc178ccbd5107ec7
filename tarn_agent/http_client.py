"""HTTP/1.1 to one server on this machine, over TCP or a UNIX socket: Triton's control API and supervisord's XML-RPC.

On the event loop, without threads, so that a server that is stopped in the middle of an answer costs its caller the deadline
and nothing else. A deadline covers the whole exchange, the connecting included. What an answer may be is bounded.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any

HEAD_BYTES = 64 << 10
BODY_BYTES = 64 << 20

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Connect = Callable[[], Coroutine[Any, Any, Streams]]


class HttpError(Exception):
    """No answer, or none that is HTTP; the text says which. `connected` False: nobody listens there."""

    def __init__(self, text: str, *, connected: bool = True) -> None:
        super().__init__(text)
        self.connected = connected


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode(errors="replace")


def tcp(host: str, port: int) -> Connect:
    return lambda: asyncio.open_connection(host, port, limit=HEAD_BYTES)


def unix(path: str) -> Connect:
    return lambda: asyncio.open_unix_connection(path, limit=HEAD_BYTES)


class HttpClient:
    """One exchange at a time on one kept connection; callers that overlap wait for each other within their own deadlines."""

    def __init__(self, connect: Connect, headers: Mapping[str, str], *, keep: bool = True) -> None:
        self._connect, self._keep = connect, keep
        self._headers = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        self._streams: Streams | None = None
        self._turn = asyncio.Lock()
        self._closed = False

    async def ask(self, method: str, path: str, deadline_s: float, body: bytes = b"") -> Answer:
        """Raises HttpError, after `deadline_s` at the latest."""
        try:
            return await asyncio.wait_for(self._ask(method, path, body), deadline_s)
        except asyncio.TimeoutError as error:
            raise HttpError(f"no answer to {method} {path} within {deadline_s:g} s") from error

    async def _ask(self, method: str, path: str, body: bytes) -> Answer:
        async with self._turn:
            if self._streams is not None:
                with contextlib.suppress(_Closed):
                    return await self._exchange(method, path, body, self._streams)
                # The server had closed the kept connection before it read a byte of this: asked again on a new one.
            if self._closed:
                raise HttpError(f"the connection was closed before {method} {path} was answered", connected=False)
            try:
                streams = await self._connect()
            except OSError as error:
                raise HttpError(f"no connection for {method} {path}: {error.strerror or error}", connected=False) from error
            try:
                return await self._exchange(method, path, body, streams)
            except _Closed as error:
                raise HttpError(f"the connection ended before the answer to {method} {path}") from error

    async def _exchange(self, method: str, path: str, body: bytes, streams: Streams) -> Answer:
        """Leaves the connection kept after a whole answer, and closed after anything else, a cancellation included."""
        reader, writer = self._streams = streams
        whole = False
        try:
            keep = "keep-alive" if self._keep else "close"
            writer.write(
                f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: {keep}\r\n"
                f"{self._headers}Content-Length: {len(body)}\r\n\r\n".encode()
                + body
            )
            await writer.drain()
            answer, stays = await _read_answer(reader)
            whole = stays and self._keep
            return answer
        except OSError as error:
            raise _Closed from error
        except (ValueError, IndexError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            raise HttpError(f"the answer to {method} {path} is not HTTP, or broke off") from error
        finally:
            if not whole:
                self._drop()

    def close(self) -> None:
        """Ends the connection at once and for good: an exchange that is on its way fails, and so does every later one."""
        self._closed = True
        self._drop()

    def _drop(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None


class _Closed(Exception):
    """The connection ended before the first byte of an answer."""


async def _read_answer(reader: asyncio.StreamReader) -> tuple[Answer, bool]:
    """The answer, and whether the server keeps the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if not error.partial:
            raise _Closed from error
        raise
    first, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
    version, status = first.split(" ")[0], int(first.split(" ")[1])
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    stays = version == "HTTP/1.1" and headers.get("connection", "").lower() != "close"
    if headers.get("transfer-encoding", "").lower() == "chunked":
        return Answer(status, await _read_chunks(reader)), stays
    if "content-length" in headers:
        return Answer(status, await reader.readexactly(_bounded(int(headers["content-length"])))), stays
    return Answer(status, await _read_to_end(reader)), False


async def _read_chunks(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while size := int((await reader.readuntil(b"\r\n")).split(b";")[0], 16):
        body += await reader.readexactly(_bounded(size, len(body)))
        await reader.readexactly(2)
    while await reader.readuntil(b"\r\n") != b"\r\n":
        pass
    return bytes(body)


async def _read_to_end(reader: asyncio.StreamReader) -> bytes:
    body = bytearray()
    while piece := await reader.read(HEAD_BYTES):
        body += piece
        _bounded(0, len(body))
    return bytes(body)


def _bounded(size: int, before: int = 0) -> int:
    if size < 0 or before + size > BODY_BYTES:
        raise ValueError("the answer is longer than an answer may be")
    return size
