"""The HTTP client of the `tarn` command: blocking, on the standard library alone, so that a command starts at once.

Every failure becomes a CommandError with its exit code. What comes from the network is bounded in size and is cleaned of
control characters before a person's terminal sees it. The token is sent to the one address that it was meant for: no
redirect is followed and no proxy is asked.
"""

from __future__ import annotations

import http.client
import json
import re
import ssl
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, cast
from urllib.parse import quote, urlencode, urlsplit

from tarn_am.cli.outcome import CommandError, Outcome

_LIMIT_BYTES = 64 << 20
_LINE_BYTES = 1 << 20
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """`text` without the characters that move a terminal's cursor or change its colours."""
    return _CONTROL.sub("", text)


@dataclass(frozen=True)
class AmClient:
    """One Application Master. `origin` says where its address came from and `lost` what to do when it does not answer, for the sentences of errors."""

    base: str
    token: str | None = field(default=None, repr=False)
    timeout_s: float = 10.0
    origin: str = "--am"
    lost: str = "is it running, and is --am the base URL of its HTTP API?"

    def status(self) -> dict[str, Any]:
        """The fleet's view as `/status` has it."""
        return self._object(self._ask("GET", "/status"), "version", "listing_version", "counts", "instances", "ended")

    def instances(self, after: str = "", wait_s: float = 0.0) -> dict[str, Any]:
        """The READY instances, as `/instances` has them in JSON; with `after`, as soon as the list's version is another, at most `wait_s` later."""
        query = "?" + urlencode({"watch": after, "timeout": f"{wait_s:g}"}) if after else ""
        return self._object(self._ask("GET", "/instances" + query, extra_s=wait_s), "version", "instances")

    def config(self) -> dict[str, Any]:
        return self._object(self._ask("GET", "/config"))

    def trouble(self) -> str:
        """Why `/health` says no; empty when it says yes."""
        response = self._open("GET", "/health", None, "application/json", self.timeout_s, also=(503,))
        said = self._object(self._decoded(response), "ok", "reason")
        return "" if said["ok"] else clean(str(said["reason"]))

    def answers(self) -> bool:
        """Whether something at the address answers at all."""
        try:
            connection = self._connect(self.timeout_s)
            connection.request("GET", self._path("/health"))
            connection.getresponse().read(1)
            return True
        except (OSError, http.client.HTTPException):
            return False

    def scale(self, instances: int) -> Any:
        return self._ask("POST", "/scale", {"instances": instances})

    def drain(self, container_id: str) -> Any:
        return self._ask("POST", "/drain", {"instance": container_id})

    def model(self, container_id: str, action: str, model: str, wait_s: float) -> Any:
        return self._ask("POST", "/model", {"instance": container_id, "action": action, "model": model}, extra_s=wait_s)

    def stop(self) -> Any:
        return self._ask("POST", "/stop", {})

    def log_lines(self, container_id: str, source: str, lines: int, follow: bool) -> Iterator[str]:
        """The last `lines` of a log, and with `follow` what is added, until the instance or the AM ends."""
        query = urlencode({"source": source, "lines": lines, "follow": "true" if follow else "false"})
        response = self._open(
            "GET", f"/logs/{quote(container_id, safe='')}?{query}", None, "text/plain", None if follow else self.timeout_s
        )
        try:
            while line := response.readline(_LINE_BYTES):
                yield clean(line.decode(errors="replace").rstrip("\r\n"))
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None, extra_s: float = 0.0) -> Any:
        return self._decoded(self._open(method, path, body, "application/json", self.timeout_s + extra_s))

    def _decoded(self, response: http.client.HTTPResponse) -> Any:
        try:
            return json.loads(response.read(_LIMIT_BYTES) or b"null")
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        except ValueError as error:
            raise self._stranger() from error

    def _open(
        self, method: str, path: str, body: dict[str, Any] | None, accept: str, timeout_s: float | None, also: tuple[int, ...] = ()
    ) -> http.client.HTTPResponse:
        headers = {"Accept": accept, "Connection": "close"}
        if self.token is not None:
            headers["X-TARN-Token"] = self.token
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection = self._connect(timeout_s)
            connection.request(method, self._path(path), data, headers)
            response = connection.getresponse()
            if response.status in (200, 202, *also):
                return response
            raise self._refused(response.status, response.read(1 << 16))
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _connect(self, timeout_s: float | None) -> http.client.HTTPConnection:
        parts = urlsplit(self.base)
        host = parts.hostname or ""
        if parts.scheme == "https":
            return http.client.HTTPSConnection(host, parts.port, timeout=timeout_s, context=ssl.create_default_context())
        return http.client.HTTPConnection(host, parts.port, timeout=timeout_s)

    def _path(self, path: str) -> str:
        return urlsplit(self.base).path.rstrip("/") + path

    def _unreachable(self, error: Exception) -> CommandError:
        cause = (
            "no answer in time"
            if isinstance(error, TimeoutError)
            else getattr(error, "strerror", None) or str(error) or type(error).__name__
        )
        return CommandError(
            Outcome.UNREACHABLE,
            f"the Application Master at {self.base} (from {self.origin}) does not answer ({clean(str(cause))})",
            self.lost,
        )

    def _stranger(self) -> CommandError:
        return CommandError(
            Outcome.UNREACHABLE,
            f"what answers at {self.base} (from {self.origin}) is not an Application Master of TARN",
            "give --am the base URL of its HTTP API, such as http://127.0.0.1:8888",
        )

    def _refused(self, status: int, body: bytes) -> CommandError:
        if status == 401:
            held = "wants another token than the one given" if self.token is not None else "wants a token"
            return CommandError(
                Outcome.UNAUTHORISED,
                f"the Application Master at {self.base} {held}",
                "give --token-file (or TARN_TOKEN_FILE); that of `tarn local` is the file `token` in its state directory",
            )
        try:
            answer = self._object(json.loads(body), "error")
            text, fix = clean(str(answer["error"])), clean(str(answer.get("fix") or ""))
        except (ValueError, CommandError):
            if status < 500:
                return self._stranger()
            text, fix = f"the Application Master at {self.base} answered {status}", "its log has the cause"
        return CommandError(Outcome.UNAUTHORISED if status == 403 else Outcome.FAILED, text, fix)

    def _object(self, answer: Any, *keys: str) -> dict[str, Any]:
        """`answer` as a JSON object that has `keys`: anything else is not from an Application Master."""
        if not isinstance(answer, dict) or any(key not in answer for key in keys):
            raise self._stranger()
        return cast("dict[str, Any]", answer)
