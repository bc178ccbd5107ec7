"""The copy itself: four pieces at a time, each tried until it succeeds, the whole given up when nothing moves.

Guarantees: a piece that fails or hangs is tried again with back-off and by a fresh thread; the thread that hangs is left
behind and cannot write any more. What ends a transfer: all done, a failure that time cannot mend, a file that is no longer
what was listed, or a silence longer than the stall limit. Cancelling stops the threads at their next piece of data.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, BinaryIO, TypeVar, cast

import structlog

from tarn_agent.core.model import FileStatus
from tarn_agent.core.plan import Piece, pieces
from tarn_agent.ports import StageError, Store
from tarn_agent.stores.bounded import Outcome
from tarn_agent.stores.hdfs_errors import Changed
from tarn_agent.stores.local_tree import Abandoned, LocalTree
from tarn_agent.stores.meter import Meter
from tarn_common.backoff import Backoff

log = structlog.get_logger(__name__)

T = TypeVar("T")
STREAMS = 4
BACKOFF = Backoff(first_s=0.25, limit_s=5.0)
PIECE_STALL_S = 60.0
_LOOK_S = 0.2
_STOP_S = 2.0


def in_thread(call: Callable[[], T]) -> asyncio.Future[T]:
    """The call in a daemon thread of its own. Cancelling the future leaves the thread behind."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(outcome: Outcome) -> None:
        if future.done():
            return
        if outcome.error is None:
            future.set_result(cast(T, outcome.value))
        else:
            future.set_exception(outcome.error)

    def ended(outcome: Outcome) -> None:
        try:
            loop.call_soon_threadsafe(settle, outcome)
        except RuntimeError:
            # The loop is closed: the thread was left behind, and nobody waits for it.
            return

    Outcome(call, ended)
    return future


class _Attempt:
    """One try at one piece, in one thread."""

    def __init__(self, meter: Meter, piece: Piece) -> None:
        self.stopped = threading.Event()
        self._meter, self.piece = meter, piece
        self.moved_at = meter.now()

    def on_bytes(self, count: int) -> None:
        if self.stopped.is_set():
            raise Abandoned
        self.moved_at = self._meter.now()
        self._meter.add(self, count, self.piece.file.path)


class _File:
    """A file that is being copied: which pieces' checksums are known."""

    def __init__(self, file: FileStatus) -> None:
        self.file, self.pieces = file, pieces(file)
        self.crcs: dict[int, int] = {}

    @property
    def complete(self) -> bool:
        return len(self.crcs) == len(self.pieces)


