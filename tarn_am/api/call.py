"""One request as a route sees it: who asks and what for, already checked; and what a route is."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from enum import Enum

from aiohttp import web
from aiohttp.web_request import BaseRequest

from tarn_am.api.listener import Connection


class Access(Enum):
    """What a route asks for where a token is set. ORDER without one: this machine alone (see `identity`)."""

    OPEN = "open"
    READ = "read"
    SCRAPE = "scrape"
    ORDER = "order"


@dataclass(frozen=True)
class Call:
    """`trusted`: the token or a session was proved, or none is set. `tail` is what follows a route's path that ends in '/'."""

    request: BaseRequest
    trusted: bool
    who: str
    query: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    tail: str = ""

    @property
    def connection(self) -> Connection:
        connection = self.request.protocol
        assert isinstance(connection, Connection)
        return connection


Act = Callable[[Call], Awaitable[web.StreamResponse]]


@dataclass(frozen=True)
class Route:
    """`path` ending in '/' takes one more part. `query` names the parameters it knows, `form` says its body is a page's form."""

    method: str
    path: str
    access: Access
    act: Act
    query: tuple[str, ...] = ()
    form: bool = False
