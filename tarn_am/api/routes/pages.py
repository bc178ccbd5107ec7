"""What a browser opens: the dashboard, its style, script and marks, and the way in where a token is set.

Every link is relative, so the pages work behind any prefix that a gateway or YARN's proxy puts before them. Nothing is loaded
from elsewhere, and no script or style stands in the page itself: the Content-Security-Policy says so to the browser.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib import resources
from urllib.parse import parse_qsl

from aiohttp import web

from tarn_am.api.answers import COMMON, HTML, ApiError, answer
from tarn_am.api.call import Access, Call, Route
from tarn_am.api.dashboard import page
from tarn_am.api.identity import SESSION_S, TokenCheck, unauthorized
from tarn_am.ports import Fleet
from tarn_common.clock import Clock

_KINDS = {".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}
PAGE = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; "
        "form-action 'self'; base-uri 'none'; frame-ancestors 'self'"
    ),
    "Referrer-Policy": "no-referrer",
}


class Pages:
    """The routes; static files are read once."""

    def __init__(self, fleet: Fleet, tokens: TokenCheck, clock: Clock, on_refusal: Callable[[str], None]) -> None:
        self._fleet, self._tokens, self._clock, self._on_refusal = fleet, tokens, clock, on_refusal
        self._files = _read_files()

    def routes(self) -> list[Route]:
        return [
            Route("GET", "/", Access.OPEN, self.home),
            Route("GET", "/dashboard", Access.OPEN, self.dashboard),
            Route("POST", "/dashboard", Access.OPEN, self.enter, form=True),
            Route("GET", "/dashboard/", Access.OPEN, self.file),
        ]

    async def home(self, call: Call) -> web.StreamResponse:
        return web.Response(status=302, headers={**COMMON, "Location": "dashboard"})

    async def dashboard(self, call: Call) -> web.StreamResponse:
        if call.trusted:
            html = page.dashboard(self._fleet.view(), self._clock.wall(), signed_in=self._tokens.required)
            return answer(html.encode("utf-8", "replace"), HTML, headers=PAGE)
        if "text/html" not in call.request.headers.get("Accept", ""):
            raise unauthorized(given=False)
        return self._form("")

    async def enter(self, call: Call) -> web.StreamResponse:
        """The form: a token opens a session, `leave` ends it."""
        fields = _fields(call.body)
        if "leave" in fields:
            return self._to_page("", 0)
        if not self._tokens.required:
            raise ApiError(400, "this application has no token", "open the dashboard")
        if not self._tokens.matches(fields.get("token", "").strip()):
            self._on_refusal(call.who)
            return self._form("That is not this application's token.")
        return self._to_page(self._tokens.session(self._clock.wall()), int(SESSION_S))

    async def file(self, call: Call) -> web.StreamResponse:
        if not call.tail:
            return web.Response(status=302, headers={**COMMON, "Location": "../dashboard"})
        if call.tail not in self._files:
            raise ApiError(404, f"the dashboard has no file {call.tail[:80]!a}", "open /dashboard")
        body, headers = self._files[call.tail]
        if call.request.headers.get("If-None-Match") == headers["ETag"]:
            return web.Response(status=304, headers=headers)
        return web.Response(body=body, headers=headers)

    def _to_page(self, session: str, max_age_s: int) -> web.Response:
        """The cookie has no Path: it goes back to the page's own directory, whatever prefix a gateway put before it."""
        cookie = f"{self._tokens.cookie}={session}; Max-Age={max_age_s}; HttpOnly; SameSite=Strict"
        return web.Response(status=303, headers={**COMMON, "Location": "dashboard", "Set-Cookie": cookie})

    def _form(self, complaint: str) -> web.Response:
        return answer(page.login(complaint).encode(), HTML, 401, PAGE)


def _read_files() -> dict[str, tuple[bytes, dict[str, str]]]:
    found = {}
    for file in resources.files("tarn_am.api.dashboard").iterdir():
        kind = _KINDS.get(file.name[file.name.rfind(".") :])
        if kind:
            body = file.read_bytes()
            etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
            found[file.name] = (body, {**COMMON, "Content-Type": kind, "ETag": etag, "Cache-Control": "no-cache"})
    return found


def _fields(body: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, strict_parsing=True, max_num_fields=8, errors="strict")
    except ValueError as error:
        raise ApiError(400, "the form cannot be read", "send token=<token> as application/x-www-form-urlencoded") from error
    known = {"token", "leave"}
    if unknown := [name for name, _ in pairs if name not in known]:
        raise ApiError(400, f"the form has the unknown field {unknown[0][:80]!a}", "known fields: token, leave")
    return dict(pairs)
