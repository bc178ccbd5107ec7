"""How far a staging is: counted from many threads, told at most five times a second, never backwards."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from tarn_agent.core.model import Progress
from tarn_agent.core.plan import Plan, rate
from tarn_common.clock import Clock

_PER_S = 5.0
_WINDOW_S = 5.0
_STILL_S = 1.0
"""A failure is told when nothing else has moved for so long."""


class Meter:
    """`add` and `drop` come from threads; everything else from the event loop."""

    def __init__(self, clock: Clock, tell: Callable[[Progress], None]) -> None:
        self._clock, self._tell = clock, tell
        self._lock = threading.Lock()
        self._arrived = self._settled = self._total = self._reused = self._shown = 0
        self._open: dict[object, int] = {}
        self._files_done = self._files_total = 0
        self._file = self._waiting = ""
        self._started_at = clock.wall()
        self._moved_at = self._filled_at = clock.monotonic()
        self._samples: deque[tuple[float, int]] = deque()
        self._tokens = _PER_S
        self._told: Progress | None = None

    def now(self) -> float:
        return self._clock.monotonic()

    def plan(self, plan: Plan) -> None:
        """A plan begins: nothing of it is there yet."""
        with self._lock:
            self._total, self._files_total = plan.bytes_total, len(plan.files)
            self._settled = self._reused = self._files_done = 0
            self._open.clear()
        self.moved()

    def moved(self) -> None:
        """Something went forward that is not a byte from the store."""
        with self._lock:
            self._moved_at = self._clock.monotonic()
            self._waiting = ""

    def failed(self, error: str) -> None:
        """An attempt failed that will be made again."""
        with self._lock:
            self._waiting = error

    def reused(self, length: int) -> None:
        with self._lock:
            self._settled += length
            self._reused += length
            self._files_done += 1
        self.moved()

    def add(self, attempt: object, count: int, file: str) -> None:
        """Bytes of a piece arrived."""
        with self._lock:
            self._open[attempt] = self._open.get(attempt, 0) + count
            self._arrived += count
            self._file = file
            self._moved_at = self._clock.monotonic()
            self._waiting = ""

    def drop(self, attempt: object) -> None:
        """The attempt failed: its bytes will come again."""
        with self._lock:
            self._open.pop(attempt, None)

    def settle(self, attempt: object, length: int) -> None:
        """The attempt's piece is written."""
        with self._lock:
            self._open.pop(attempt, None)
            self._settled += length

    def file_done(self, file: str) -> None:
        with self._lock:
            self._files_done += 1
            self._file = file
        self.moved()
        self.report()

    @property
    def still_s(self) -> float:
        """For how long nothing has moved."""
        with self._lock:
            return self._clock.monotonic() - self._moved_at

    def progress(self) -> Progress:
        with self._lock:
            now = self._clock.monotonic()
            self._samples.append((now, self._arrived))
            while len(self._samples) > 2 and now - self._samples[0][0] > _WINDOW_S:
                self._samples.popleft()
            self._shown = min(self._total, max(self._shown, self._settled + sum(self._open.values())))
            return Progress(
                bytes_done=self._shown,
                bytes_total=self._total,
                files_done=self._files_done,
                files_total=self._files_total,
                bytes_per_second=rate(self._samples),
                file=self._file,
                started_at=self._started_at,
                bytes_reused=self._reused,
                waiting=self._waiting if now - self._moved_at >= _STILL_S else "",
            )

    def report(self) -> None:
        """Tells the progress when it is another than was told and the five a second allow it."""
        now = self._clock.monotonic()
        self._tokens = min(_PER_S, self._tokens + (now - self._filled_at) * _PER_S)
        self._filled_at = now
        if self._tokens < 1:
            return
        progress = self.progress()
        if progress != self._told:
            self._tokens -= 1
            self._say(progress)

    def last(self) -> Progress:
        """Tells where it ended, always."""
        self._say(self.progress())
        assert self._told is not None
        return self._told

    def _say(self, progress: Progress) -> None:
        self._told = progress
        self._tell(progress)
