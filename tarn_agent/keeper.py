"""The one loop that owns the instance's state: events in, one step of `core.lifecycle`, its actions carried out.

`offer` takes an event from wherever it comes, in the event loop's thread, and acts before it returns; what takes time becomes
a job whose result is the next event. Nobody else changes the state; everybody reads it.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from tarn_agent.core import events as ev
from tarn_agent.core import lifecycle
from tarn_agent.core.events import Action, Event
from tarn_agent.core.instance import Policy, State, begin
from tarn_agent.core.model import Phase, Ports, Progress, TritonLaunch
from tarn_agent.memory import MemoryFile
from tarn_agent.ports import Presence, Staged, StageError, Stager, Triton, TritonError, TritonProcess
from tarn_agent.settings import AgentSettings
from tarn_agent.triton import restricted_value
from tarn_common.clock import Clock
from tarn_common.endpoint import HostPort
from tarn_common.exits import Exit
from tarn_common.tasks import TaskGroup

log = structlog.get_logger(__name__)

_TERM_S = 2.0
_EXIT_TIMEOUT_S = 5
_LAST_LINES = 5


@dataclass(frozen=True)
class Means:
    """What the keeper acts with."""

    stager: Stager
    triton: Triton
    presence: Presence
    memory: MemoryFile
    tasks: TaskGroup
    clock: Clock


class Keeper:
    """`changed` is called after each step that changed the state, with the state before it."""

    def __init__(self, settings: AgentSettings, policy: Policy, means: Means, changed: Callable[[State], None]) -> None:
        self._settings, self._policy, self._means, self._changed = settings, policy, means, changed
        self._now = means.clock.monotonic
        self.state = begin(self._now())
        self.ports: Ports | None = None
        self.progress: Progress | None = None
        self.finished: asyncio.Future[ev.Finish] = asyncio.get_running_loop().create_future()
        self.stirred = asyncio.Event()
        """Set by every step that changed the state."""
        self._early: list[Event] | None = []
        self._repository = ""
        self._job: asyncio.Task[Any] | None = None
        self._timer: asyncio.TimerHandle | None = None

    # --- what an agent before this one left

    async def resume(self) -> None:
        """Adopts a tritonserver that runs, goes on with an end that had begun, or begins at the beginning."""
        kept = self._means.memory.read()
        try:
            process = await self._means.triton.running()
        except TritonError as error:
            log.warning("triton_unknown", error=str(error))
            process = None
        launch = self._means.triton.remembered() if process is not None else None
        wanted = kept.wanted or (launch.models if launch is not None else ())
        self.state = begin(self._now(), wanted, kept.deaths, kept.restarts)
        early, self._early = self._early or [], None
        if process is not None and launch is not None:
            self.ports, self._repository = launch.ports, launch.repository
            log.info("triton_adopted", pid=process.pid, http_port=launch.ports.http, models=len(wanted))
            self.offer(ev.Adopted(process.pid, served=kept.served and kept.pid == process.pid))
            self._means.tasks.spawn("triton-watch", self._watch(process))
        if kept.exit:
            self.offer(ev.Interrupted(Exit(kept.exit), kept.exit_reason, kept.stop_at - self._now()))
        elif kept.accepted and process is None:
            self.offer(ev.Resumed())
        for event in early:
            self.offer(event)
        self._set_timer()

    # --- the loop

    def offer(self, event: Event) -> None:
        if self._early is not None:
            # A TERM, say: before it is known what there is to end, there is nothing to decide about.
            self._early.append(event)
            return
        before = self.state
        after, actions = lifecycle.step(self._policy, before, event, self._now())
        moved = after != before  # most looks at a tritonserver at rest change nothing
        if moved:
            self.state = after
            self._tell(before)
        self._means.memory.keep(self.state)
        for action in actions:
            self._act(action)
        self._set_timer()
        if moved:
            self.stirred.set()
            self._changed(before)

    def _tell(self, before: State) -> None:
        now = self.state
        if now.phase is before.phase and now.reason == before.reason:
            return
        if now.phase is before.phase:
            log.debug("phase_reason", phase=now.phase.value, reason=now.reason)
        else:
            level = log.error if now.phase is Phase.FAILED else log.warning if now.phase is Phase.UNREADY else log.info
            level("phase", phase=now.phase.value, was=before.phase.value, reason=now.reason)

    def _set_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due = lifecycle.next_deadline(self._policy, self.state)
        if due is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, due - self._now()) + 0.001, self.offer, ev.Tick())

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    # --- the actions

    def _act(self, action: Action) -> None:
        tasks = self._means.tasks
        if isinstance(action, ev.Announce):
            if self.ports is not None:
                self._means.presence.announce(str(HostPort(self._settings.announced_host, self.ports.http)))
        elif isinstance(action, ev.Withdraw):
            tasks.spawn("withdraw", self._withdraw())
        elif isinstance(action, ev.Stage):
            self._job = tasks.spawn("stage", self._stage())
        elif isinstance(action, ev.Start):
            self._job = tasks.spawn("start", self._start(action.models))
        elif isinstance(action, ev.Kill):
            tasks.spawn("kill", self._kill())
        elif isinstance(action, ev.Unload):
            tasks.spawn("unload", self._unload(action.models))
        elif isinstance(action, ev.Stop):
            tasks.spawn("stop", self._stop())
        elif not self.finished.done():
            self.finished.set_result(action)

    async def _withdraw(self) -> None:
        if self.state.announced:
            return  # READY again before this could begin: the later wish counts
        await self._means.presence.withdraw()
        self.offer(ev.Withdrawn())

    async def _stage(self) -> None:
        try:
            staged = await self._staged(again=False)
        except StageError as error:
            self.offer(ev.StageFailed(str(error)))
            return
        self.offer(ev.Staged(staged.models))

    async def _staged(self, *, again: bool) -> Staged:
        loop = asyncio.get_running_loop()
        staged = await self._means.stager.stage(lambda progress: _in_loop(loop, self._progressed, progress), again=again)
        self._repository, self.progress = staged.path, staged.progress
        return staged

    async def _restage(self, models: tuple[str, ...]) -> None:
        """Where the repository is gone: a tritonserver that begins without it never recovers. Raises StageError."""
        if await self._means.stager.has(self._repository, models):
            return
        log.warning("repository_gone", path=self._repository)
        self.offer(ev.Waiting(f"the model repository at {self._repository} is gone: tritonserver is started when it is there again"))
        await self._staged(again=True)

    def _progressed(self, progress: Progress) -> None:
        before, self.progress = self.progress, progress
        if progress.waiting != (before.waiting if before is not None else ""):
            self.offer(ev.Waiting(progress.waiting))

    async def _start(self, models: tuple[str, ...]) -> None:
        try:
            await self._restage(models)
            self.ports = self._choose_ports()
            process = await self._means.triton.start(self._launch(models, self.ports))
        except StageError as error:
            self.offer(ev.StageFailed(str(error)))
            return
        except TritonError as error:
            self.offer(ev.StartFailed(str(error), random.random()))  # noqa: S311 - jitter
            return
        launch = self._means.triton.remembered()
        self.ports = launch.ports if launch is not None else self.ports
        self.offer(ev.Started(process.pid))
        self._means.tasks.spawn("triton-watch", self._watch(process))

    def _choose_ports(self) -> Ports:
        """Those of the last start again, if they are free: then nobody has to learn new ones."""
        fixed = Ports(self._settings.http_port, self._settings.grpc_port, self._settings.metrics_port)
        if self.ports is not None:
            try:
                return self._means.triton.choose_ports(self.ports)
            except TritonError as error:
                log.info("ports_taken", error=str(error))
        return self._means.triton.choose_ports(fixed)

    def _launch(self, models: tuple[str, ...], ports: Ports) -> TritonLaunch:
        return TritonLaunch(
            repository=self._repository,
            models=models,
            ports=ports,
            bind=self._settings.bind,
            exit_timeout_s=_EXIT_TIMEOUT_S,
            restricted_value=restricted_value(),
            extra_args=self._settings.triton_arguments,
            environ=tuple(self._settings.user_environment.items()),
        )

    async def _watch(self, process: TritonProcess) -> None:
        await self._means.triton.gone(process)
        self.offer(ev.Gone(process.pid, tuple(self._means.triton.last_lines(_LAST_LINES)), random.random()))  # noqa: S311 - jitter

    async def _kill(self) -> None:
        try:
            await self._means.triton.stop(0.0)
        except TritonError as error:
            log.error("triton_not_killed", error=str(error))

    async def _unload(self, models: tuple[str, ...]) -> None:
        results = await asyncio.gather(*(self._means.triton.unload(model) for model in models), return_exceptions=True)
        for model, result in zip(models, results, strict=True):
            if isinstance(result, TritonError):
                log.warning("model_not_unloaded", model=model, error=str(result))
            elif isinstance(result, BaseException):
                raise result
        self.offer(ev.Unloaded())

    async def _stop(self) -> None:
        if self._job is not None and not self._job.done():
            self._job.cancel()
            await asyncio.wait({self._job}, timeout=_TERM_S)
        try:
            await self._means.triton.stop(_TERM_S)
        except TritonError as error:
            log.error("triton_not_stopped", error=str(error))
        self.offer(ev.Stopped())


def _in_loop(loop: asyncio.AbstractEventLoop, call: Callable[[Progress], None], progress: Progress) -> None:
    """Progress may be told from the worker threads that copy."""
    loop.call_soon_threadsafe(call, progress)
