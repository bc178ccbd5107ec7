"""One agent's open stream, as the server sees it: what goes out, what was asked and is not answered yet.

Every queue in here is bounded. An agent that does not read what it is sent loses its stream; a log that comes faster than it
is read loses lines and says how many.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator

import grpc

from tarn_am import intake
from tarn_am.ports import CommandFailed, NotConnected
from tarn_common.ids import ContainerId
from tarn_common.wire import agent_pb2 as pb
from tarn_common.wire.limits import MAX_LOG_LINE_CHARS, MAX_LOG_LINES_PER_MESSAGE

OUTGOING_KEPT = 200
TAIL_LINES_KEPT = 2_000
MAX_TAILS = 32


class Tail:
    """Lines of one `TailLogs`, between the stream that brings them and the reader that takes them."""

    def __init__(self) -> None:
        self.arrived: asyncio.Queue[str | None] = asyncio.Queue()
        self.error: Exception | None = None
        self._dropped = 0

    def push(self, message: pb.LogLines) -> None:
        self._dropped += message.dropped
        for line in itertools.islice(message.lines, MAX_LOG_LINES_PER_MESSAGE):
            if self.arrived.qsize() >= TAIL_LINES_KEPT:
                self._dropped += 1
                continue
            if self._dropped:
                self.arrived.put_nowait(f"… {self._dropped} lines left out: the log is faster than its reader …")
                self._dropped = 0
            self.arrived.put_nowait(intake.text(line, MAX_LOG_LINE_CHARS))
        if message.error:
            self.end(CommandFailed(intake.text(message.error, intake.MAX_REASON)))
        elif message.end:
            self.end(None)

    def end(self, error: Exception | None) -> None:
        self.error = error
        self.arrived.put_nowait(None)


class AgentStream:
    """The stream of one container's agent. `ending` is set to the status with which this side ends it."""

    def __init__(self, container: ContainerId, peer: str) -> None:
        self.container = container
        self.peer = peer
        self.ending: asyncio.Future[tuple[grpc.StatusCode, str]] = asyncio.get_running_loop().create_future()
        self.outgoing: asyncio.Queue[pb.AmMessage] = asyncio.Queue()
        self._requests = itertools.count(1)
        self._commands: dict[int, asyncio.Future[None]] = {}
        self._tails: dict[int, Tail] = {}

    def end(self, code: grpc.StatusCode, why: str) -> None:
        if not self.ending.done():
            self.ending.set_result((code, why))

    def send(self, message: pb.AmMessage) -> bool:
        """False when the stream is ending, or ends now because the agent does not read."""
        if self.ending.done():
            return False
        if self.outgoing.qsize() >= OUTGOING_KEPT:
            self.end(grpc.StatusCode.RESOURCE_EXHAUSTED, "the agent does not read what it is sent")
            return False
        self.outgoing.put_nowait(message)
        return True

    async def command(self, action: pb.ModelCommand.Action.ValueType, model: str, deadline_s: float) -> None:
        request = next(self._requests)
        answer: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._commands[request] = answer
        try:
            if not self.send(pb.AmMessage(model=pb.ModelCommand(request_id=request, action=action, model=model))):
                raise NotConnected(f"the agent of {self.container} has no stream now")
            await asyncio.wait_for(answer, deadline_s)
        except asyncio.TimeoutError as error:
            raise CommandFailed(f"the agent of {self.container} did not say within {deadline_s:g} s what came of it") from error
        finally:
            self._commands.pop(request, None)

    async def tail(self, source: str, lines: int, follow: bool) -> AsyncIterator[str]:
        if len(self._tails) >= MAX_TAILS:
            raise CommandFailed(f"{MAX_TAILS} readers follow logs of {self.container} already: end one of them")
        request, tail = next(self._requests), Tail()
        self._tails[request] = tail
        try:
            if not self.send(pb.AmMessage(tail_logs=pb.TailLogs(request_id=request, source=source, lines=lines, follow=follow))):
                raise NotConnected(f"the agent of {self.container} has no stream now")
            while (line := await tail.arrived.get()) is not None:
                yield line
            if tail.error is not None:
                raise tail.error
        finally:
            if self._tails.pop(request, None) is not None:
                self.send(pb.AmMessage(tail_logs=pb.TailLogs(request_id=request, cancel=True)))

    def answered(self, result: pb.CommandResult) -> None:
        answer = self._commands.get(result.request_id)
        if answer is None or answer.done():
            return
        if result.ok:
            answer.set_result(None)
        else:
            answer.set_exception(CommandFailed(intake.text(result.error, intake.MAX_REASON) or "the agent gave no reason"))

    def logged(self, message: pb.LogLines) -> None:
        tail = self._tails.get(message.request_id)
        if tail is None:
            return
        tail.push(message)
        if message.end or message.error:
            self._tails.pop(message.request_id, None)

    def over(self) -> None:
        """Whoever waits for an answer hears that none will come."""
        gone = NotConnected(f"the stream of {self.container}'s agent ended")
        for answer in self._commands.values():
            if not answer.done():
                answer.set_exception(gone)
        for tail in self._tails.values():
            tail.end(gone)
        self._tails.clear()
