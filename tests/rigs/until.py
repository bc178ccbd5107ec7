"""Waiting in tests for what can only be polled: generous in time, quick to see."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

PATIENCE_S = 60.0


async def until(condition: Callable[[], object | Awaitable[object]], what: str, patience_s: float = PATIENCE_S) -> None:
    """Returns when `condition` (plain or a coroutine function) holds; after `patience_s` the test fails with `what`."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + patience_s
    while True:
        found = condition()
        if isinstance(found, Awaitable):
            found = await found
        if found:
            return
        if loop.time() > deadline:
            raise AssertionError(f"not within {patience_s:g} s: {what}")
        await asyncio.sleep(0.02)
