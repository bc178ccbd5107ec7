"""A constant load on a fleet, through a client that follows `/instances?watch` as a balancer would, and counts every failure."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import aiohttp

from tests.rigs.fleet_client import FleetClient
from tests.rigs.wait import eventually

THINK_S = 0.02
"""Between two requests of one worker: the load is constant, not a flood, for the machine has other work."""


class Load:
    """`workers` callers of one model. A request fails when it gets no answer or another status than 200."""

    def __init__(self, fleet: FleetClient, workers: int = 4, model: str = "identity") -> None:
        self.ok = 0
        self.failures: list[str] = []
        self._fleet, self._workers, self._model = fleet, workers, model
        self._endpoints: list[str] = []
        self._turn = itertools.count()
        self._tasks: list[asyncio.Task[None]] = []
        self._some = asyncio.Event()
        self._stopping = False

    async def __aenter__(self) -> Load:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60), connector=aiohttp.TCPConnector(limit=0))
        self._tasks.append(asyncio.create_task(self._follow()))
        await self._some.wait()
        self._body = await self._request_body()
        self._callers = [asyncio.create_task(self._call()) for _ in range(self._workers)]
        await self.more(self._workers)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._callers)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()

    async def more(self, count: int) -> None:
        """Waits until `count` more requests were answered."""
        goal = self.ok + count
        await eventually(lambda: self.ok >= goal, f"{count} more requests answered; failures so far: {self.failures[:3]}", 180)

    @property
    def endpoints(self) -> list[str]:
        """Where the next requests go: the last complete list."""
        return list(self._endpoints)

    async def _follow(self) -> None:
        """Keeps the last complete list for as long as the AM is away."""
        version = ""
        while True:
            try:
                url = f"{self._fleet.url}/instances?watch={version}&timeout=20"
                headers = {**self._fleet.headers, "Accept": "application/json"}
                async with self._session.get(url, headers=headers) as answer:
                    found = await answer.json()
                    version = found["version"]
                    if found["complete"]:
                        self._take([f"http://{i['host']}:{i['http_port']}" for i in found["instances"]])
            except (aiohttp.ClientError, OSError, ValueError, KeyError):
                await asyncio.sleep(0.1)

    def _take(self, endpoints: list[str]) -> None:
        self._endpoints = endpoints
        if endpoints:
            self._some.set()
        else:
            self._some.clear()

    async def _request_body(self) -> dict[str, Any]:
        async with self._session.get(f"{self._endpoints[0]}/v2/models/{self._model}") as answer:
            wanted = (await answer.json())["inputs"][0]
        shape = [size if size > 0 else 1 for size in wanted["shape"]]
        count = 1
        for size in shape:
            count *= size
        return {"inputs": [{"name": wanted["name"], "datatype": wanted["datatype"], "shape": shape, "data": [1] * count}]}

    async def _call(self) -> None:
        while not self._stopping:
            await self._some.wait()
            endpoint = self._endpoints[next(self._turn) % len(self._endpoints)]
            try:
                async with self._session.post(f"{endpoint}/v2/models/{self._model}/infer", json=self._body) as answer:
                    text = await answer.text()
                    if answer.status == 200:
                        self.ok += 1
                    else:
                        self.failures.append(f"{endpoint}: {answer.status} {text[:200]}")
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                self.failures.append(f"{endpoint}: {error!r}")
            await asyncio.sleep(THINK_S)
