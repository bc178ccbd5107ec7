"""A line in the log once a minute where something may happen a thousand times a second: the first at once, then counts.

Pure: time is an argument. Bounded: past `limit` keys the longest quiet one is forgotten, so that no flood of peers fills memory.
"""

from __future__ import annotations

from collections import OrderedDict

EVERY_S = 60.0
LIMIT = 1024


class Repeats:
    """Counts by key between two lines of the log."""

    def __init__(self, every_s: float = EVERY_S, limit: int = LIMIT) -> None:
        self._every_s, self._limit = every_s, limit
        self._told_at: OrderedDict[str, float] = OrderedDict()
        self._untold: dict[str, int] = {}

    def note(self, key: str, now: float) -> bool:
        """Whether this one is to be logged now; otherwise it is counted for `due`."""
        if key not in self._told_at:
            while len(self._told_at) >= self._limit:
                forgotten, _ = self._told_at.popitem(last=False)
                self._untold.pop(forgotten, None)
            self._told_at[key] = now
            return True
        self._untold[key] = self._untold.get(key, 0) + 1
        return False

    def due(self, now: float) -> list[tuple[str, int]]:
        """What happened since the last line about each key whose minute is over, with its count; quiet keys are forgotten."""
        over = [key for key, told_at in self._told_at.items() if now - told_at >= self._every_s]
        found = []
        for key in over:
            count = self._untold.pop(key, 0)
            del self._told_at[key]
            if count:
                self._told_at[key] = now
                found.append((key, count))
        return found
