"""When a Triton that ended is started again, and when the instance gives up. Pure: time is an argument."""

from __future__ import annotations

from dataclasses import dataclass, field

from tarn_common.backoff import Backoff


@dataclass(frozen=True)
class RestartDecision:
    """`delay_s` means nothing when `give_up` is true; `sentence` says what is done and why."""

    give_up: bool
    delay_s: float
    sentence: str


@dataclass(frozen=True)
class RestartPolicy:
    """At most `limit` restarts within any `window_s`; before each a delay that grows with the ends that the window holds."""

    limit: int
    window_s: float
    backoff: Backoff = field(default_factory=Backoff)

    def decide(self, history: tuple[float, ...], now: float, uniform: float = 1.0) -> RestartDecision:
        """`history` holds the times at which Triton ended, the present end among them; `uniform` (0..1) is the jitter's random number."""
        ends = len(self.recent(history, now))
        if ends > self.limit:
            return RestartDecision(True, 0.0, f"tritonserver ended {_times(ends)} within {self.window_s:g} s: {self._allowed()}; giving up")
        delay_s = self.backoff.delay_s(ends, uniform)
        again = f"it is started again in {delay_s:.1f} s" if delay_s else "it is started again at once"
        return RestartDecision(False, delay_s, f"tritonserver ended {_times(ends)} within {self.window_s:g} s; {again}, {self._allowed()}")

    def recent(self, history: tuple[float, ...], now: float) -> tuple[float, ...]:
        """The ends that still count; a caller may forget the others."""
        return tuple(at for at in history if now - at < self.window_s)

    def _allowed(self) -> str:
        return f"{self.limit} restart{'' if self.limit == 1 else 's'} allowed (TARN_TRITON_RESTART_LIMIT)"


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"
