"""Times of the whole house on one machine: coming up, failing, coming back, and what it costs at rest.

    .venv/bin/python -m tests.bench.bench_house [--rounds 5] [--out build/bench]

Needs Debian's ZooKeeper. Times are taken by polling every 5 ms from outside, as a client would see them.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from kazoo.client import KazooClient

from tests.bench.table import Table
from tests.rigs.house import LocalFleet
from tests.rigs.load import Load
from tests.rigs.zookeeper import ZooKeeperServer

POLL_S = 0.005
REST_S = 30.0
ZK_PATH = "/bench/instances"


async def took(condition: Callable[[], Any], since: float, deadline_s: float = 180) -> float:
    """Seconds from `since` until `condition` holds."""
    while time.monotonic() - since < deadline_s:
        found = condition()
        if await found if isinstance(found, Awaitable) else found:
            return time.monotonic() - since
        await asyncio.sleep(POLL_S)
    raise SystemExit(f"gave up after {deadline_s} s waiting for {condition}")


class Rig:
    """One fleet with ZooKeeper, and one kept-alive client of its AM."""

    def __init__(self, root: Path, zookeeper: ZooKeeperServer, **environ: str) -> None:
        self.fleet = LocalFleet(
            root, TARN_ZK_ENSEMBLE=zookeeper.connect, TARN_ZK_PATH=ZK_PATH, TARN_MIN_INSTANCES="1", TARN_MAX_INSTANCES="4", **environ
        )
        self.kazoo = KazooClient(zookeeper.connect)

    async def listed(self) -> list[str]:
        text = await self.fleet.get("/instances")
        return str(text).split()

    def znodes(self) -> list[str]:
        return list(self.kazoo.get_children(ZK_PATH)) if self.kazoo.exists(ZK_PATH) else []


async def start_up(root: Path, zookeeper: ZooKeeperServer, rounds: int, table: Table) -> None:
    parts: dict[str, list[float]] = {}
    for number in range(rounds):
        rig = Rig(root / f"start{number}", zookeeper)
        wall, begin = time.time(), time.monotonic()
        await rig.fleet.start()
        parts.setdefault("command → AM answers", []).append(time.monotonic() - begin)
        (instance,) = await rig.fleet.ready(1)
        async with Load(rig.fleet, workers=1) as load:
            assert load.ok
        parts.setdefault("command → first answered inference", []).append(time.monotonic() - begin)
        phases = instance["phases"]
        order = ["REQUESTED", "LAUNCHED", "STAGING", "STARTING", "READY"]
        for earlier, later in itertools.pairwise(order):
            if earlier in phases and later in phases:
                parts.setdefault(f"  {earlier} → {later}", []).append(phases[later] - phases[earlier])
        parts.setdefault("command → READY", []).append(phases["READY"] - wall)
        rig.kazoo.start()
        begin = time.monotonic()
        stopping = asyncio.create_task(rig.fleet.stop())
        parts.setdefault("stop ordered → no znode", []).append(await took(lambda rig=rig: not rig.znodes(), begin))  # type: ignore[misc]
        await stopping
        parts.setdefault("stop ordered → nothing runs", []).append(time.monotonic() - begin)
        rig.kazoo.stop()
    aims = {"command → first answered inference": "≤ 4 s", "stop ordered → no znode": "< 1 s (after the grace)"}
    for what, samples in parts.items():
        table.add(what, samples, "s", aims.get(what, ""))


async def failures(root: Path, zookeeper: ZooKeeperServer, rounds: int, table: Table) -> None:
    rig = Rig(root / "failures", zookeeper)
    rig.kazoo.start()
    await rig.fleet.start()
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        (instance,) = await rig.fleet.ready(1)
        container = instance["container_id"]
        await took(lambda: rig.znodes(), time.monotonic())
        os.kill(rig.fleet.pids(container)["triton"], signal.SIGKILL)
        begin = time.monotonic()
        found.setdefault("Triton killed → its znode is gone", []).append(await took(lambda: not rig.znodes(), begin))
        found.setdefault("Triton killed → READY again", []).append(await took(rig.listed, begin))
        (instance,) = await rig.fleet.ready(1)
        triton = rig.fleet.pids(container)["triton"]
        os.kill(triton, signal.SIGSTOP)
        begin = time.monotonic()

        async def empty() -> bool:
            return not await rig.listed()

        found.setdefault("Triton hung → out of /instances", []).append(await took(empty, begin))
        os.kill(triton, signal.SIGCONT)
        await rig.fleet.ready(1)
        os.kill(rig.fleet.pids(container)["init"], signal.SIGKILL)
        begin = time.monotonic()
        found.setdefault("container killed → out of /instances", []).append(await took(empty, begin))
        found.setdefault("container killed → replacement READY", []).append(await took(rig.listed, begin))
        await rig.fleet.ready(1)
        await rig.fleet.kill()
        begin = time.monotonic()
        await rig.fleet.start()
        found.setdefault("AM killed and started → it answers", []).append(time.monotonic() - begin)
        up = time.monotonic()

        async def complete() -> bool:
            answer = await rig.fleet.get("/instances", Accept="application/json")
            return bool(answer["complete"] and answer["instances"])

        found.setdefault("new AM answers → full view", []).append(await took(complete, up))
    aims = {
        "Triton killed → its znode is gone": "≤ 0.2 s",
        "container killed → out of /instances": "≤ 0.2 s",
        "Triton hung → out of /instances": "≤ 5 s",
        "container killed → replacement READY": "≤ 4 s",
        "new AM answers → full view": "≤ 5 s",
    }
    for what, samples in found.items():
        table.add(what, samples, "s", aims.get(what, ""))
    await at_rest(rig, table)
    rig.kazoo.stop()
    await rig.fleet.stop()


async def at_rest(rig: Rig, table: Table) -> None:
    """Processor time and memory over REST_S seconds in which nobody asks anything."""
    (instance,) = await rig.fleet.ready(1)
    family = rig.fleet.pids(instance["container_id"])
    processes = {"AM": rig.fleet.pid, "agent": family["agent"], "init with supervisord": family["init"]}
    before = {name: sum(psutil.Process(pid).cpu_times()[:2]) for name, pid in processes.items()}
    await asyncio.sleep(REST_S)
    aims = {"AM": ("≤ 0.5 %", "≤ 80 MiB"), "agent": ("< 0.5 %", "< 60 MiB")}
    total = 0.0
    for name, pid in processes.items():
        process = psutil.Process(pid)
        cpu = (sum(process.cpu_times()[:2]) - before[name]) / REST_S * 100
        memory = process.memory_full_info().pss / 2**20
        total += memory
        table.add(f"{name}: CPU at rest", [cpu], "% core", aims.get(name, ("", ""))[0])
        table.add(f"{name}: memory (RSS)", [process.memory_info().rss / 2**20], "MiB", aims.get(name, ("", ""))[1])
    table.add("AM, agent and supervisord together (PSS)", [total], "MiB", "≤ 200 MiB")


async def run(rounds: int, out: Path) -> None:
    root = Path(tempfile.mkdtemp(prefix="tarn-bench-"))
    zookeeper = ZooKeeperServer(root / "zookeeper")
    zookeeper.start()
    table = Table("The house on one machine")
    try:
        await start_up(root, zookeeper, rounds, table)
        await failures(root, zookeeper, rounds, table)
    finally:
        zookeeper.kill()
        table.show()
        table.keep(out, "house")
        shutil.rmtree(root, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    try:
        asyncio.run(run(asked.rounds, asked.out))
    except aiohttp.ClientError as error:
        raise SystemExit(f"the Application Master could not be asked: {error}") from error


if __name__ == "__main__":
    main()
