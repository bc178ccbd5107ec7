"""The tritonserver of this container: a program of supervisord that the agent starts, watches, stops, and adopts.

What was launched is kept in `<run_dir>/triton.json` (mode 0600), so that a restarted agent finds the ports, the models and
the value that opens the control API. The end of the process is seen through a pidfd, in milliseconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import secrets
import signal
import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import structlog

from tarn_agent.core.model import Ports, TritonLaunch
from tarn_agent.init import SOCKET, write_exit_status
from tarn_agent.ports import Health, TritonError, TritonProcess
from tarn_agent.settings import AgentSettings
from tarn_agent.supervision import Fault, Program, Supervision, SupervisorFault
from tarn_agent.triton_http import RESTRICTED_HEADER, TritonHttp
from tarn_common.clock import Clock
from tarn_common.exits import Exit

log = structlog.get_logger(__name__)
T = TypeVar("T")
PROGRAM = "triton"
REAP_S = 0.05
RESTRICTED = "model-repository,shared-memory,logging,trace"


class SupervisedTriton:
    """Implements `ports.Triton`. Methods are called from one event loop."""

    def __init__(self, settings: AgentSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._run_dir = Path(settings.run_dir)
        self._supervision = Supervision(str(self._run_dir / SOCKET))
        # Two threads: a probe of a hung Triton must not hold up supervisord's calls. Orders such as a load use the loop's own.
        self._probes = ThreadPoolExecutor(1, "triton-probe")
        self._calls = ThreadPoolExecutor(1, "supervisord")
        self._process: TritonProcess | None = None
        self._http: TritonHttp | None = None

    async def _call(self, function: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._calls, function, *args)

    async def running(self) -> TritonProcess | None:
        program = await self._call(self._supervision.program, PROGRAM)
        self._process = TritonProcess(program.pid, program.started_at) if program.runs and _alive(program.pid) else None
        return self._process

    def remembered(self) -> TritonLaunch | None:
        try:
            kept = json.loads((self._run_dir / "triton.json").read_text())["launch"]
            return TritonLaunch(
                repository=kept["repository"],
                models=tuple(kept["models"]),
                ports=Ports(**kept["ports"]),
                bind=kept["bind"],
                exit_timeout_s=kept["exit_timeout_s"],
                restricted_value=kept["restricted_value"],
                extra_args=tuple(kept["extra_args"]),
                environ=tuple((key, value) for key, value in kept["environ"]),
            )
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def choose_ports(self, fixed: Ports) -> Ports:
        bound: list[socket.socket] = []
        try:
            for name, port in dataclasses.asdict(fixed).items():
                bound.append(_bind(self._settings.bind, port, name))
            return Ports(*(sock.getsockname()[1] for sock in bound))
        finally:
            for sock in bound:
                sock.close()

    async def start(self, launch: TritonLaunch) -> TritonProcess:
        """Starts it, or adopts the one that runs. A process that is dead but not yet reaped is waited for."""
        await self._call(self._write, launch)
        while True:
            program = await self._call(self._supervision.program, PROGRAM)
            if program.runs and _alive(program.pid):
                break
            if not program.runs:
                await self._spawn()
            # Each call wakes supervisord, which then reaps: so this turns a few times at most.
            await asyncio.sleep(REAP_S)
        self._process = TritonProcess(program.pid, program.started_at or self._clock.wall())
        self._http = TritonHttp(launch)
        return self._process

    async def _spawn(self) -> None:
        try:
            await self._call(self._supervision.start, PROGRAM)
        except SupervisorFault as fault:
            if fault.code != Fault.ALREADY_STARTED:
                raise TritonError(f"supervisord could not start tritonserver: {fault}") from fault
        program: Program = await self._call(self._supervision.program, PROGRAM)
        if program.state in ("FATAL", "EXITED", "BACKOFF"):
            said = "; ".join(self.last_lines(3)) or f"status {program.exit_status}"
            raise TritonError(f"tritonserver ended as soon as it was started: {said}")

    def _write(self, launch: TritonLaunch) -> None:
        record = {"argv": self._argv(launch), "environ": dict(launch.environ), "launch": dataclasses.asdict(launch)}
        path = self._run_dir / "triton.json"
        temporary = path.with_suffix(".tmp")
        temporary.unlink(missing_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w") as file:
            json.dump(record, file)
        temporary.replace(path)

    def _argv(self, launch: TritonLaunch) -> list[str]:
        opens = f"{RESTRICTED}:{RESTRICTED_HEADER}={launch.restricted_value}"
        argv = [
            self._settings.triton_bin,
            f"--model-repository={launch.repository}",
            "--model-control-mode=explicit",
            *(f"--load-model={model}" for model in launch.models),
            "--exit-on-error=false",
            "--strict-readiness=true",
            f"--exit-timeout-secs={launch.exit_timeout_s}",
            f"--http-address={launch.bind}",
            f"--grpc-address={launch.bind}",
            f"--metrics-address={launch.bind}",
            f"--http-port={launch.ports.http}",
            f"--grpc-port={launch.ports.grpc}",
            f"--metrics-port={launch.ports.metrics}",
            "--reuse-http-port=false",
            "--reuse-grpc-port=false",
            "--allow-gpu-metrics=true",
            f"--http-restricted-api={opens}",
            f"--grpc-restricted-protocol={opens}",
        ]
        if self._settings.triton_backends:
            argv.append(f"--backend-directory={self._settings.triton_backends}")
        return [*argv, *launch.extra_args]

    def adopt(self, launch: TritonLaunch) -> None:
        """Takes up the conversation with a Triton that `launch` started and that still runs."""
        self._http = TritonHttp(launch)

    def _talk(self) -> TritonHttp:
        if self._http is None:
            launch = self.remembered()
            if launch is None:
                raise TritonError("no tritonserver was started in this container yet")
            self._http = TritonHttp(launch)
        return self._http

    async def probe(self, deadline_s: float) -> Health:
        try:
            talk = self._talk()
        except TritonError as error:
            return Health(answered=False, error=str(error))
        return await asyncio.get_running_loop().run_in_executor(self._probes, talk.health, deadline_s)

    async def metrics(self, deadline_s: float) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._probes, self._talk().metrics, deadline_s)

    async def load(self, model: str) -> None:
        await asyncio.to_thread(self._talk().load, model)

    async def unload(self, model: str) -> None:
        await asyncio.to_thread(self._talk().unload, model)

    async def stop(self, term_s: float) -> None:
        await self._close_http()
        with contextlib.suppress(TritonError):
            await self.running()
        process = self._process
        if process is None or not _alive(process.pid):
            return
        try:
            await self._call(self._supervision.stop, PROGRAM)
        except TritonError:
            # supervisord is ending itself and takes no orders, or is gone: the signal is the same.
            _signal(process.pid, signal.SIGTERM)
        try:
            await asyncio.wait_for(self.gone(process), term_s)
        except asyncio.TimeoutError:
            log.info("triton_killed", pid=process.pid, after_term_s=term_s)
            _signal(process.pid, signal.SIGKILL)
            await self.gone(process)
        self._process = None

    async def kill(self) -> None:
        """For a Triton that hangs: TERM would not be heard."""
        if self._process is not None:
            _signal(self._process.pid, signal.SIGKILL)

    async def gone(self, process: TritonProcess) -> None:
        try:
            descriptor = os.pidfd_open(process.pid)
        except ProcessLookupError:
            return
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(descriptor, ended.set)
        try:
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def last_lines(self, count: int) -> list[str]:
        try:
            with (Path(self._settings.log_dir) / "triton.log").open("rb") as file:
                file.seek(0, os.SEEK_END)
                file.seek(max(0, file.tell() - 500 * count))
                return file.read().decode(errors="replace").splitlines()[-count:]
        except OSError:
            return []

    async def shut_down_container(self) -> None:
        await self._call(self._supervision.shut_down)

    def write_exit_status(self, status: Exit) -> None:
        write_exit_status(self._run_dir, status)

    async def _close_http(self) -> None:
        if self._http is not None:
            await asyncio.get_running_loop().run_in_executor(self._probes, self._http.close)

    async def close(self) -> None:
        await self._close_http()
        self._probes.shutdown(wait=False, cancel_futures=True)
        self._calls.shutdown(wait=False, cancel_futures=True)


def restricted_value() -> str:
    """Random, for one start of Triton: it is seen in the process list of the node."""
    return secrets.token_hex(16)


def _bind(address: str, port: int, name: str) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((address, port))
        sock.listen(1)
    except OSError as error:
        sock.close()
        raise TritonError(
            f"Triton's {name} port {port} cannot be had on {address}: {error.strerror}; free it, choose another, or give 0 for a free one"
        ) from error
    return sock


def _alive(pid: int) -> bool:
    """Runs and is no zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return False


def _signal(pid: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
