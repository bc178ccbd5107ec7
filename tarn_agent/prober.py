"""Looks at the running tritonserver, again and again: each look is an event for the keeper. Rests while none runs."""

from __future__ import annotations

import asyncio
import contextlib

from tarn_agent.core import lifecycle
from tarn_agent.core.events import Probed
from tarn_agent.core.instance import Policy, Triton
from tarn_agent.keeper import Keeper
from tarn_agent.ports import Triton as TritonPort
from tarn_common.clock import Clock


class Prober:
    """A look never takes longer than `deadline_s`, so a hung tritonserver is seen within an interval and a deadline."""

    def __init__(self, keeper: Keeper, triton: TritonPort, policy: Policy, deadline_s: float, clock: Clock) -> None:
        self._keeper, self._triton, self._policy, self._deadline_s, self._clock = keeper, triton, policy, deadline_s, clock

    async def run(self) -> None:
        while True:
            if self._keeper.state.triton is Triton.UP:
                await self.look()
                await self._rest(lifecycle.pause_s(self._policy, self._keeper.state, self._clock.monotonic()))
            else:
                self._keeper.stirred.clear()
                await self._keeper.stirred.wait()

    async def look(self) -> None:
        """One look, at the process that the keeper has now."""
        pid, asked_at = self._keeper.state.pid, self._clock.monotonic()
        health = await self._triton.probe(self._deadline_s)
        if not health.answered and self._keeper.state.changing:
            # Triton carries an order about models out in a thread that other connections share: a new one may be luckier.
            health = await self._triton.probe(self._deadline_s)
        self._keeper.offer(Probed(pid, asked_at, health.answered, health.live, health.ready, health.models, health.error))

    async def _rest(self, pause_s: float) -> None:
        """Ends early when the end has come a step further or another process is up: then there is something new to see."""
        loop = asyncio.get_running_loop()
        until, before = loop.time() + pause_s, self._keeper.state
        while (left_s := until - loop.time()) > 0:
            self._keeper.stirred.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._keeper.stirred.wait(), left_s)
            if self._keeper.state.ending != before.ending or self._keeper.state.pid != before.pid:
                return
