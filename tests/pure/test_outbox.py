"""What waits to be sent: in order, the latest only, and never without bound."""

from __future__ import annotations

import asyncio

import pytest

from tarn_agent.outbox import MOST, ROOM, Outbox, Overflow
from tarn_common.wire import agent_pb2 as pb


def phase(since: float) -> pb.AgentMessage:
    return pb.AgentMessage(phase=pb.PhaseChange(since=since))


def stats(at: float) -> pb.AgentMessage:
    return pb.AgentMessage(stats=pb.Stats(at=at))


class TestOutbox:
    async def test_changes_keep_their_order_and_go_first(self) -> None:
        box = Outbox()
        box.latest(stats(1))
        box.push(phase(1))
        box.push(phase(2))
        assert [await box.next() for _ in range(3)] == [phase(1), phase(2), stats(1)]

    async def test_of_stats_only_the_latest_waits(self) -> None:
        box = Outbox()
        for at in range(1_000):
            box.latest(stats(at))
        box.finish()
        assert [await box.next(), await box.next()] == [stats(999), None]

    async def test_a_waiting_reader_gets_what_comes(self) -> None:
        box = Outbox()
        waiting = asyncio.ensure_future(box.next())
        await asyncio.sleep(0)
        box.push(phase(7))
        assert await waiting == phase(7)

    async def test_more_than_it_holds_is_an_end(self) -> None:
        box = Outbox()
        for since in range(MOST + 1):
            box.push(phase(since))
        with pytest.raises(Overflow):
            await box.next()
        box.clear()
        box.push(phase(1))
        assert await box.next() == phase(1)

    async def test_log_lines_wait_for_room(self) -> None:
        box = Outbox()
        for since in range(ROOM):
            box.push(phase(since))
        waiting = asyncio.ensure_future(box.room())
        await asyncio.sleep(0)
        assert not waiting.done()
        await box.next()
        await waiting
