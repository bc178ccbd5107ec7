"""Who goes first when there are too many."""

from __future__ import annotations

from tarn_am.core import victim
from tarn_am.core.model import Instance, Phase, Sample


def instance(name: str, phase: Phase, asked_at: float = 0.0, in_flight: float | None = None, sampled: bool = True) -> Instance:
    return Instance(name, phase, 0.0, asked_at, sample=Sample(0.0, in_flight=in_flight) if sampled else None)


def names(*pairs: tuple[Instance, bool]) -> list[str]:
    return [found.ask_id for found in victim.order(pairs)]


def test_from_the_ask_to_the_serving_one() -> None:
    assert names(
        (instance("ready", Phase.READY), True),
        (instance("was ready", Phase.UNREADY), True),
        (instance("starting", Phase.STARTING), False),
        (instance("allocated", Phase.ALLOCATED), False),
        (instance("asked", Phase.REQUESTED), False),
    ) == ["asked", "allocated", "starting", "was ready", "ready"]


def test_one_that_served_and_starts_again_goes_after_those_that_never_did() -> None:
    assert names((instance("served", Phase.STARTING, 9.0), True), (instance("never", Phase.STAGING, 1.0), False)) == ["never", "served"]


def test_of_serving_ones_the_least_busy_then_the_youngest() -> None:
    assert names(
        (instance("old idle", Phase.READY, 1.0, 0.0), True),
        (instance("busy", Phase.READY, 9.0, 7.5), True),
        (instance("young idle", Phase.READY, 5.0, 0.0), True),
    ) == ["young idle", "old idle", "busy"]


def test_unknown_load_is_not_zero() -> None:
    assert names((instance("unknown", Phase.READY, sampled=False), True), (instance("busy", Phase.READY, in_flight=99.0), True)) == [
        "busy",
        "unknown",
    ]


def test_of_those_asked_for_at_once_the_later_goes_first() -> None:
    assert names(*((instance(f"ask-{n}", Phase.READY, 1.0, 0.0), True) for n in range(8, 12))) == ["ask-11", "ask-10", "ask-9", "ask-8"]


def test_what_drains_or_is_over_is_no_victim() -> None:
    assert names(*((instance(phase.value, phase), True) for phase in (Phase.DRAINING, Phase.STOPPED, Phase.FAILED))) == []
