"""The table of phases."""

from __future__ import annotations

import pytest

from tarn_am.core import lifecycle
from tarn_am.core.model import Phase


def test_every_phase_has_its_row_in_both_tables() -> None:
    assert set(lifecycle.TRANSITIONS) == set(Phase) == set(lifecycle.RESTARTED)


def test_failed_may_follow_whatever_lives() -> None:
    assert all(Phase.FAILED in follow for phase, follow in lifecycle.TRANSITIONS.items() if not phase.is_over)


@pytest.mark.parametrize("table", [lifecycle.TRANSITIONS, lifecycle.RESTARTED])
def test_out_of_draining_there_is_only_the_end(table: dict[Phase, frozenset[Phase]]) -> None:
    assert table[Phase.DRAINING] == {Phase.STOPPED, Phase.FAILED}


def test_the_same_phase_again_is_an_update_while_it_lives() -> None:
    lifecycle.check(Phase.READY, Phase.READY)
    with pytest.raises(lifecycle.IllegalTransition, match="FAILED cannot follow FAILED"):
        lifecycle.check(Phase.FAILED, Phase.FAILED)


def test_a_new_agent_may_find_less_than_the_old_one_had() -> None:
    lifecycle.check(Phase.READY, Phase.STAGING, restarted=True)
    with pytest.raises(lifecycle.IllegalTransition):
        lifecycle.check(Phase.READY, Phase.STAGING)
