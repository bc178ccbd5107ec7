"""A running fleet as its clients meet it: the Application Master's API, wherever that is just now."""

from __future__ import annotations

import abc
import json
from collections.abc import Callable, Mapping
from typing import Any

import aiohttp

from tests.rigs.wait import eventually


class FleetClient(abc.ABC):
    """`url` and `headers` are asked for each call, for a next Application Master may be elsewhere; `url` raises OSError while there is none."""

    @property
    @abc.abstractmethod
    def url(self) -> str: ...

    @property
    @abc.abstractmethod
    def headers(self) -> dict[str, str]: ...

    async def get(self, path: str, **headers: str) -> Any:
        async with aiohttp.ClientSession() as session, session.get(self.url + path, headers={**self.headers, **headers}) as answer:
            assert answer.status == 200, f"{path}: {answer.status} {await answer.text()}"
            return await answer.json() if "json" in answer.content_type else await answer.text()

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        async with aiohttp.ClientSession() as session, session.post(self.url + path, json=body, headers=self.headers) as answer:
            assert answer.status in (200, 202), f"{path}: {answer.status} {await answer.text()}"
            return await answer.json()

    async def status(self) -> Any:
        return await self.get("/status")

    async def listed(self) -> list[dict[str, Any]]:
        found = await self.get("/instances", Accept="application/json")
        return list(found["instances"])

    async def until(self, what: str, holds: Callable[[Any], bool], deadline_s: float = 120) -> Any:
        """The first `/status` for which `holds` is true."""
        last: list[Any] = []

        async def look() -> bool:
            try:
                last[:] = [await self.status()]
            except (aiohttp.ClientError, OSError):
                return False
            return holds(last[0])

        try:
            await eventually(look, what, deadline_s)
        except AssertionError as error:
            raise AssertionError(f"{error}; last status: {json.dumps(last[0], indent=1)[:6000] if last else 'none'}") from None
        return last[0]

    async def ready(self, count: int) -> list[dict[str, Any]]:
        """Waits until exactly `count` instances are READY and nothing is on its way up or down; their status rows."""
        found = await self.until(
            f"{count} READY and nothing else",
            lambda s: s["counts"]["ready"] == count and len(s["instances"]) == count,
        )
        return list(found["instances"])
