"""HTTP as bytes on a socket: for requests that no well-behaved client sends."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any

PATIENCE_S = 30.0


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    pieces: list[bytes] = field(default_factory=list)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class RawHttp:
    """One connection. `send` sends bytes as they are, `answer` reads one response, `end` waits for the server to close."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    @classmethod
    async def connect(cls, port: int, host: str = "127.0.0.1") -> RawHttp:
        return cls(*await asyncio.open_connection(host, port))

    async def send(self, data: bytes) -> None:
        self._writer.write(data)
        await self._writer.drain()

    async def ask(self, method: str, target: str, *headers: str, body: bytes = b"", host: str = "127.0.0.1") -> Answer:
        lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
        if body or method == "POST":
            lines.append(f"Content-Length: {len(body)}")
        await self.send("\r\n".join(lines).encode("utf-8", "surrogateescape") + b"\r\n\r\n" + body)
        return await self.answer(bodyless=method == "HEAD")

    async def answer(self, *, bodyless: bool = False) -> Answer:
        return await asyncio.wait_for(self._answer(bodyless), PATIENCE_S)

    async def _answer(self, bodyless: bool) -> Answer:
        status, headers = await self.head()
        if bodyless or status in (204, 304):
            return Answer(status, headers, b"")
        if headers.get("transfer-encoding") == "chunked":
            pieces = [piece async for piece in self._chunks()]
            return Answer(status, headers, b"".join(pieces), pieces)
        return Answer(status, headers, await self._reader.readexactly(int(headers["content-length"])))

    async def head(self) -> tuple[int, dict[str, str]]:
        raw = await asyncio.wait_for(self._reader.readuntil(b"\r\n\r\n"), PATIENCE_S)
        first, *rest = raw.decode().removesuffix("\r\n\r\n").split("\r\n")
        headers = {}
        for line in rest:
            name, _, value = line.partition(":")
            headers[name.strip().lower()] = value.strip()
        return int(first.split(" ")[1]), headers

    async def chunk(self) -> bytes:
        """One piece of a chunked body; empty at its end."""
        size = int(await asyncio.wait_for(self._reader.readuntil(b"\r\n"), PATIENCE_S), 16)
        return (await self._reader.readexactly(size + 2))[:-2]

    async def _chunks(self) -> Any:
        while piece := await self.chunk():
            yield piece

    async def end(self) -> bytes:
        """What comes until the server closes."""
        try:
            return await asyncio.wait_for(self._reader.read(-1), PATIENCE_S)
        except ConnectionError:
            return b""

    async def close(self) -> None:
        self._writer.close()
        try:
            await self._writer.wait_closed()
        except ConnectionError:
            return
