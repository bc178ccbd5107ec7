"""Triton's control API over HTTP: health, repository index, load and unload, metrics. Each call within a deadline.

API: the Open Inference Protocol's health and Triton's extensions "model repository" and metrics
(https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from ipaddress import ip_address
from urllib.parse import quote

from tarn_agent.core.command import RESTRICTED_HEADER
from tarn_agent.core.model import ModelState, TritonLaunch
from tarn_agent.http_client import Answer, HttpClient, HttpError, tcp
from tarn_agent.ports import Health, TritonError

_STATES = ("READY", "LOADING", "UNLOADING", "UNAVAILABLE")
"""A model is what its best version is: one version that serves makes it READY."""
_REASON_CHARACTERS = 2_000
_VERSION_CHARACTERS = 64
_UNTOLD = "?"


class TritonControl:
    """The HTTP and metrics ports of one launch. `close` before TERM: Triton waits for every open connection, idle ones too."""

    def __init__(self, launch: TritonLaunch) -> None:
        host, headers = _local(launch.bind), {RESTRICTED_HEADER: launch.restricted_value, "Content-Type": "application/json"}
        self._port, self._host, self._headers, self._wanted = launch.ports.http, host, headers, launch.models
        self._http = HttpClient(tcp(host, launch.ports.http), headers)
        self._metrics = HttpClient(tcp(host, launch.ports.metrics), {})
        self._orders: set[HttpClient] = set()
        self.answered = False
        """It has answered a probe since it was started."""
        self.version = ""
        """Its own, once it told it; asked with the probes until then."""

    def close(self) -> None:
        for client in (self._http, self._metrics, *self._orders):
            client.close()

    async def health(self, deadline_s: float) -> Health:
        """Never raises for a server that is down, hung or strange: the Health says so."""
        loop = asyncio.get_running_loop()
        until = loop.time() + deadline_s
        try:
            live = await self._http.ask("GET", "/v2/health/live", deadline_s)
            ready = await self._http.ask("GET", "/v2/health/ready", until - loop.time())
            index = await self._http.ask("POST", "/v2/repository/index", until - loop.time(), b"{}")
            if not self.version:
                self.version = read_version((await self._http.ask("GET", "/v2", until - loop.time())).body)
        except HttpError as error:
            return Health(answered=False, error=f"tritonserver (port {self._port}): {error}")
        self.answered = True
        states = (live.status == 200, ready.status == 200)
        if index.status != 200:
            return Health(True, *states, error=f"Triton's repository index answered {index.status}: {_said(index)}")
        models = read_index(index.body, self._wanted)
        if models is None:
            return Health(True, *states, error=f"Triton's repository index cannot be read: {index.text[:200]}")
        return Health(True, *states, models)

    async def metrics(self, deadline_s: float) -> str:
        try:
            answer = await self._metrics.ask("GET", "/metrics", deadline_s)
        except HttpError as error:
            raise TritonError(f"Triton's metrics: {error}") from error
        if answer.status != 200:
            raise TritonError(f"Triton's metrics page answered {answer.status}: {_said(answer)}")
        return answer.text

    async def order(self, verb: str, model: str, deadline_s: float) -> None:
        """`load` returns when the model is loaded, which may take minutes: so it has a connection of its own and probes go on."""
        body = b"{}" if verb == "load" else b'{"parameters":{"unload_dependents":false}}'
        client = HttpClient(tcp(self._host, self._port), self._headers, keep=False)
        self._orders.add(client)
        try:
            answer = await client.ask("POST", f"/v2/repository/models/{quote(model, safe='')}/{verb}", deadline_s, body)
        except HttpError as error:
            raise TritonError(f"Triton did not {verb} {model}: {error}") from error
        finally:
            self._orders.discard(client)
            client.close()
        if answer.status != 200:
            raise TritonError(f"Triton did not {verb} {model}: {_said(answer)}")


def read_index(body: bytes, wanted: Iterable[str]) -> tuple[ModelState, ...] | None:
    """The repository index, which has a row a version, as states a model; the wanted ones first. None for what is no index."""
    try:
        rows: dict[str, list[dict[str, str]]] = {}
        for row in json.loads(body):
            rows.setdefault(str(row["name"]), []).append({str(key): str(value) for key, value in row.items()})
    except (ValueError, KeyError, TypeError, AttributeError):
        return None
    names = list(dict.fromkeys(wanted))
    absent = [{"state": "UNAVAILABLE", "reason": "it is not in the model repository"}]
    return (
        *(_model(name, rows.get(name, absent), True) for name in names),
        *(_model(name, rows[name], False) for name in sorted(rows) if name not in names),
    )


def read_version(body: bytes) -> str:
    """Of the server's metadata; "?" for what is none, so that nobody asks for ever."""
    try:
        return str(json.loads(body)["version"])[:_VERSION_CHARACTERS] or _UNTOLD
    except (ValueError, KeyError, TypeError):
        return _UNTOLD


def _model(name: str, rows: list[dict[str, str]], wanted: bool) -> ModelState:
    states = [row.get("state", "") for row in rows]
    state = next((known for known in _STATES if known in states), "UNAVAILABLE")
    reasons = [row["reason"].strip() for row in rows if row.get("reason") and row.get("state") != "READY"]
    if state == "READY":
        # Older versions that were unloaded are no news; a newer one that failed to load is.
        reasons = [reason for reason in reasons if reason != "unloaded"]
    reason = "; ".join(dict.fromkeys(reasons)) or ("" if any(states) else "not loaded")
    return ModelState(name, state, reason[:_REASON_CHARACTERS], _versions(rows), wanted)


def _versions(rows: list[dict[str, str]]) -> tuple[str, ...]:
    return tuple(row.get("version", "") for row in rows if row.get("state") == "READY")


def _said(answer: Answer) -> str:
    """Triton's own words, in one line's length."""
    try:
        text = str(json.loads(answer.body)["error"])
    except (ValueError, KeyError, TypeError):
        text = answer.text
    return " ".join(text.split())[:_REASON_CHARACTERS]


def _local(bind: str) -> str:
    """Where a server that is bound to `bind` is reached from its own machine."""
    address = ip_address(bind)
    if not address.is_unspecified:
        return str(address)
    return "127.0.0.1" if address.version == 4 else "::1"
