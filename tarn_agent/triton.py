"""The tritonserver of this container: a program of supervisord that the agent starts, watches, stops, and adopts.

It is a child of supervisord, so it serves on when the agent dies. What was launched is kept in `<run_dir>/triton.json`, from
which the next agent learns ports, models and the value that opens the control API. Its end is seen through a pidfd, in
milliseconds. Signals go to the process itself and not through supervisord, which answers nothing while it shuts down.
"""

from __future__ import annotations

import asyncio
import secrets
import signal
import socket
from dataclasses import replace
from pathlib import Path

import structlog

from tarn_agent.core import command
from tarn_agent.core.load_log import is_silent
from tarn_agent.core.model import Ports, TritonLaunch
from tarn_agent.log_tail import LogTail, last_lines
from tarn_agent.ports import Health, TritonError, TritonProcess
from tarn_agent.run_dir import RunDir
from tarn_agent.settings import AgentSettings
from tarn_agent.supervision import Fault, Supervision, SupervisionRefused
from tarn_agent.triton_http import TritonControl
from tarn_common.clock import Clock
from tarn_common.exits import Exit
from tarn_common.process import Process, find

log = structlog.get_logger(__name__)

PROGRAM = "triton"
_SETTLE_S = 5.0
"""How long supervisord may take to see an end that we have seen; it looks once a second, and at each call."""
_LOOK_S = 0.05
_KILL_S = 30.0
"""A process that a KILL does not end is held by the kernel (a GPU driver, a dead NFS): it is reported, not waited for."""


