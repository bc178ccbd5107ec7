"""Agents' reports, gathered: only the newest of each agent, and all agents' at once.

With a thousand agents the fleet then hears twenty times a second of all of them, and a report that nobody would have seen is
never even unpacked.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from tarn_am import intake
from tarn_am.core.events import AgentReports
from tarn_common.clock import Clock
from tarn_common.ids import ContainerId
from tarn_common.wire import agent_pb2 as pb

GATHER_S = 0.05


class Gathering:
    """Holds raw messages for at most GATHER_S, then hands one event to `offer`."""

    def __init__(self, offer: Callable[[AgentReports], None], clock: Clock) -> None:
        self._offer, self._clock = offer, clock
        self._stats: dict[ContainerId, pb.Stats] = {}
        self._staging: dict[ContainerId, pb.StagingProgress] = {}
        self._timer: asyncio.TimerHandle | None = None

    def stats(self, container: ContainerId, message: pb.Stats) -> None:
        self._stats[container] = message
        self._begin()

    def staging(self, container: ContainerId, message: pb.StagingProgress) -> None:
        self._staging[container] = message
        self._begin()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _begin(self) -> None:
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(GATHER_S, self._pass_on)

    def _pass_on(self) -> None:
        self._timer = None
        stats, staging = self._stats, self._staging
        self._stats, self._staging = {}, {}
        now = self._clock.wall()
        self._offer(
            AgentReports(
                samples={container: intake.sample(message, now) for container, message in stats.items()},
                staging={container: intake.staging(message) for container, message in staging.items()},
            )
        )
