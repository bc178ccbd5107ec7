"""Exponential back-off with full or half jitter. Pure: the random number is an argument."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Backoff:
    """Delays that grow from `first_s` by `factor` up to `limit_s`.

    `jitter` is the share of a delay that is random: 0 none, 1 all of it.
    """

    first_s: float = 0.5
    limit_s: float = 30.0
    factor: float = 2.0
    jitter: float = 0.5

    def delay_s(self, failures: int, uniform: float = 1.0) -> float:
        """The delay after `failures` failures in a row (1 is the first); `uniform` lies in 0..1."""
        if failures <= 0:
            return 0.0
        whole = min(self.limit_s, self.first_s * self.factor ** min(failures - 1, 63))
        return whole * (1.0 - self.jitter) + whole * self.jitter * uniform
