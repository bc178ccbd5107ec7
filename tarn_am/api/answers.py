"""What the API answers with: JSON, text, and errors of one shape, `{"error": "<sentence>", "fix": "<sentence or empty>"}`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from aiohttp import web

JSON = "application/json; charset=utf-8"
TEXT = "text/plain; charset=utf-8"
HTML = "text/html; charset=utf-8"

# On every answer: no guessing of types, no copies in caches that an answer for one person could leave another.
COMMON = {"Server": "tarn", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


class ApiError(Exception):
    """A request that is answered with an error: the status, what is wrong and how to put it right."""

    def __init__(self, status: int, error: str, fix: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(error)
        self.status, self.error, self.fix, self.headers = status, error, fix, dict(headers or {})

    def answer(self) -> web.Response:
        body = dump({"error": self.error, "fix": self.fix})
        return web.Response(status=self.status, body=body, headers={**COMMON, "Content-Type": JSON, **self.headers})


def dump(data: Any) -> bytes:
    """JSON on one line; what is not a number never leaves as one."""
    return json.dumps(data, allow_nan=False, separators=(", ", ": ")).encode() + b"\n"


def answer(body: bytes, content_type: str, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, body=body, headers={**COMMON, "Content-Type": content_type, **(headers or {})})


def json_answer(data: Any, status: int = 200) -> web.Response:
    return answer(dump(data), JSON, status)
