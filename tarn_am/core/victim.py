"""Who goes first when there are too many. Pure order, no action.

Asks that nobody answered, then allocations in which nothing runs, then instances that never served, then those that do not
serve now, then the serving ones: least in flight first, and of equals the youngest, for its caches are the coldest.
"""

from __future__ import annotations

from collections.abc import Iterable

from tarn_am.core.model import Instance, Phase

_RANK = {Phase.REQUESTED: 0, Phase.ALLOCATED: 1, Phase.LAUNCHED: 2, Phase.STAGING: 2, Phase.STARTING: 2, Phase.UNREADY: 3, Phase.READY: 4}


def order(instances: Iterable[tuple[Instance, bool]]) -> list[Instance]:
    """Pairs of (instance, was ever READY) in the order of their asks, sorted: the first to go first. Other phases are left out."""
    found = [(_key(instance, served), instance) for instance, served in instances if instance.phase in _RANK]
    # A stable sort of the reversed order: of those asked for at the same moment, too, the later one goes first.
    found.reverse()
    return [instance for _, instance in sorted(found, key=lambda pair: pair[0])]


def _key(instance: Instance, served: bool) -> tuple[int, float, float]:
    rank = _RANK[instance.phase]
    if rank == 2 and served:
        rank = 3
    sample = instance.sample
    # Unknown load is taken for the highest: no data is not zero.
    load = sample.in_flight if sample is not None and sample.in_flight is not None else float("inf")
    return (rank, load if rank >= 3 else 0.0, -instance.asked_at)
