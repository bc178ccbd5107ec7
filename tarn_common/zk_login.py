"""Who this process is towards ZooKeeper: a user and its password, and the scheme that proves them. Pure.

`digest` sends `user:password`, and any pair is a user; `sasl` is the mechanism DIGEST-MD5, in which the servers know the user and
the password never travels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

DIGEST, SASL = "digest", "sasl"


class LoginError(ValueError):
    """What was given is no login; the text never shows it."""


@dataclass(frozen=True)
class Login:
    """A scheme, a user, a password. Neither a repr nor an error shows the password."""

    scheme: str
    user: str
    password: str = field(repr=False)

    @property
    def pair(self) -> str:
        return f"{self.user}:{self.password}"


def check_scheme(text: str) -> None:
    if text not in ("", DIGEST, SASL):
        raise LoginError(f"give {DIGEST} or {SASL}")


def parse_login(pair: str, scheme: str = "") -> Login:
    """`user:password` in one line; the scheme is digest where none is named. Raises LoginError, which does not show the pair."""
    check_scheme(scheme)
    user, colon, password = pair.partition(":")
    if not colon or not user or not password or "\n" in pair:
        raise LoginError("is not user:password in one line")
    if scheme == SASL and not (pair.isascii() and pair.isprintable()):
        raise LoginError("holds more than ASCII, which SASL's DIGEST-MD5 and ZooKeeper do not read alike: use ASCII alone")
    return Login(scheme or DIGEST, user, password)
