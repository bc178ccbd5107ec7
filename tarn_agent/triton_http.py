"""Triton's control API over HTTP: health, repository index, load, unload, metrics. Blocking, each call within a deadline.

One kept-alive connection a port, made anew when it breaks. `close` ends them, because tritonserver waits for open
connections when it is told to end.
"""

from __future__ import annotations

import http.client
import json
import time
from typing import Any

from tarn_agent.core.model import ModelState, TritonLaunch
from tarn_agent.ports import Health, TritonError

RESTRICTED_HEADER = "tarn-control"
"""The header that opens the restricted APIs; its value is random, new with each start of Triton."""
ORDER_S = 600.0
"""A load answers when the model is loaded, which may be minutes."""


class TritonHttp:
    """The HTTP and metrics ports of one launch."""

    def __init__(self, launch: TritonLaunch) -> None:
        self._host = "127.0.0.1" if launch.bind in ("0.0.0.0", "") else launch.bind
        self._ports = launch.ports
        self._wanted = launch.models
        self._headers = {RESTRICTED_HEADER: launch.restricted_value, "Content-Type": "application/json"}
        self._kept: dict[int, http.client.HTTPConnection] = {}

    def close(self) -> None:
        for connection in self._kept.values():
            connection.close()
        self._kept.clear()

    def health(self, deadline_s: float) -> Health:
        """Never raises for a server that is down or hung: the Health says so."""
        until = time.monotonic() + deadline_s
        try:
            ready, _ = self._ask(self._ports.http, "GET", "/v2/health/ready", until)
            status, text = self._ask(self._ports.http, "POST", "/v2/repository/index", until, b"{}")
        except TritonError as error:
            return Health(answered=False, error=str(error))
        if status != 200:
            return Health(answered=True, live=True, error=f"the repository index answered {status}: {text[:200]}")
        try:
            return Health(answered=True, live=True, ready=ready == 200, models=self._models(json.loads(text)))
        except (ValueError, TypeError, KeyError, AttributeError):
            return Health(answered=True, live=True, error=f"the repository index is not what Triton answers: {text[:200]}")

    def _models(self, index: list[dict[str, Any]]) -> tuple[ModelState, ...]:
        """The index has a row a version; a model is READY when any of its versions is."""
        rows: dict[str, list[dict[str, Any]]] = {}
        for row in index:
            rows.setdefault(str(row["name"]), []).append(row)
        return tuple(self._model(name, rows.get(name, [])) for name in sorted({*rows, *self._wanted}))

    def _model(self, name: str, rows: list[dict[str, Any]]) -> ModelState:
        ready = tuple(str(row.get("version", "")) for row in rows if row.get("state") == "READY")
        states = [str(row["state"]) for row in rows if row.get("state")]
        reasons = [str(row["reason"]) for row in rows if row.get("reason")]
        state = next((known for known in ("READY", "LOADING", "UNLOADING", "UNAVAILABLE") if known in states), "UNKNOWN")
        reason = "" if state == "READY" else "; ".join(dict.fromkeys(reasons))
        return ModelState(name, state, reason, ready, wanted=name in self._wanted)

    def metrics(self, deadline_s: float) -> str:
        status, text = self._ask(self._ports.metrics, "GET", "/metrics", time.monotonic() + deadline_s)
        if status != 200:
            raise TritonError(f"Triton's metrics page answered {status}")
        return text

    def load(self, model: str) -> None:
        self._order(model, "load", b"{}")

    def unload(self, model: str) -> None:
        self._order(model, "unload", b'{"parameters":{"unload_dependents":false}}')

    def _order(self, model: str, verb: str, body: bytes) -> None:
        """On a connection of its own, because a load may take minutes and probes must go on."""
        if not model or any(not (char.isalnum() or char in "._-") for char in model):
            raise TritonError(f"{model!r} is not a model's name: use letters, digits, '.', '_' and '-'")
        connection = http.client.HTTPConnection(self._host, self._ports.http, timeout=ORDER_S)
        try:
            connection.request("POST", f"/v2/repository/models/{model}/{verb}", body, self._headers)
            answer = connection.getresponse()
            text = answer.read(65536).decode(errors="replace")
        except (OSError, http.client.HTTPException) as error:
            raise TritonError(f"Triton did not answer to {verb} {model}: {error!r}") from error
        finally:
            connection.close()
        if answer.status != 200:
            raise TritonError(f"Triton could not {verb} {model}: {_reason(text)}")

    def _ask(self, port: int, method: str, path: str, until: float, body: bytes | None = None) -> tuple[int, str]:
        """One exchange; a kept connection that the server had closed is replaced once."""
        for fresh in (port not in self._kept, True):
            connection = self._kept.get(port) or http.client.HTTPConnection(self._host, port)
            self._kept[port] = connection
            try:
                left = until - time.monotonic()
                if left <= 0:
                    raise TimeoutError("timed out")
                connection.timeout = left
                if connection.sock is not None:
                    connection.sock.settimeout(left)
                connection.request(method, path, body, self._headers)
                answer = connection.getresponse()
                return answer.status, answer.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as error:
                connection.close()
                del self._kept[port]
                if fresh or isinstance(error, TimeoutError):
                    raise TritonError(f"Triton did not answer {path} on port {port}: {error or repr(error)}") from error
        raise AssertionError("unreachable")


def _reason(text: str) -> str:
    try:
        return str(json.loads(text)["error"])
    except (ValueError, KeyError, TypeError):
        return text[:500]
