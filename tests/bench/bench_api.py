"""How many answers a second the HTTP API gives, and how late the last hundredth is: `python -m tests.bench.bench_api [--json FILE]`.

The server runs in a process of its own, the client here: raw sockets, one request in flight on each kept-alive connection. Two
states of the fleet: one that stands still, and one whose view is replaced twenty times a second, as it is under reports of many
agents.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tarn_am.api.server import ApiServer
from tarn_am.core.model import FleetView
from tarn_am.settings import AmSettings
from tarn_common import logs
from tarn_common.clock import SystemClock
from tests.rigs.fake_fleet import FakeFleet, large_view

CHANGES_EVERY_S = 0.05
AIMS = {"/instances": 3000.0, "/metrics": 500.0}
TEXT, JSON = "text/plain", "application/json"


@dataclass(frozen=True)
class Row:
    path: str
    accept: str
    instances: int
    connections: int
    changing: bool
    per_second: float
    p50_ms: float
    p99_ms: float
    body_bytes: int


class Asker(asyncio.Protocol):
    """Asks again as soon as the whole answer is there, until `stop_at`."""

    def __init__(self, request: bytes, stop_at: float) -> None:
        self._request, self._stop_at = request, stop_at
        self._buffer, self._sent_at = bytearray(), 0.0
        self.times: list[float] = []
        self.body_bytes = 0
        self.done = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._sent_at = time.perf_counter()
        self._transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        end = self._buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        head = bytes(self._buffer[:end]).lower()
        assert head.startswith(b"http/1.1 200"), head
        self.body_bytes = int(head.partition(b"content-length:")[2].partition(b"\r\n")[0])
        if len(self._buffer) < end + 4 + self.body_bytes:
            return
        now = time.perf_counter()
        self.times.append(now - self._sent_at)
        self._buffer.clear()
        if now < self._stop_at:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.done.set_result(None)


async def measure(port: int, path: str, accept: str, connections: int, seconds: float) -> tuple[list[float], float, int]:
    request = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAccept: {accept}\r\n\r\n".encode()
    began = time.perf_counter()
    loop = asyncio.get_running_loop()
    made = [await loop.create_connection(lambda: Asker(request, began + seconds), "127.0.0.1", port) for _ in range(connections)]
    askers = [asker for _, asker in made]
    for asker in askers:
        await asker.done
    return [t for asker in askers for t in asker.times], time.perf_counter() - began, askers[0].body_bytes


class Serving:
    """The server in a process of its own."""

    def __init__(self, instances: int, changing: bool) -> None:
        self._command = [sys.executable, "-m", "tests.bench.bench_api", "--serve", str(instances)] + ["--changing"] * changing

    def __enter__(self) -> int:
        self._process = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        return int(self._process.stdout.readline())

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait()


async def serve(instances: int, changing: bool) -> None:
    logs.configure("ERROR")
    clock = SystemClock()
    fleet = FakeFleet(_fresh(large_view(instances), clock.wall(), 0))
    api = ApiServer(fleet, AmSettings(model_repository="/models", am_port=0), None, clock)
    print((await api.start()).port, flush=True)
    number = 0
    while True:
        await asyncio.sleep(CHANGES_EVERY_S if changing else 3600)
        number += 1
        fleet.put(_fresh(fleet.view(), clock.wall(), number))


def _fresh(view: FleetView, now: float, number: int) -> FleetView:
    """The view a moment later; the first one, and every sample, stays fresh for an hour."""
    if number:
        return replace(view, at=now, version=f"am1-{number}")
    instances = tuple(replace(i, sample=replace(i.sample, received_at=now + 3600)) for i in view.instances if i.sample)
    return replace(view, at=now + 3600, instances=instances)


def rows(seconds: float) -> Iterator[Row]:
    for instances in (1, 20, 100, 1000):
        for changing in (False, True):
            with Serving(instances, changing) as port:
                for path, accept, connections in _cases(changing):
                    times, took, size = asyncio.run(measure(port, path, accept, connections, seconds))
                    cuts = statistics.quantiles(times, n=100) if len(times) > 1 else [times[0]] * 99
                    yield Row(path, accept, instances, connections, changing, len(times) / took, cuts[49] * 1e3, cuts[98] * 1e3, size)


def _cases(changing: bool) -> list[tuple[str, str, int]]:
    at_rest = [("/instances", TEXT, 8), ("/instances", TEXT, 32), ("/health", TEXT, 1)]
    return [
        ("/instances", TEXT, 1), ("/instances", JSON, 1), ("/metrics", TEXT, 1), ("/status", TEXT, 1), ("/dashboard", TEXT, 1),
        *([] if changing else at_rest),
    ]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    parser.add_argument("--seconds", type=float, default=1.5, help="for each row")
    parser.add_argument("--serve", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--changing", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.serve is not None:
        asyncio.run(serve(given.serve, given.changing))
    found = []
    print(
        f"{'path':<12}{'form':<18}{'instances':>10}{'connections':>12}{'view':>10}{'per second':>12}{'p50 ms':>9}{'p99 ms':>9}{'bytes':>10}"
    )
    for row in rows(given.seconds):
        found.append(asdict(row))
        state = "changing" if row.changing else "still"
        print(
            f"{row.path:<12}{row.accept:<18}{row.instances:>10}{row.connections:>12}{state:>10}"
            f"{row.per_second:>12,.0f}{row.p50_ms:>9.2f}{row.p99_ms:>9.2f}{row.body_bytes:>10,}",
            flush=True,
        )
    if given.json:
        given.json.write_text(json.dumps({"aims_per_second": AIMS, "rows": found}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
