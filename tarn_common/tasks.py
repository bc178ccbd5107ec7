"""Named, guarded tasks: a daemon is a set of them, and the first one that ends ends the daemon with its cause."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

log = structlog.get_logger(__name__)


class TaskEnded(RuntimeError):
    """A task that should run for the life of the daemon came to its end; the cause is chained."""


class TaskGroup:
    """Long tasks and short jobs of one daemon.

    `watch` tasks are expected to run until `close`; when one ends, `wait` raises. `spawn` jobs may end; only an exception
    that escapes one is reported, by `wait` too, because nobody else would hear of it.
    """

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._ended: asyncio.Future[BaseException] | None = None
        self._closing = False

    def watch(self, name: str, body: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self._start(name, body, long=True)

    def spawn(self, name: str, body: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        return self._start(name, body, long=False)

    def _start(self, name: str, body: Coroutine[Any, Any, Any], *, long: bool) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(body, name=name)
        self._tasks.add(task)
        task.add_done_callback(lambda done: self._on_done(done, long))
        return task

    def _on_done(self, task: asyncio.Task[Any], long: bool) -> None:
        self._tasks.discard(task)
        if self._closing or task.cancelled():
            return
        error = task.exception()
        if error is None and not long:
            return
        cause = TaskEnded(f"task {task.get_name()} ended" + (f": {error}" if error else ""))
        cause.__cause__ = error
        future = self._future()
        if not future.done():
            future.set_result(cause)

    def _future(self) -> asyncio.Future[BaseException]:
        if self._ended is None:
            self._ended = asyncio.get_running_loop().create_future()
        return self._ended

    async def wait(self) -> None:
        """Until a watched task ends or a job fails; raises TaskEnded."""
        raise await asyncio.shield(self._future())

    async def close(self, deadline_s: float = 5.0) -> None:
        """Cancels what runs and waits for it, at most `deadline_s`."""
        self._closing = True
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        if tasks:
            _, pending = await asyncio.wait(tasks, timeout=deadline_s)
            for task in pending:
                log.warning("task_would_not_stop", task=task.get_name(), deadline_s=deadline_s)
