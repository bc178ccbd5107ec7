"""A client of one Hadoop service: its addresses, one connection for each, failover, and repeats by kind of error.

`call` is all there is to it: it returns the response, or raises the error of the last attempt. A repeat keeps the call's id,
so that a daemon that remembers answers gives the one it has.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import secrets
import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import structlog
from google.protobuf.message import Message

from tarn_am.hadoop.errors import HadoopError, Unreachable
from tarn_am.hadoop.ipc import frames
from tarn_am.hadoop.ipc.connection import Connection, Limits
from tarn_am.hadoop.ipc.remedy import Remedy, leads_nowhere, remedy
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.protocols import RpcProtocol
from tarn_common.backoff import Backoff
from tarn_common.endpoint import HostPort

log = structlog.get_logger(__name__)
Response = TypeVar("Response", bound=Message)


@dataclass(frozen=True)
class Patience:
    """How long a call may take over all its attempts, and the pauses between them. `give_up_s` 0: one attempt at each address."""

    give_up_s: float = 120.0
    backoff: Backoff = field(default_factory=lambda: Backoff(first_s=0.2, limit_s=10.0))


class HadoopClient:
    """`addresses` are the daemons of one service, tried from the one that answered last.

    `use` changes the proof for connections to come (a rolled-over token); those that stand go on.
    """

    def __init__(self, addresses: Sequence[HostPort], login: Login, limits: Limits | None = None, patience: Patience | None = None) -> None:
        if not addresses:
            raise ValueError("a Hadoop client needs at least one address")
        self._addresses, self._login = tuple(addresses), login
        self._limits, self._patience = limits or Limits(), patience or Patience()
        self._client_id = uuid.uuid4().bytes
        self._call_ids = itertools.count()
        self._at = 0
        self._connections: dict[tuple[HostPort, RpcProtocol], Connection] = {}
        self._open_ones: set[Connection] = set()
        self._opening: dict[tuple[HostPort, RpcProtocol], asyncio.Task[Connection]] = {}
        self._closed = False

    @property
    def address(self) -> HostPort:
        """The daemon that is asked next: after a success, the active one."""
        return self._addresses[self._at]

    def use(self, login: Login) -> None:
        self._login = login

    async def call(
        self, protocol: RpcProtocol, method: str, request: Message, response: type[Response], *, timeout_s: float | None = None
    ) -> Response:
        """One call with its repeats. `timeout_s` bounds each attempt, `Patience.give_up_s` begins no further one after it."""
        call_id = next(self._call_ids) & 0x7FFFFFFF
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + self._patience.give_up_s
        nowhere = 0
        data = frames.serialized(request)
        for attempt in itertools.count():
            try:
                body = await self._attempt(call_id, attempt, protocol, method, data, timeout_s or self._limits.call_s)
                return frames.parsed(response, body)
            except HadoopError as error:
                what = remedy(error, may_repeat=protocol.may_repeat(method))
                nowhere = nowhere + 1 if leads_nowhere(error) else 0
                pause_s = self._pause_s(what, attempt)
                around = attempt + 1 >= len(self._addresses)
                if (
                    what is Remedy.NONE
                    or nowhere >= len(self._addresses)
                    or (around and loop.time() + pause_s >= give_up_at)
                    or self._closed
                ):
                    if attempt == 0 or not isinstance(error, Unreachable):
                        raise
                    raise Unreachable(f"{error} (the last of {attempt + 1} attempts at {self._names()})") from error
                log.debug("hadoop_call_repeats", method=method, attempt=attempt + 1, pause_s=round(pause_s, 3), reason=str(error))
                await asyncio.sleep(pause_s)
        raise AssertionError("itertools.count has no end")

    def _pause_s(self, what: Remedy, attempt: int) -> float:
        """Moves on to the next address where that helps; a pause only once all of them were tried."""
        if what is Remedy.ELSEWHERE:
            self._at = (self._at + 1) % len(self._addresses)
            rounds, rest = divmod(attempt + 1, len(self._addresses))
            return 0.0 if rest else self._patience.backoff.delay_s(rounds, random.random())  # noqa: S311 - jitter
        return self._patience.backoff.delay_s(attempt + 1, random.random())  # noqa: S311 - jitter

    async def _attempt(self, call_id: int, retry: int, protocol: RpcProtocol, method: str, data: bytes, timeout_s: float) -> bytes:
        address = self.address
        connection = await self._connection(address, protocol)
        return await connection.call(call_id, retry, protocol, method, data, timeout_s)

    async def _connection(self, address: HostPort, protocol: RpcProtocol) -> Connection:
        """The one that stands, or a new one: opened once for all who wait, and not undone when one of them is cancelled."""
        if self._closed:
            raise Unreachable("this client is closed")
        key = (address, protocol)
        standing = self._connections.get(key)
        if standing is not None and not standing.closed:
            return standing
        opening = self._opening.get(key)
        if opening is None:
            opening = asyncio.create_task(self._open(key), name=f"hadoop-open {address}")
            self._opening[key] = opening
            opening.add_done_callback(lambda _: self._opening.pop(key, None))
        try:
            return await asyncio.shield(opening)
        except asyncio.CancelledError:
            if opening.cancelled() and self._closed:
                raise Unreachable("this client was closed while it connected") from None
            raise

    async def _open(self, key: tuple[HostPort, RpcProtocol]) -> Connection:
        address, protocol = key
        connection = await Connection.open(
            address, self._login, protocol, self._client_id, lambda: secrets.token_hex(16), self._limits, self._gone
        )
        self._connections[key] = connection
        self._open_ones.add(connection)
        return connection

    def _gone(self, connection: Connection) -> None:
        self._open_ones.discard(connection)
        for key in [key for key, standing in self._connections.items() if standing is connection]:
            del self._connections[key]

    def _names(self) -> str:
        return ", ".join(str(address) for address in self._addresses)

    async def close(self) -> None:
        """Ends every connection; calls that wait raise CallLost or Unreachable."""
        self._closed = True
        opening = list(self._opening.values())
        for task in opening:
            task.cancel()
        await asyncio.gather(*opening, return_exceptions=True)
        for connection in list(self._open_ones):
            await connection.close()

    async def __aenter__(self) -> HadoopClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()
