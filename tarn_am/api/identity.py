"""Who asks: the token, a browser's session made from it, and what a request may do without either.

Guarantees: the token is compared in constant time, by digest; it is in no log, no error and no cookie; a header given twice or
two that disagree are refused, for whatever stands before us might have read the other one.

Without a token the API is open for reading to whoever reaches it. Orders (POST) are then taken from this machine alone: the
peer is a loopback address *and* the Host header names one, so that neither another machine nor a web page whose name was bent
to 127.0.0.1 (DNS rebinding) can give them. With a token every order must carry it in a header, which no foreign page can make
a browser send; a session cookie is good for looking only.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
from typing import Protocol

from tarn_am.api.answers import ApiError

SESSION_S = 12 * 3600.0
_USER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
_HOW = "send it as the header X-TARN-Token or Authorization: Bearer"


class Headers(Protocol):
    """The one thing asked of a request's headers: every value of a name."""

    def getall(self, key: str, default: list[str]) -> list[str]: ...


class TokenCheck:
    """The API's token, or none. `sessions` of a browser end after twelve hours, with the token, and with the application."""

    def __init__(self, token: str | None, application: str) -> None:
        self.required = token is not None
        secret = (token or "").encode("utf-8", "surrogateescape")
        self._digest = hashlib.sha256(secret).digest()
        self._session_key = hmac.new(secret, b"tarn dashboard session " + application.encode(), hashlib.sha256).digest()
        # Browsers send a cookie to every port of a host: the name keeps two applications on one host apart.
        self.cookie = "tarn_" + re.sub(r"[^A-Za-z0-9_]", "", application)

    def proves(self, headers: Headers, in_query: str | None = None) -> bool | None:
        """True or False for a token that was given, None where none was; raises ApiError (400) for doubles and contradictions."""
        given = [*_single(headers, "X-TARN-Token"), *_bearer(headers)]
        if in_query is not None:
            given.append(in_query)
        if not given or not self.required:
            return None
        if any(not hmac.compare_digest(_sha(given[0]), _sha(other)) for other in given[1:]):
            raise ApiError(400, "the request carries two tokens that differ", "send one token, in one place")
        return self.matches(given[0])

    def matches(self, given: str) -> bool:
        return hmac.compare_digest(_sha(given), self._digest)

    def session(self, now: float) -> str:
        """A cookie's value: when it ends, and an HMAC of that under a key derived from the token."""
        until = str(int(now + SESSION_S))
        return f"{until}.{self._signature(until)}"

    def in_session(self, headers: Headers, now: float) -> bool:
        pairs = [pair.strip().partition("=") for header in headers.getall("Cookie", []) for pair in header.split(";")]
        values = [value for name, _, value in pairs if name == self.cookie]
        return len(values) == 1 and self.session_holds(values[0].strip('"'), now)

    def session_holds(self, value: str, now: float) -> bool:
        until, _, signature = value.partition(".")
        genuine = hmac.compare_digest(_sha(signature), _sha(self._signature(until)))
        return self.required and genuine and until.isascii() and until.isdigit() and now < int(until)

    def _signature(self, until: str) -> str:
        return hmac.new(self._session_key, until.encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()


def unauthorized(given: bool) -> ApiError:
    error = "the token is not this application's" if given else "this needs the application's token"
    return ApiError(401, error, _HOW, {"WWW-Authenticate": 'Bearer realm="tarn"'})


def caller(headers: Headers, peer: str, proved: bool) -> str:
    """Whom an order is put down to. A user's name counts only on a request that proved the token."""
    named = _single(headers, "X-TARN-User")
    if not named or not proved:
        return peer
    if not _USER.fullmatch(named[0]):
        raise ApiError(400, "the header X-TARN-User is not a user name", "use letters, digits and . _ @ -, at most 64")
    return f"{named[0]} at {peer}"


def is_local(peer: str, host_header: str) -> bool:
    """Whether a request came from this machine and was meant for it by name."""
    name = host_header.rpartition(":")[0] if re.search(r":\d+$", host_header) else host_header
    return _is_loopback(peer) and (name.lower() == "localhost" or _is_loopback(name.removeprefix("[").removesuffix("]")))


def _is_loopback(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def _single(headers: Headers, name: str) -> list[str]:
    values = headers.getall(name, [])
    if len(values) > 1:
        raise ApiError(400, f"the header {name} was given {len(values)} times", "send it once")
    return values


def _bearer(headers: Headers) -> list[str]:
    values = _single(headers, "Authorization")
    scheme, _, credentials = values[0].partition(" ") if values else ("", "", "")
    return [credentials.strip()] if scheme.lower() == "bearer" else []


def _sha(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()
