"""What a SASL mechanism may agree on for every later byte: nothing more, a proof of origin, or secrecy too."""

from __future__ import annotations

from enum import Enum
from typing import Protocol


class Protection(Enum):
    """The three values of `hadoop.rpc.protection`; the value is SASL's own name."""

    AUTHENTICATION = "auth"
    INTEGRITY = "auth-int"
    PRIVACY = "auth-conf"


STRONGEST_FIRST = (Protection.PRIVACY, Protection.INTEGRITY, Protection.AUTHENTICATION)


class Layer(Protocol):
    """An agreed protection. Messages of one direction must pass in order; errors are ProtocolError."""

    chunk: int
    """The most bytes that may be wrapped at once."""

    def wrap(self, message: bytes) -> bytes: ...

    def unwrap(self, data: bytes) -> bytes: ...


class Mechanism(Protocol):
    """One way of proving who we are; errors are AuthenticationError."""

    def start(self, challenge: bytes) -> bytes:
        """The first token to send; `challenge` is what came with the offer, often nothing."""

    def respond(self, challenge: bytes) -> bytes:
        """The answer to a further challenge."""

    def finish(self, token: bytes) -> Layer | None:
        """Called with the server's last token: checks that the server proved itself too, and returns what was agreed."""
