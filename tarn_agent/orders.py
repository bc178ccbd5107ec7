"""What the Application Master orders, carried out: drain and stop are events for the keeper; models and logs are jobs of the stream.

An order that is not known is passed over. The answers of a stream end with it, and so do the logs that it followed.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol

import structlog

from tarn_agent import log_follow, wire
from tarn_agent.core import events as ev
from tarn_agent.core.instance import Triton as TritonState
from tarn_agent.core.plan import PlanError, check_name
from tarn_agent.keeper import Keeper
from tarn_agent.ports import Triton, TritonError
from tarn_common.logs import secrets
from tarn_common.tasks import TaskGroup
from tarn_common.wire import agent_pb2 as pb

log = structlog.get_logger(__name__)

SOURCES = ("triton", "agent", "supervisord")
MOST_TAILS = 16
MOST_LINES = 10_000
MOST_COMMANDS = 32


class Stream(Protocol):
    """The uplink, as far as answers go."""

    def send(self, message: pb.AgentMessage) -> None: ...

    async def send_patiently(self, message: pb.AgentMessage) -> None: ...


class Orders:
    """Takes the messages of the stream that stands."""

    def __init__(self, keeper: Keeper, triton: Triton, stream: Stream, log_dir: str, tasks: TaskGroup) -> None:
        self._keeper, self._triton, self._stream, self._tasks = keeper, triton, stream, tasks
        self._log_dir = Path(log_dir)
        self._tails: dict[int, asyncio.Task[Any]] = {}
        self._commands = 0

    def take(self, message: pb.AmMessage) -> None:
        body = message.WhichOneof("body")
        if body == "drain":
            order = message.drain
            log.info("drain_ordered", deadline_s=order.deadline, grace_s=order.grace, reason=order.reason)
            self._keeper.offer(ev.DrainOrdered(_seconds(order.deadline), _seconds(order.grace), order.reason))
        elif body == "stop":
            log.info("stop_ordered", reason=message.stop.reason)
            self._keeper.offer(ev.StopOrdered(message.stop.reason))
        elif body == "model":
            self._model(message.model)
        elif body == "tail_logs":
            self._tail(message.tail_logs)
        elif body != "welcome":
            log.info("order_not_known", body=body)

    def stream_ended(self) -> None:
        for task in self._tails.values():
            task.cancel()
        self._tails.clear()

    # --- models

    def _model(self, command: pb.ModelCommand) -> None:
        verbs: dict[int, Callable[[str], Awaitable[None]]] = {
            pb.ModelCommand.LOAD: self._load,
            pb.ModelCommand.UNLOAD: self._unload,
            pb.ModelCommand.RELOAD: self._load,
        }
        verb = verbs.get(command.action)
        refusal = self._refusal(command.model) if verb is not None else f"this agent does not know the action {int(command.action)}"
        if refusal or verb is None:
            self._stream.send(wire.result(command.request_id, refusal))
            return
        log.info("model_ordered", action=pb.ModelCommand.Action.Name(command.action), model=command.model)
        self._commands += 1
        self._keeper.offer(ev.Changing(+1))
        self._tasks.spawn("model", self._answered(command.request_id, verb(command.model)))

    def _refusal(self, model: str) -> str:
        state = self._keeper.state
        if state.ending is not None:
            return f"this instance is {state.phase.value}: it takes no orders about models any more"
        if state.triton is not TritonState.UP:
            return f"this instance is {state.phase.value}: its tritonserver does not run now; try again when it is READY"
        try:
            check_name(model)
        except PlanError as error:
            return str(error)
        if self._commands >= MOST_COMMANDS:
            return f"{MOST_COMMANDS} orders about models are being carried out already: wait for one of them"
        return ""

    async def _answered(self, request_id: int, work: Awaitable[None]) -> None:
        error: str | None = None
        try:
            await work
        except TritonError as failure:
            error = str(failure)
            log.warning("model_order_failed", error=error)
        finally:
            self._commands -= 1
            self._keeper.offer(ev.Changing(-1))
        self._stream.send(wire.result(request_id, error))

    async def _load(self, model: str) -> None:
        await self._triton.load(model)
        self._keeper.offer(ev.Wanted(model, True))

    async def _unload(self, model: str) -> None:
        """It stops counting for readiness first, so that the others go on serving."""
        was_wanted = model in self._keeper.state.wanted
        self._keeper.offer(ev.Wanted(model, False))
        try:
            await self._triton.unload(model)
        except TritonError:
            self._keeper.offer(ev.Wanted(model, was_wanted))
            raise

    # --- logs

    def _tail(self, order: pb.TailLogs) -> None:
        earlier = self._tails.pop(order.request_id, None)
        if earlier is not None:
            earlier.cancel()
        if order.cancel:
            return
        if order.source not in SOURCES:
            self._log_lines(order.request_id, error=f"there is no log {order.source[:64]!r}; there are {', '.join(SOURCES)}")
        elif len(self._tails) >= MOST_TAILS:
            self._log_lines(order.request_id, error=f"{MOST_TAILS} readers follow logs here already: end one of them")
        else:
            task = self._tasks.spawn("tail", self._show(order.request_id, order.source, min(order.lines, MOST_LINES), order.follow))
            self._tails[order.request_id] = task

    def _log_lines(self, request_id: int, error: str = "") -> None:
        self._stream.send(pb.AgentMessage(log_lines=pb.LogLines(request_id=request_id, end=True, error=error)))

    async def _show(self, request_id: int, source: str, lines: int, follow: bool) -> None:
        stream = self._stream
        try:
            async for batch in log_follow.tail(self._log_dir / f"{source}.log", lines, follow):
                shown = [secrets.hide(line) for line in batch.lines]
                part = pb.LogLines(request_id=request_id, lines=shown, dropped=batch.dropped)
                await stream.send_patiently(pb.AgentMessage(log_lines=part))
            self._log_lines(request_id)
        except OSError as error:
            self._log_lines(request_id, error=f"the log of {source} cannot be read: {error.strerror}")
        finally:
            if self._tails.get(request_id) is asyncio.current_task():
                del self._tails[request_id]


def _seconds(value: float) -> float:
    """A duration as told by another program: neither negative nor without end."""
    return min(max(value, 0.0), 86_400.0) if value == value else 0.0