class SupervisedTriton:
    """Implements `ports.Triton`. One owner, one event loop."""

    def __init__(self, settings: AgentSettings, clock: Clock) -> None:
        self._settings, self._clock = settings, clock
        self._run = RunDir(settings.run_dir)
        self._log = Path(settings.log_dir) / "triton.log"
        self._supervision = Supervision(self._run.socket)
        self._process: Process | None = None
        self._control: TritonControl | None = None
        self._tail = LogTail(self._log, whole=True)

    # --- its process

    async def running(self) -> TritonProcess | None:
        """Raises TritonError when supervisord cannot be asked and nothing is remembered either."""
        try:
            program = await self._supervision.program(PROGRAM)
        except TritonError:
            # While supervisord shuts down it refuses every question; the process that we know is still the one.
            if self._process is None:
                raise
            return self._told(self._process) if self._process.runs else None
        found = find(program.pid) if program.has_process else None
        if found is not None:
            self._process = found
        return self._told(found) if found is not None else None

    def _told(self, process: Process) -> TritonProcess:
        return TritonProcess(process.pid, self._clock.wall() - process.age_s)

    async def start(self, launch: TritonLaunch) -> TritonProcess:
        """Starts it; where one runs already, that one is adopted with the launch that it was started with."""
        running = await self.running()
        if running is not None:
            log.info("triton_adopted", pid=running.pid)
            return running
        try:
            argv = command.argv(launch, self._settings.triton_bin, self._settings.triton_backends)
            self._run.write_launch(launch, argv, command.HIDDEN)
        except command.CommandError as error:
            raise TritonError(str(error)) from error
        except OSError as error:
            raise TritonError(f"{self._run.launch} cannot be written: {error.strerror}") from error
        self._forget_control()
        self._tail = LogTail(self._log)
        await self._spawn()
        return await self._spawned()

    async def _spawn(self) -> None:
        """Asks until supervisord has seen the end of the one before."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _SETTLE_S
        while True:
            try:
                return await self._supervision.start(PROGRAM)
            except SupervisionRefused as refused:
                if refused.fault == Fault.SHUTDOWN_STATE:
                    raise TritonError("tritonserver is not started: this container is shutting down") from refused
                if refused.fault != Fault.ALREADY_STARTED or loop.time() > until:
                    raise TritonError(f"tritonserver was not started: {self._last_words() or refused}") from refused
                if await self.running() is not None:
                    return None
            await asyncio.sleep(_LOOK_S)

    async def _spawned(self) -> TritonProcess:
        running = await self.running()
        if running is None:
            raise TritonError(f"tritonserver ended as soon as it was started: {self._last_words() or f'{self._log} does not say why'}")
        log.info("triton_started", pid=running.pid)
        return running

    def _last_words(self) -> str:
        """What the log got since the last start, in one line."""
        return " / ".join(line.strip() for line in self._tail.added()[-3:] if line.strip())

    async def gone(self, process: TritonProcess) -> None:
        known = self._process if self._process is not None and self._process.pid == process.pid else find(process.pid)
        if known is not None:
            await known.ended()

    async def stop(self, term_s: float) -> None:
        """Also ends what supervisord no longer answers for; `term_s` 0 is for one that hangs. Raises TritonError when even KILL fails."""
        self._forget_control()
        try:
            await self.running()
        except TritonError as error:
            log.warning("supervisord_silent", error=str(error))
        process = self._process
        if process is None or not process.send(signal.SIGTERM):
            return
        if not await _ended(process, term_s):
            log.info("triton_killed", pid=process.pid, after_term_s=term_s)
            process.send(signal.SIGKILL)
            if not await _ended(process, _KILL_S):
                raise TritonError(f"tritonserver (pid {process.pid}) does not end, {_KILL_S:g} s after KILL: the kernel holds it")

    # --- how it was launched

    def remembered(self) -> TritonLaunch | None:
        return self._run.read_launch()

    def choose_ports(self, fixed: Ports) -> Ports:
        """All three are held until the last is found, so that they differ."""
        held: list[socket.socket] = []
        try:
            # The fixed ones first: a free one must not happen to be one of them.
            wanted = {"HTTP": fixed.http, "gRPC": fixed.grpc, "metrics": fixed.metrics}
            chosen: dict[str, int] = {}
            for name in sorted(wanted, key=lambda name: wanted[name] == 0):
                held.append(_hold(self._settings.bind, wanted[name], name))
                chosen[name] = held[-1].getsockname()[1]
            return Ports(chosen["HTTP"], chosen["gRPC"], chosen["metrics"])
        finally:
            for sock in held:
                sock.close()

    # --- talking to it

    def _talk(self) -> TritonControl:
        if self._control is None:
            launch = self.remembered()
            if launch is None:
                raise TritonError("no tritonserver was started in this container yet")
            try:
                self._control = TritonControl(launch)
            except ValueError as error:
                raise TritonError(f"{self._run.launch} names no IP address to reach Triton at: {launch.bind!r}") from error
        return self._control

    def _forget_control(self) -> None:
        if self._control is not None:
            self._control.close()
            self._control = None

    @property
    def version(self) -> str:
        return self._control.version if self._control is not None else ""

    async def probe(self, deadline_s: float) -> Health:
        """While Triton loads its first models it answers nothing: then the models' states are those that its log tells."""
        try:
            control = self._talk()
        except TritonError as error:
            return Health(answered=False, error=str(error))
        health = await control.health(deadline_s)
        if health.answered:
            return self._explained(health)
        if control.answered:
            return health
        launch = self.remembered()
        models = self._tail.read().of(launch.models) if launch is not None else ()
        return Health(answered=False, models=models, error=health.error)

    def _explained(self, health: Health) -> Health:
        """With the log's reason where Triton's answers have none: a configuration that cannot be read, a server that cannot begin."""
        if health.error and not health.live:
            said = self._tail.read().error
            return replace(health, error=f"{health.error}; its log: {said}") if said else health
        if any(model.wanted and is_silent(model) for model in health.models):
            return replace(health, models=self._tail.read().explained(health.models))
        return health

    async def metrics(self, deadline_s: float) -> str:
        return await self._talk().metrics(deadline_s)

    async def load(self, model: str) -> None:
        await self._talk().order("load", model, self._settings.load_stall_s)

    async def unload(self, model: str) -> None:
        await self._talk().order("unload", model, self._settings.load_stall_s)

    def last_lines(self, count: int) -> list[str]:
        return last_lines(self._log, count)

    # --- the container

    async def shut_down_container(self) -> None:
        await self._supervision.shut_down()

    def write_exit_status(self, status: Exit, reason: str = "") -> None:
        """What the container will end with; the first one stays. `reason` becomes the last line of its stderr."""
        try:
            self._run.write_exit(status, reason)
        except OSError as error:
            log.error("exit_status_not_written", status=status.code, path=str(self._run.path), error=error.strerror)

    async def close(self) -> None:
        """Lets go of Triton, which serves on."""
        self._forget_control()


def restricted_value() -> str:
    """Opens the restricted APIs of one start of Triton. Random, because the node's process list shows it."""
    return secrets.token_hex(16)


async def _ended(process: Process, within_s: float) -> bool:
    try:
        await asyncio.wait_for(process.ended(), within_s)
    except asyncio.TimeoutError:
        return False
    return True


def _hold(address: str, port: int, name: str) -> socket.socket:
    """Binds and listens as Triton will: what remains of closed connections is no hindrance, another server is."""
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        sock.listen(1)
    except OSError as error:
        sock.close()
        what = f"port {port} on {address}" if port else f"a free port on {address}"
        who = (
            f"stop what holds it (`ss -ltnp 'sport = :{port}'` names it) or choose another; 0 takes a free one"
            if port
            else "check TARN_BIND"
        )
        raise TritonError(f"Triton's {name} port: {what} cannot be had ({error.strerror}): {who}") from error
    return sock
