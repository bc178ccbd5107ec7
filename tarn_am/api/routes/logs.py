"""`GET /logs/<container id>`: an instance's log as it grows, read from its agent no faster than the client takes it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from aiohttp import web

from tarn_am.api.answers import COMMON, TEXT, ApiError
from tarn_am.api.call import Access, Call, Route
from tarn_am.api.routes.orders import fleet_error, instance_named
from tarn_am.ports import BadRequest, CommandFailed, Fleet, NotConnected, UnknownInstance

SOURCES = ("triton", "agent", "supervisord")
MAX_LINES = 10_000
# How long an agent may take to refuse before the answer begins: after that an error can only be a last line.
_REFUSAL_S = 1.0
_REFUSALS = (UnknownInstance, NotConnected, CommandFailed, BadRequest)


class Logs:
    """The route. When the client goes, the tail at the agent is ended."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def routes(self) -> list[Route]:
        return [Route("GET", "/logs/", Access.READ, self.get, ("source", "lines", "follow"))]

    async def get(self, call: Call) -> web.StreamResponse:
        instance = instance_named(call.tail)
        source, lines, follow = _source(call), _lines(call), _follow(call)
        with call.connection.cancelled_when_gone():
            try:
                tail = self._fleet.tail(instance, source, lines, follow)
            except _REFUSALS as error:
                raise fleet_error(error) from error
            first = asyncio.ensure_future(_next(tail))
            try:
                return await _stream(call, tail, first)
            finally:
                await _end(tail, first)


async def _stream(call: Call, tail: AsyncIterator[str], first: asyncio.Future[str | None]) -> web.StreamResponse:
    await asyncio.wait({first}, timeout=_REFUSAL_S)
    if first.done() and isinstance(error := first.exception(), _REFUSALS):
        raise fleet_error(error) from error
    response = web.StreamResponse(headers={**COMMON, "Content-Type": TEXT})
    response.enable_chunked_encoding()
    await response.prepare(call.request)
    if call.request.method == "HEAD":
        return response
    try:
        line = await first
        while line is not None:
            await response.write(line.rstrip("\n").encode("utf-8", "replace") + b"\n")
            line = await _next(tail)
    except _REFUSALS as error:
        await response.write(f"tarn: the log ends here: {error}\n".encode("utf-8", "replace"))
    await response.write_eof()
    return response


async def _next(tail: AsyncIterator[str]) -> str | None:
    try:
        return await tail.__anext__()
    except StopAsyncIteration:
        return None


async def _end(tail: AsyncIterator[str], first: asyncio.Future[str | None]) -> None:
    """Cancels what waits for a line, then closes the generator, so that its own clean-up has run when this returns."""
    first.cancel()
    await asyncio.wait({first})
    close = getattr(tail, "aclose", None)
    if close is not None:
        await close()


def _source(call: Call) -> str:
    source = call.query.get("source", "triton")
    if source not in SOURCES:
        raise ApiError(400, f"source={source[:40]!a} is not a log", f"give one of {', '.join(SOURCES)}")
    return source


def _lines(call: Call) -> int:
    text = call.query.get("lines", "100")
    if not (text.isascii() and text.isdigit() and len(text) < 7 and int(text) <= MAX_LINES):
        raise ApiError(400, f"lines={text[:40]!a} is not a number of lines", f"give 0 to {MAX_LINES}")
    return int(text)


def _follow(call: Call) -> bool:
    text = call.query.get("follow", "false")
    if text not in ("true", "false"):
        raise ApiError(400, f"follow={text[:40]!a} is not true or false", "give follow=true or follow=false")
    return text == "true"
