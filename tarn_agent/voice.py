"""What the agent tells its Application Master, and what it makes of the answers: the keeper's state on one side, the uplink on the other."""

from __future__ import annotations

import structlog

from tarn_agent import wire
from tarn_agent.core import events as ev
from tarn_agent.core.instance import State
from tarn_agent.core.model import Progress
from tarn_agent.keeper import Keeper
from tarn_agent.orders import Orders
from tarn_agent.ports import Presence, Triton
from tarn_agent.reporter import Reporter
from tarn_agent.uplink import Uplink
from tarn_agent.wire import Identity
from tarn_common.clock import Clock
from tarn_common.wire import agent_pb2 as pb

log = structlog.get_logger(__name__)

_SHORTEST_INTERVAL_S, _LONGEST_INTERVAL_S = 0.1, 60.0


class Voice:
    """Implements `uplink.Agent`. `join` completes it: the parts know each other in a circle."""

    def __init__(self, who: Identity, host: str, presence: Presence, triton: Triton, clock: Clock) -> None:
        self._who, self._host, self._presence, self._triton, self._clock = who, host, presence, triton, clock
        self._said: pb.PhaseChange | None = None
        self._shown: Progress | None = None

    def join(self, keeper: Keeper, reporter: Reporter, orders: Orders, uplink: Uplink) -> None:
        self._keeper, self._reporter, self._orders, self._uplink = keeper, reporter, orders, uplink

    # --- to the Application Master

    def hello(self) -> pb.AgentMessage:
        self._said, self._shown = self._phase(), self._keeper.progress
        return wire.hello(self._who, self._said, self._shown, self._reporter.latest, self._keeper.state)

    def changed(self, _before: State) -> None:
        self._say_phase()

    def report(self, stats: pb.Stats) -> None:
        """With what changes without an event: the znode's standing, and how far the staging is."""
        self._say_phase()
        self.progressed()
        self._uplink.offer(pb.AgentMessage(stats=stats))

    def progressed(self) -> None:
        progress = self._keeper.progress
        if progress is not None and progress != self._shown:
            self._shown = progress
            self._uplink.offer(pb.AgentMessage(staging=wire.staging(progress)))

    def _say_phase(self) -> None:
        if not self._uplink.connected:
            return
        phase = self._phase()
        if self._said is not None:
            phase.since = self._said.since if phase.phase == self._said.phase else phase.since
        if phase != self._said:
            self._said = phase
            self._uplink.send(pb.AgentMessage(phase=phase))

    def _phase(self) -> pb.PhaseChange:
        state = self._keeper.state
        since_at = self._clock.wall() - (self._clock.monotonic() - state.since)
        return wire.phase_change(state, since_at, self._host, self._keeper.ports, self._presence.announced, self._triton.version)

    # --- from the Application Master

    def accepted(self, welcome: pb.Welcome) -> None:
        interval_s = welcome.report_interval
        if interval_s == interval_s and interval_s > 0:
            self._reporter.interval_s = min(max(interval_s, _SHORTEST_INTERVAL_S), _LONGEST_INTERVAL_S)
        self._keeper.offer(ev.Accepted())

    def refused(self, reason: str) -> None:
        self._keeper.offer(ev.Refused(reason))

    def lost(self) -> None:
        self._orders.stream_ended()
        self._keeper.offer(ev.LinkLost())

    def told(self, message: pb.AmMessage) -> None:
        self._orders.take(message)
