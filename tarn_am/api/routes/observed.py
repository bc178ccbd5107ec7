"""What is seen from outside: `/status`, `/health`, `/metrics`, `/config`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from aiohttp import web

from tarn_am.api import metrics, verdict, views
from tarn_am.api.answers import JSON, answer, dump, json_answer
from tarn_am.api.call import Access, Call, Route
from tarn_am.core.model import FleetView
from tarn_am.ports import Fleet
from tarn_am.settings import AmSettings
from tarn_common.clock import Clock

# A page of more instances than this is rendered by a thread, so that the loop, which is the fleet's too, turns on meanwhile.
LARGE = 50


class Observed:
    """The routes; `/status` is rendered once for a view."""

    def __init__(self, fleet: Fleet, settings: AmSettings, clock: Clock, page: metrics.Metrics) -> None:
        self._fleet, self._settings, self._clock, self._metrics = fleet, settings, clock, page
        self._seen: tuple[FleetView, bytes] | None = None

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/status", Access.READ, self.status),
            Route("GET", "/health", Access.OPEN, self.health),
            Route("GET", "/metrics", Access.SCRAPE, self.metrics, ("token",)),
            Route("GET", "/config", Access.READ, self.config),
        ]

    async def status(self, call: Call) -> web.StreamResponse:
        view = self._fleet.view()
        return answer(await _rendered(view, lambda: self._status(view)), JSON)

    def _status(self, view: FleetView) -> bytes:
        seen = self._seen
        if seen is None or seen[0] is not view:
            seen = self._seen = (view, dump(views.status(view)))
        return seen[1]

    async def health(self, call: Call) -> web.StreamResponse:
        """200 or 503. A stranger gets one word, for the reason may name machines and models."""
        view = self._fleet.view()
        found = verdict.health(view, self._clock.wall())
        shown: dict[str, object] = {"ok": found.ok, "reason": found.sentence if call.trusted else found.word}
        if call.trusted:
            shown |= {"ready": view.counts.ready, "wanted": view.counts.wanted, "min_instances": view.min_instances}
        return json_answer(shown, 200 if found.ok else 503)

    async def metrics(self, call: Call) -> web.StreamResponse:
        view, now = self._fleet.view(), self._clock.wall()
        return answer(await _rendered(view, lambda: self._metrics.page(view, now)), metrics.CONTENT_TYPE)

    async def config(self, call: Call) -> web.StreamResponse:
        return json_answer(views.config(self._settings))


async def _rendered(view: FleetView, render: Callable[[], bytes]) -> bytes:
    return await asyncio.to_thread(render) if len(view.instances) > LARGE else render()