class Transfer:
    """`files` must have their directories in `tree`. One use."""

    def __init__(self, store: Store, tree: LocalTree, files: Sequence[FileStatus], meter: Meter, stall_s: float) -> None:
        self._store, self._tree, self._meter, self._stall_s = store, tree, meter, stall_s
        self._files = [_File(file) for file in files]
        self._jobs = deque((entry, piece) for entry in self._files for piece in (entry.pieces or (None,)))
        self._attempts: set[_Attempt] = set()
        self._threads: set[asyncio.Future[Any]] = set()
        self._checking = 0
        self._last_failure = ""

    async def run(self) -> None:
        """Returns when every file is complete; raises StageError."""
        await self._thread(self._create_large)
        workers = [asyncio.create_task(self._work(), name=f"staging-{number}") for number in range(STREAMS)]
        watch = asyncio.create_task(self._watch(), name="staging-watch")
        try:
            pending = {*workers, watch}
            while not all(worker.done() for worker in workers):
                done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()
        finally:
            await self._end([*workers, watch])

    async def _end(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        for attempt in self._attempts:
            attempt.stopped.set()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._threads:
            _, left = await asyncio.wait(self._threads, timeout=_STOP_S)
            if left:
                log.warning("staging_threads_left_behind", count=len(left))

    def _create_large(self) -> None:
        """Before any of their pieces can come. A file of one piece is created by the thread that fills it."""
        for entry in self._files:
            if len(entry.pieces) > 1:
                self._tree.create(entry.file)

    async def _work(self) -> None:
        while self._jobs:
            entry, piece = self._jobs.popleft()
            if piece is not None:
                entry.crcs[piece.number] = await self._copied(piece, alone=len(entry.pieces) == 1)
            if entry.complete:
                await self._finish(entry)

    async def _copied(self, piece: Piece, *, alone: bool) -> int:
        """The piece's checksum once it is written."""
        failures = 0
        while True:
            attempt = _Attempt(self._meter, piece)
            self._attempts.add(attempt)
            try:
                crc = await self._thread(lambda: self._read(attempt, alone), attempt)  # noqa: B023  (awaited within the turn)
            except StageError as error:
                self._meter.drop(attempt)
                failures += 1
                await self._pause(error, failures, piece.file.path)
            else:
                self._meter.settle(attempt, piece.length)
                if failures:
                    log.info("stage_recovered", file=piece.file.path, offset=piece.offset, failures=failures)
                return crc
            finally:
                attempt.stopped.set()
                self._attempts.discard(attempt)

    def _read(self, attempt: _Attempt, alone: bool) -> int:
        piece = attempt.piece
        if alone:
            self._tree.create(piece.file)
        with self._tree.writer(piece.file, piece.offset, attempt.stopped) as writer:
            self._store.read(piece.file, piece.offset, piece.length, cast(BinaryIO, writer), attempt.on_bytes)
            return writer.crc

    async def _finish(self, entry: _File) -> None:
        failures = 0
        while True:
            self._checking += 1
            try:
                await self._thread(lambda: self._close(entry))
                break
            except StageError as error:
                failures += 1
                await self._pause(error, failures, entry.file.path)
            finally:
                self._checking -= 1
        self._meter.file_done(entry.file.path)

    def _close(self, entry: _File) -> None:
        if not entry.pieces:
            self._tree.create(entry.file)
        if self._store.checksum(entry.file, self._tree.path_of(entry.file)) is False:
            raise Changed(f"the copy of {entry.file.path} does not match HDFS's checksum")
        self._tree.done(entry.file, tuple(entry.crcs[piece.number] for piece in entry.pieces))

    async def _pause(self, error: StageError, failures: int, file: str) -> None:
        """Before the next try; raises the error when there shall be none."""
        if not error.retry or isinstance(error, Changed):
            raise error
        self._last_failure = str(error)
        self._meter.failed(self._last_failure)
        (log.warning if failures == 1 else log.debug)("stage_retry", file=file, failures=failures, error=str(error))
        await asyncio.sleep(BACKOFF.delay_s(failures, random.random()))  # noqa: S311

    async def _thread(self, call: Callable[[], T], attempt: _Attempt | None = None) -> T:
        """The call's result. An attempt that stays silent for too long is left behind and counts as failed."""
        future = in_thread(call)
        self._threads.add(future)
        future.add_done_callback(self._thread_ended)
        while True:
            await asyncio.wait({future}, timeout=_LOOK_S if attempt else None)
            if future.done():
                return future.result()
            if attempt and self._meter.now() - attempt.moved_at > PIECE_STALL_S:
                self._threads.discard(future)
                raise StageError(f"no byte of {attempt.piece.file.path} came for {PIECE_STALL_S:g} s", retry=True)

    def _thread_ended(self, future: asyncio.Future[Any]) -> None:
        self._threads.discard(future)
        if not future.cancelled():
            # Looked at, so that asyncio does not complain of an error that nobody waits for.
            future.exception()

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_S)
            self._meter.report()
            if self._meter.still_s > self._stall_s and not self._checking:
                why = f"; the last failure: {self._last_failure}" if self._last_failure else ""
                raise StageError(f"nothing of {self._store.location} arrived for {self._stall_s:g} s{why}", retry=True)
