"""`GET /instances`: whom clients may talk to, as text or JSON, at once or when it changes.

Rendered once for a list, then served as the same bytes. `X-TARN-Version` is what `?watch=` waits to differ from;
`X-TARN-Complete: false` says that an earlier AM's instances are still being found again, so that nobody takes the list for
all there is; such a list is also what a watcher hears the end of.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
from dataclasses import dataclass

from aiohttp import web

from tarn_am.api import views
from tarn_am.api.answers import COMMON, JSON, TEXT, ApiError, dump
from tarn_am.api.call import Access, Call, Route
from tarn_am.core.model import FleetView
from tarn_am.ports import Fleet

MAX_WAIT_S = 300.0
DEFAULT_WAIT_S = 30.0


@dataclass(frozen=True)
class Rendered:
    view: FleetView
    body: bytes
    headers: dict[str, str]


class Listing:
    """The route, with the last rendering of each form. `max_waiting` long polls at a time, so that some connections stay free."""

    def __init__(self, fleet: Fleet, max_waiting: int) -> None:
        self._fleet, self._max_waiting = fleet, max_waiting
        self.waiting = 0
        self._rendered: dict[bool, Rendered] = {}

    def routes(self) -> list[Route]:
        return [Route("GET", "/instances", Access.READ, self.get, ("watch", "timeout"))]

    async def get(self, call: Call) -> web.StreamResponse:
        view = await self._awaited(call) if call.query else self._fleet.view()
        as_json = _wants_json(call.request.headers.get("Accept", ""))
        rendered = self._render(view, as_json)
        if call.request.headers.get("If-None-Match") == rendered.headers["ETag"]:
            return web.Response(status=304, headers=rendered.headers)
        return web.Response(body=rendered.body, headers=rendered.headers)

    def _render(self, view: FleetView, as_json: bool) -> Rendered:
        found = self._rendered.get(as_json)
        if found is None or found.view is not view:
            found = self._rendered[as_json] = _rendered(view, as_json)
        return found

    async def _awaited(self, call: Call) -> FleetView:
        known = call.query.get("watch")
        if known is None:
            raise ApiError(400, "timeout is given without watch", "add watch=<the X-TARN-Version of the list that you have>")
        wait_s = _seconds(call.query.get("timeout"))
        view = self._fleet.view()
        if view.listing_version != known or not wait_s:
            return view
        if self.waiting >= self._max_waiting:
            raise ApiError(
                503, f"{self.waiting} requests wait for a change already", "ask again later, or without watch", {"Retry-After": "5"}
            )
        self.waiting += 1
        try:
            with call.connection.cancelled_when_gone():
                return await asyncio.wait_for(self._changed(known, views.is_complete(view)), wait_s)
        except asyncio.TimeoutError:
            return self._fleet.view()
        finally:
            self.waiting -= 1

    async def _changed(self, known: str, complete: bool) -> FleetView:
        if complete:
            return await self._fleet.listing_changed(known)
        view = self._fleet.view()
        while view.listing_version == known and not views.is_complete(view):
            view = await self._fleet.changed(view.version)
        return view


def _rendered(view: FleetView, as_json: bool) -> Rendered:
    body = dump(views.instances_json(view)) if as_json else views.instances_text(view)
    complete = "true" if views.is_complete(view) else "false"
    digest = hashlib.blake2b(body + complete.encode(), digest_size=12).hexdigest()
    headers = {
        **COMMON,
        "Content-Type": JSON if as_json else TEXT,
        "Cache-Control": "no-cache",
        "ETag": f'"{digest}"',
        "Vary": "Accept",
        "X-TARN-Complete": complete,
        "X-TARN-Version": view.listing_version,
    }
    return Rendered(view, body, headers)


def _seconds(text: str | None) -> float:
    if text is None:
        return DEFAULT_WAIT_S
    try:
        seconds = float(text) if text.isascii() else math.nan
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= MAX_WAIT_S:
        raise ApiError(400, f"timeout={text[:40]!a} is not a number of seconds", f"give 0 to {MAX_WAIT_S:.0f}")
    return seconds


def _wants_json(accept: str) -> bool:
    """JSON when it is asked for, text when it is not or text is named first."""
    if "application/json" not in accept:
        return False
    kinds = [part.partition(";")[0].strip() for part in accept.split(",")]
    return "application/json" in kinds and ("text/plain" not in kinds or kinds.index("application/json") < kinds.index("text/plain"))
