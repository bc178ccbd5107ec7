"""A Presence in memory; it passes the port's contract suite (tests/contract/test_presence.py)."""

from __future__ import annotations


class FakePresence:
    """`standing` is what clients would find; `history` what they found over time."""

    def __init__(self) -> None:
        self.standing: str | None = None
        self.history: list[str | None] = []

    async def start(self) -> None:
        """Connected at once."""

    def announce(self, host_port: str) -> None:
        self._put(host_port)

    async def withdraw(self) -> None:
        self._put(None)

    @property
    def announced(self) -> bool:
        return self.standing is not None

    async def close(self) -> None:
        self._put(None)

    def _put(self, text: str | None) -> None:
        if text != self.standing:
            self.standing = text
            self.history.append(text)
