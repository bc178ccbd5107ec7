"""When a Triton that ended is started again: sooner or later, or not at all, and why."""

from __future__ import annotations

import pytest

from tarn_agent.core.restarts import RestartPolicy
from tarn_common.backoff import Backoff

POLICY = RestartPolicy(3, 100.0, Backoff(first_s=1.0, limit_s=5.0, jitter=0.0))


class TestWithinTheLimit:
    def test_each_end_in_the_window_doubles_the_delay_up_to_its_limit(self) -> None:
        policy = RestartPolicy(9, 100.0, POLICY.backoff)
        delays = [policy.decide(tuple(range(ends)), float(ends)).delay_s for ends in range(1, 6)]
        assert delays == [1.0, 2.0, 4.0, 5.0, 5.0]

    def test_the_sentence_says_how_often_and_what_is_done(self) -> None:
        decision = POLICY.decide((10.0, 20.0), 20.0)
        assert not decision.give_up
        assert decision.sentence == (
            "tritonserver ended 2 times within 100 s; it is started again in 2.0 s, 3 restarts allowed (TARN_TRITON_RESTART_LIMIT)"
        )

    def test_jitter_takes_from_the_delay_and_never_adds(self) -> None:
        policy = RestartPolicy(3, 100.0, Backoff(first_s=4.0, jitter=0.5))
        assert [policy.decide((0.0,), 0.0, uniform).delay_s for uniform in (0.0, 1.0)] == [2.0, 4.0]


class TestTooOften:
    @pytest.mark.parametrize(("ends", "gives_up"), [(3, False), (4, True), (9, True)])
    def test_one_more_end_than_restarts_allowed(self, ends: int, gives_up: bool) -> None:
        decision = POLICY.decide(tuple(float(at) for at in range(ends)), 10.0)
        assert decision.give_up is gives_up
        assert ("giving up" in decision.sentence) is gives_up
        assert f"ended {ends} times" in decision.sentence

    def test_none_allowed(self) -> None:
        decision = RestartPolicy(0, 100.0).decide((5.0,), 5.0)
        assert decision.give_up
        assert decision.sentence.startswith("tritonserver ended once within 100 s: 0 restarts allowed")


class TestLongAgo:
    def test_what_left_the_window_is_forgiven(self) -> None:
        history = (0.0, 1.0, 2.0, 200.0)
        assert POLICY.decide(history, 200.0) == POLICY.decide((200.0,), 200.0)
        assert POLICY.recent(history, 101.5) == (2.0, 200.0)
