"""Waiting in tests for what can only be polled: generous in time, quick to see."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE_S = 60.0
_PAUSE_S = 0.02


async def eventually(
    condition: Callable[[], object | Awaitable[object]], what: str = "the condition holds", deadline_s: float = PATIENCE_S
) -> None:
    """Returns when `condition` (plain or a coroutine function) holds; after `deadline_s` the test fails, saying `what` was awaited."""
    loop = asyncio.get_running_loop()
    end = loop.time() + deadline_s
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        if loop.time() > end:
            raise AssertionError(f"not within {deadline_s:g} s: {what}")
        await asyncio.sleep(_PAUSE_S)
