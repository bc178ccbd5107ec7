"""A program that stands in a container where the agent would: speaks the real stream by the real contract, and serves nothing.

It is configured only by what a container gets. So tests of the Application Master prove what it hands to its containers
(environment, credentials, certificate, rendezvous) without the seconds that a Triton takes.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any

import grpc

from tarn_common import credentials
from tarn_common.endpoint import decode_rendezvous
from tarn_common.exits import Exit
from tarn_common.wire import agent_pb2 as pb
from tarn_common.wire import agent_pb2_grpc
from tarn_common.wire.limits import TLS_NAME

COMMAND = (sys.executable, "-m", "tests.rigs.scripted_agent")
RUNTIME = {"PYTHONPATH": str(Path(__file__).parents[2])}


class ScriptedAgent:
    """READY as soon as it is accepted; drains at once; comes back when its master does."""

    def __init__(self) -> None:
        held = credentials.read(Path(os.environ["HADOOP_TOKEN_FILE_LOCATION"])).secrets
        self._secret = held[credentials.AGENT_SECRET].decode()
        self._tls = grpc.ssl_channel_credentials(held[credentials.AM_CERTIFICATE])
        self._container = os.environ["CONTAINER_ID"]
        self._phase = pb.PhaseChange(phase=pb.LAUNCHED)
        (Path(os.environ["TARN_RUN_DIR"]) / "up").write_text(str(os.getpid()))

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        script = asyncio.ensure_future(self._forever())
        loop.add_signal_handler(signal.SIGTERM, script.cancel)
        await asyncio.wait({script})
        status = int(Exit.TERMINATED if script.cancelled() else script.result())
        (Path(os.environ["TARN_RUN_DIR"]) / "exit-status").write_text(str(status))
        return status

    async def _forever(self) -> int:
        while True:
            with contextlib.suppress(grpc.aio.AioRpcError, asyncio.TimeoutError, OSError, ValueError):
                status = await self._once()
                if status is not None:
                    return status
            await asyncio.sleep(0.1)

    async def _once(self) -> int | None:
        at = str(decode_rendezvous(Path(os.environ["TARN_RENDEZVOUS"]).read_bytes()).agents) if self._known() else os.environ["TARN_AM"]
        async with grpc.aio.secure_channel(at, self._tls, options=[("grpc.ssl_target_name_override", TLS_NAME)]) as channel:
            metadata = (("authorization", f"Bearer {self._secret}"), ("tarn-container-id", self._container))
            call: Any = agent_pb2_grpc.UplinkStub(channel).Connect(metadata=metadata)  # type: ignore[no-untyped-call]
            hello = pb.Hello(
                protocol=1,
                application_id=os.environ["TARN_APPLICATION_ID"],
                container_id=self._container,
                node=os.environ["NM_HOST"],
                incarnation=str(os.getpid()),
                phase=self._phase,
            )
            # Whoever took the master's port in the meantime may accept and say nothing.
            await asyncio.wait_for(call.write(pb.AgentMessage(hello=hello)), 2.0)
            welcome = await asyncio.wait_for(call.read(), 2.0)
            if not welcome.welcome.accepted:
                return Exit.REFUSED
            if self._phase.phase == pb.LAUNCHED:
                await self._enter(call, pb.STARTING)
                await self._enter(call, pb.READY)
            return await self._listen(call)

    def _known(self) -> bool:
        return Path(os.environ["TARN_RENDEZVOUS"]).exists()

    async def _enter(self, call: Any, phase: pb.Phase.ValueType) -> None:
        self._phase = pb.PhaseChange(phase=phase)
        if phase == pb.READY:
            self._phase.endpoint.CopyFrom(
                pb.Endpoint(host="127.0.0.1", http_port=20_000 + int(self._container[-4:]), grpc_port=1, metrics_port=2)
            )
        await call.write(pb.AgentMessage(phase=self._phase))

    async def _listen(self, call: Any) -> int | None:
        reports = asyncio.ensure_future(self._report(call))
        try:
            while (message := await call.read()) is not grpc.aio.EOF:  # type: ignore[attr-defined]
                if message.HasField("drain"):
                    await self._enter(call, pb.DRAINING)
                    await self._enter(call, pb.STOPPED)
                    await call.done_writing()
                    return Exit.DRAINED
                if message.HasField("stop"):
                    return Exit.ORDERED
        finally:
            reports.cancel()
        return None

    async def _report(self, call: Any) -> None:
        while True:
            await asyncio.sleep(0.5)
            await call.write(pb.AgentMessage(stats=pb.Stats(in_flight=0.0)))


if __name__ == "__main__":
    os._exit(asyncio.run(ScriptedAgent().run()))
