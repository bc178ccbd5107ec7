"""What waits to be sent on the stream. Bounded, whatever the other side does.

Changes and answers keep their order. Of stats and progress only the latest waits, for an older one is worth nothing. Log lines
wait with their reader: `room` returns when there is room for more.
"""

from __future__ import annotations

import asyncio
from collections import deque

from tarn_common.wire import agent_pb2 as pb

ROOM = 16
MOST = 256


class Overflow(Exception):
    """The other side takes nothing while much happens here: the stream is worth nothing any more."""


class Outbox:
    """One at a time belongs to the stream that stands; `clear` begins the next one's."""

    def __init__(self) -> None:
        self._ordered: deque[pb.AgentMessage] = deque()
        self._latest: dict[str, pb.AgentMessage] = {}
        self._changed = asyncio.Event()
        self._finished = False
        self.overflowed = False

    def clear(self) -> None:
        self._ordered.clear()
        self._latest.clear()
        self.overflowed = False
        self._changed.set()

    def push(self, message: pb.AgentMessage) -> None:
        """In order. Of more than MOST nothing is kept: the stream must be begun anew, with the whole state."""
        if len(self._ordered) >= MOST:
            self.overflowed = True
        else:
            self._ordered.append(message)
        self._changed.set()

    def latest(self, message: pb.AgentMessage) -> None:
        """In place of an earlier one of its kind that still waits."""
        self._latest[message.WhichOneof("body") or ""] = message
        self._changed.set()

    def finish(self) -> None:
        """`next` gives what still waits, and then None."""
        self._finished = True
        self._changed.set()

    async def room(self) -> None:
        while len(self._ordered) >= ROOM:
            self._changed.clear()
            await self._changed.wait()

    async def next(self) -> pb.AgentMessage | None:
        """Waits for a message; None after `finish`. Raises Overflow."""
        while True:
            if self.overflowed:
                raise Overflow
            if self._ordered:
                message = self._ordered.popleft()
                self._changed.set()
                return message
            if self._latest:
                return self._latest.pop(next(iter(self._latest)))
            if self._finished:
                return None
            self._changed.clear()
            await self._changed.wait()
