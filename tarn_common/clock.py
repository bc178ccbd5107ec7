"""The one clock at the edge. Everything inside takes the time as an argument."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    def wall(self) -> float:
        """Seconds since the epoch: for people and for what another process reads."""

    def monotonic(self) -> float:
        """Seconds since some start, never set back: for ages and deadlines inside this process."""


class SystemClock:
    """The machine's clock."""

    def wall(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()
