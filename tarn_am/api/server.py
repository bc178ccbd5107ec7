"""The Application Master's HTTP API: who may ask what, where it goes, and how each failure is told.

Guarantees: every answer that is not a page or a log is JSON or the documented text; every error is
`{"error": …, "fix": …}` with the right status; a misspelt parameter or key is refused by name; a defect of ours is a 500 with
an id, its trace in the log under that id and nowhere else; no token is ever logged.
"""

from __future__ import annotations

import asyncio
import secrets

import structlog
from aiohttp import web
from aiohttp.web_request import BaseRequest

from tarn_am.api.answers import ApiError
from tarn_am.api.call import Access, Call, Route
from tarn_am.api.identity import TokenCheck, caller, is_local, unauthorized
from tarn_am.api.listener import MAX_BODY, Listener
from tarn_am.api.metrics import Metrics
from tarn_am.api.orders import check_query
from tarn_am.api.repeats import Repeats
from tarn_am.api.routes.listing import Listing
from tarn_am.api.routes.logs import Logs
from tarn_am.api.routes.observed import Observed
from tarn_am.api.routes.orders import Orders
from tarn_am.api.routes.pages import Pages
from tarn_am.ports import Fleet
from tarn_am.settings import AmSettings
from tarn_common.clock import Clock
from tarn_common.endpoint import HostPort

log = structlog.get_logger(__name__)

BODY_S = 10.0
_FORM = "application/x-www-form-urlencoded"


class ApiServer:
    """The API of one application over its fleet; `start` and `close` once."""

    def __init__(self, fleet: Fleet, settings: AmSettings, token: str | None, clock: Clock, max_connections: int = 1024) -> None:
        self._settings, self._clock = settings, clock
        self._tokens = TokenCheck(token, fleet.view().application_id)
        self._metrics = Metrics(settings.silent_s)
        self._refused = Repeats()
        self._listener = Listener(self._handle, clock, max_connections, each_second=self._tell_refusals)
        self._listing = Listing(fleet, max_waiting=max_connections * 3 // 4)
        self._routes = _table(
            [
                *self._listing.routes(),
                *Observed(fleet, settings, clock, self._metrics).routes(),
                *Orders(fleet).routes(),
                *Logs(fleet).routes(),
                *Pages(fleet, self._tokens, clock, self._note_refusal).routes(),
            ]
        )

    async def start(self) -> HostPort:
        """Binds; raises OSError when the port cannot be had."""
        bound = await self._listener.start(self._settings.bind, self._settings.am_port)
        log.info("api_listens", address=str(bound), token=self._tokens.required)
        return bound

    async def close(self) -> None:
        await self._listener.close()

    @property
    def waiting(self) -> int:
        """How many requests wait for the list to change."""
        return self._listing.waiting

    async def _handle(self, request: BaseRequest) -> web.StreamResponse:
        path, tail = _split(request)
        label = path if path in self._routes else "other"
        try:
            response = await self._respond(request, path, tail)
        except ApiError as error:
            response = error.answer()
            if error.status == 408:
                response.force_close()
        except ConnectionError:
            raise  # the client is gone: aiohttp ends the connection
        except Exception:  # noqa: BLE001  # the boundary to the user: a defect is told by its id alone
            response = self._defect(request, label)
        self._metrics.count(label, response.status)
        return response

    async def _respond(self, request: BaseRequest, path: str, tail: str) -> web.StreamResponse:
        methods = self._routes.get(path)
        if methods is None:
            raise ApiError(404, f"there is no {path[:120]!a} here", f"there are {', '.join(sorted(self._routes))}")
        route = methods.get("GET" if request.method == "HEAD" else request.method)
        if route is None:
            allowed = ", ".join(sorted(methods))
            raise ApiError(405, f"{path} does not take {request.method[:20]!a}", f"it takes {allowed}", {"Allow": allowed})
        query = check_query(list(request.rel_url.query.items()), route.query) if request.query_string else {}
        trusted = self._trusted(request, route, query)
        if route.method == "POST":
            _check_kind(request, route)
        body = await _body(request) if route.method == "POST" else b""
        return await route.act(
            Call(request, trusted, caller(request.headers, _peer(request), self._tokens.required and trusted), query, body, tail)
        )

    def _trusted(self, request: BaseRequest, route: Route, query: dict[str, str]) -> bool:
        """Whether the request may have all; raises ApiError where the route asks for more than it brings."""
        proved = self._tokens.proves(request.headers, query.get("token"))
        if not self._tokens.required:
            if route.access is Access.ORDER and not is_local(_peer(request), request.headers.get("Host", "")):
                raise ApiError(
                    403,
                    "without a token, orders are taken only from this machine under a loopback name",
                    "start the application with --token-file, or send the order to 127.0.0.1 from the AM's own machine",
                )
            return True
        if proved is None and route.access is not Access.ORDER:
            proved = self._in_session(request)
        if proved is False:
            self._note_refusal(_peer(request))
        if not proved and route.access is not Access.OPEN:
            raise unauthorized(given=proved is False)
        return bool(proved)

    def _in_session(self, request: BaseRequest) -> bool | None:
        return True if self._tokens.in_session(request.headers, self._clock.wall()) else None

    def _note_refusal(self, peer: str) -> None:
        if self._refused.note(peer, self._clock.monotonic()):
            log.warning("token_refused", peer=peer, count=1)

    def _tell_refusals(self, now: float) -> None:
        for who, count in self._refused.due(now):
            log.warning("token_refused", peer=who, count=count)

    def _defect(self, request: BaseRequest, label: str) -> web.Response:
        number = secrets.token_hex(4)
        log.exception("api_defect", id=number, method=request.method, path=label)
        if request.writer.output_size > 0:
            raise ConnectionAbortedError("the answer had begun: its end must be missed by who reads it")
        return ApiError(500, f"a defect of TARN, number {number}", "the Application Master's log has its trace under that number").answer()


def _table(routes: list[Route]) -> dict[str, dict[str, Route]]:
    table: dict[str, dict[str, Route]] = {}
    for route in routes:
        table.setdefault(route.path, {})[route.method] = route
    return table


def _split(request: BaseRequest) -> tuple[str, str]:
    """The route's path and what follows it: '/logs/container_…' is '/logs/' and the id."""
    path = request.rel_url.path
    head, slash, tail = path.rpartition("/")
    return (head + slash, tail) if head else (path, "")


def _peer(request: BaseRequest) -> str:
    return request.remote or "unknown"


def _check_kind(request: BaseRequest, route: Route) -> None:
    """A page of another site can make a browser post a form or a text, but not JSON."""
    wanted = _FORM if route.form else "application/json"
    if request.content_type != wanted or not request.headers.get("Content-Type"):
        raise ApiError(400, f"{route.path} takes Content-Type {wanted}", f"send the header Content-Type: {wanted}")


async def _body(request: BaseRequest) -> bytes:
    if request.content_length is not None and request.content_length > MAX_BODY:
        raise _too_large()
    if request.headers.get("Expect", "").lower() == "100-continue":
        await request.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        request.writer.output_size = 0
    try:
        return await asyncio.wait_for(request.read(), BODY_S)
    except web.HTTPRequestEntityTooLarge as error:
        raise _too_large() from error
    except asyncio.TimeoutError as error:
        raise ApiError(408, f"the body did not come within {BODY_S:.0f} s", "send it at once") from error
    except web.RequestPayloadError as error:
        raise ApiError(400, "the body cannot be read", "send it as Content-Length or chunked encoding says") from error


def _too_large() -> ApiError:
    return ApiError(413, f"the body is larger than {MAX_BODY} bytes", "orders are short JSON objects")
