"""Measures and reports: GPUs and tritonserver's rates, each report interval, jittered, the latest kept for the next hello."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import structlog

from tarn_agent import wire
from tarn_agent.core.instance import Triton
from tarn_agent.core.model import GpuReading
from tarn_agent.core.stats import RateWindow, parse
from tarn_agent.keeper import Keeper
from tarn_agent.ports import GpuReader, TritonError
from tarn_agent.ports import Triton as TritonPort
from tarn_common.clock import Clock
from tarn_common.wire import agent_pb2 as pb

log = structlog.get_logger(__name__)

_METRICS_S = 1.0
_JITTER = 0.1


class Reporter:
    """`report` is called with each measurement. `interval_s` may be changed at any time."""

    def __init__(self, keeper: Keeper, triton: TritonPort, gpus: GpuReader, window_s: float, clock: Clock) -> None:
        self._keeper, self._triton, self._gpus, self._clock = keeper, triton, gpus, clock
        self._window = RateWindow(window_s)
        self._reading = GpuReading(known=False, unknown_reason="not read yet")
        self.interval_s = 1.0
        self.latest: pb.Stats | None = None

    async def run(self, report: Callable[[pb.Stats], None]) -> None:
        while True:
            self.latest = await self._measure()
            report(self.latest)
            await asyncio.sleep(self.interval_s * (1.0 + _JITTER * (2.0 * random.random() - 1.0)))  # noqa: S311 - jitter

    async def _measure(self) -> pb.Stats:
        self._reading = await asyncio.to_thread(self._gpus.read)
        state = self._keeper.state
        if state.triton is Triton.UP and state.answered and state.missed_at is None:
            try:
                text = await self._triton.metrics(_METRICS_S)
                self._window = self._window.push(parse(text), self._clock.monotonic())
            except TritonError as error:
                log.debug("metrics_missing", error=str(error))
        return wire.stats(self._clock.wall(), self._reading, self._window.rates(self._clock.monotonic()))
