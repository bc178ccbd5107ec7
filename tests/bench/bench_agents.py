"""What agents cost the Application Master: reports a second and core, memory an agent, with simulated agents on real streams.

    .venv/bin/python -m tests.bench.bench_agents [--agents 100 1000] [--seconds 20] [--out build/bench]

The AM is the real one in a process of its own, over a cluster that only counts; the agents are real gRPC streams over TLS from
this process, saying hello, READY, and one report (2 GPUs, 4 models) a second; then 50 of them as fast as the stream takes it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import resource
import tempfile
import time
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import psutil

from tarn_am import daemon
from tarn_am.ports import Allocated, ClusterSink, LaunchSpec, Running
from tarn_am.settings import AmSettings
from tarn_am.state import StateDir
from tarn_common import logs
from tarn_common.endpoint import Rendezvous, decode_rendezvous
from tarn_common.ids import ApplicationId, ContainerId, make_container_id
from tarn_common.wire import agent_pb2 as pb
from tarn_common.wire import agent_pb2_grpc as rpc
from tarn_common.wire.limits import MAX_MESSAGE_BYTES, PROTOCOL, TLS_NAME
from tests.bench.table import Table
from tests.rigs.wait import eventually

FLOOD_STREAMS = 50


class CountingCluster:
    """A cluster that grants every ask at once and starts nothing."""

    def __init__(self, application: ApplicationId) -> None:
        self._application, self._number = application, 0
        self._sink: ClusterSink | None = None

    async def start(self, sink: ClusterSink) -> list[Running]:
        self._sink = sink
        return []

    async def request(self, ask_id: str) -> None:
        self._number += 1
        assert self._sink is not None
        self._sink(Allocated(ask_id, make_container_id(self._application, 1, self._number), "node"))

    async def cancel(self, ask_id: str) -> None: ...

    async def launch(self, container_id: ContainerId, spec: LaunchSpec) -> None: ...

    async def stop(self, container_id: ContainerId) -> None: ...

    async def release(self, container_id: ContainerId) -> None: ...

    async def finish(self, succeeded: bool, message: str) -> None: ...


def application_master(state_dir: str, agents: int) -> None:
    with open(f"{state_dir}/am.log", "w") as log:
        logs.configure("WARNING", log)
        settings = AmSettings(
            model_repository="/none", min_instances=agents, max_instances=agents, am_port=0, launch_deadline_s=600.0, report_interval_s=1.0
        )
        state = StateDir(Path(state_dir))

        def on_up(_: Rendezvous) -> None:
            return

        asyncio.run(daemon.run(settings, CountingCluster(state.application_id), state, on_up))


def stats(at: float) -> pb.Stats:
    return pb.Stats(
        at=at,
        gpus_known=True,
        gpus=[pb.Gpu(uuid=f"GPU-{n}", name="H100", utilization=0.5, memory_used=1 << 34, memory_total=1 << 36) for n in range(2)],
        triton_known=True,
        window=10.0,
        in_flight=3.0,
        models=[
            pb.ModelStats(name=f"model{n}", version="1", request_rate=10.0, failure_rate=0.0, queue_time=0.001, pending=1, in_flight=0.7)
            for n in range(4)
        ],
    )


class Simulated:
    """One agent's stream."""

    sent = 0
    welcomed = 0

    def __init__(self, number: int, application: ApplicationId, secret: str, certificate: bytes, address: str) -> None:
        self.container = make_container_id(application, 1, number)
        self._application, self._secret = application, secret
        credentials = grpc.ssl_channel_credentials(certificate)
        options = [
            ("grpc.ssl_target_name_override", TLS_NAME),
            ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        self._channel = grpc.aio.secure_channel(address, credentials, options=options)
        self.flood = asyncio.Event()
        self.interval_s = 1.0
        self._first = number / 1000.0 % 1.0

    async def run(self) -> None:
        metadata = (("authorization", f"Bearer {self._secret}"), ("tarn-container-id", self.container))
        stub = rpc.UplinkStub(self._channel)  # type: ignore[no-untyped-call]
        async for message in stub.Connect(self._messages(), metadata=metadata):
            if message.WhichOneof("body") == "welcome":
                assert message.welcome.accepted, message.welcome.reason
                Simulated.welcomed += 1

    async def _messages(self) -> AsyncIterator[pb.AgentMessage]:
        now = time.time()
        ready = pb.PhaseChange(
            phase=pb.READY,
            since=now,
            endpoint=pb.Endpoint(host="127.0.0.1", http_port=8000, grpc_port=8001, metrics_port=8002),
            models=[pb.Model(name="model0", state="READY", wanted=True)],
        )
        launched = pb.PhaseChange(phase=pb.STARTING, since=now, endpoint=ready.endpoint)
        yield pb.AgentMessage(
            hello=pb.Hello(
                protocol=PROTOCOL,
                application_id=self._application,
                container_id=self.container,
                node="node",
                incarnation="a",
                phase=launched,
            )
        )
        yield pb.AgentMessage(phase=ready)
        await asyncio.sleep(self._first)
        while True:
            yield pb.AgentMessage(stats=stats(time.time()))
            Simulated.sent += 1
            if not self.flood.is_set():
                await asyncio.sleep(self.interval_s)

    async def close(self) -> None:
        await self._channel.close(None)


async def measure(agents: int, seconds: float, table: Table) -> None:
    with tempfile.TemporaryDirectory(prefix="tarn-bench-") as root:
        process = multiprocessing.get_context("spawn").Process(target=application_master, args=(root, agents))
        process.start()
        try:
            await _measure(Path(root), psutil.Process(process.pid), agents, seconds, table)
        finally:
            process.kill()
            process.join()


async def _measure(root: Path, am: psutil.Process, agents: int, seconds: float, table: Table) -> None:
    await eventually((root / "am.json").exists, "the AM is up")
    state = StateDir(root)
    address = str(decode_rendezvous((root / "am.json").read_bytes()).agents)
    certificate = (root / "cert.pem").read_bytes()
    bare = am.memory_info().rss
    Simulated.welcomed = 0
    fleet = [Simulated(n + 1, state.application_id, state.secret(), certificate, address) for n in range(agents)]
    tasks = []
    begin = time.monotonic()
    for one in fleet:
        tasks.append(asyncio.create_task(one.run()))
        await asyncio.sleep(0.001)
    await eventually(lambda: Simulated.welcomed == agents, f"{agents} agents are welcome", 300)
    table.add(f"{agents} agents: all welcome after", [time.monotonic() - begin], "s", "≤ 5 s for 1,000" if agents == 1000 else "")
    await asyncio.sleep(3)
    cpu, sent, begin = sum(am.cpu_times()[:2]), Simulated.sent, time.monotonic()
    await asyncio.sleep(seconds)
    lasted = time.monotonic() - begin
    used = sum(am.cpu_times()[:2]) - cpu
    table.add(f"{agents} agents: reports a second", [(Simulated.sent - sent) / lasted], "/s")
    table.add(f"{agents} agents: the AM's processor at that", [used / lasted * 100], "% core")
    table.add(f"{agents} agents: the AM's memory an agent", [(am.memory_info().rss - bare) / agents / 1024], "KiB")
    table.add(f"{agents} agents: the AM's memory", [am.memory_info().rss / 2**20], "MiB")
    for one in fleet[:FLOOD_STREAMS]:
        one.flood.set()
    await asyncio.sleep(2)
    cpu, sent, begin = sum(am.cpu_times()[:2]), Simulated.sent, time.monotonic()
    await asyncio.sleep(seconds / 2)
    used, taken = sum(am.cpu_times()[:2]) - cpu, Simulated.sent - sent
    table.add(f"{agents} agents, {min(FLOOD_STREAMS, agents)} flooding: reports a second and core", [taken / used], "/s/core")
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*(one.close() for one in fleet))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--agents", type=int, nargs="+", default=[100, 1000])
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--out", type=Path, default=Path("build/bench"))
    asked = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    table = Table("Agents on one Application Master")
    for agents in asked.agents:
        asyncio.run(measure(agents, asked.seconds, table))
    table.show()
    table.keep(asked.out, "agents")
    print(json.dumps({"kept": str(asked.out / "agents.json")}))


if __name__ == "__main__":
    main()
