"""The fleet's view, published: built when somebody looks, at most twenty times a second, and waited for without polling.

A change of the list of READY instances, and what an order changed, is to be seen at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tarn_am.core.model import FleetView
from tarn_common.clock import Clock

SHOW_S = 0.05


class Signal:
    """Wakes all who wait, each time it is fired."""

    def __init__(self) -> None:
        self._next: asyncio.Future[None] | None = None

    async def wait(self) -> None:
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._next)

    def fire(self) -> None:
        if self._next is not None:
            self._next.set_result(None)
            self._next = None


class Publication:
    """`build` makes a view of the state as it is now."""

    def __init__(self, build: Callable[[], FleetView], clock: Clock) -> None:
        self._build, self._clock = build, clock
        self._view: FleetView | None = None
        self._built_at = 0.0
        self._stale = True
        self._aged = False
        self._timer: asyncio.TimerHandle | None = None
        self._changed, self._listed = Signal(), Signal()

    def view(self) -> FleetView:
        if self._view is None or self._stale or self._aged:
            self._view, self._built_at = self._build(), self._clock.monotonic()
            self._stale = self._aged = False
        return self._view

    def turned(self) -> None:
        """The loop turned, though nothing changed: the next look tells so, and nobody is woken."""
        self._aged = True

    def soon(self) -> None:
        """Something changed. While nobody has looked since the last change there is nobody to wake."""
        if self._timer is None and not self._stale:
            delay_s = max(0.0, self._built_at + SHOW_S - self._clock.monotonic())
            self._timer = asyncio.get_running_loop().call_later(delay_s, self.now)

    def now(self, *, listing: bool = False) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stale = True
        self._changed.fire()
        if listing:
            self._listed.fire()

    async def changed(self, version: str) -> FleetView:
        while (view := self.view()).version == version:
            await self._changed.wait()
        return view

    async def listing_changed(self, listing_version: str) -> FleetView:
        while (view := self.view()).listing_version == listing_version:
            await self._listed.wait()
        return view

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
