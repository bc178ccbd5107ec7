"""The instance's life as the agent decides it: sequences, every prefix of them interrupted, and random histories."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace

import pytest

from tarn_agent.core import events as ev
from tarn_agent.core import lifecycle
from tarn_agent.core.events import Action, Event
from tarn_agent.core.instance import TRANSITIONS, IllegalTransition, Policy, State, Triton, begin, enter
from tarn_agent.core.model import ModelState, Phase
from tarn_agent.core.restarts import RestartPolicy
from tarn_common.backoff import Backoff
from tarn_common.exits import Exit

POLICY = Policy(
    accept_s=100, lease_s=500, load_stall_s=300, hang_s=20, drain_s=60, drain_grace_s=2, restarts=RestartPolicy(2, 600, Backoff(1, 8))
)
A_READY, B_READY = ModelState("a", "READY", "", ("1",)), ModelState("b", "READY", "", ("1",))
A_LOADING, B_LOADING = ModelState("a", "LOADING"), ModelState("b", "LOADING")
B_FAILED = ModelState("b", "UNAVAILABLE", "Internal: no weights")
A_UNLOADED, B_UNLOADED = ModelState("a", "UNAVAILABLE", "unloaded"), ModelState("b", "UNAVAILABLE", "unloaded")
A_UNLOADING = ModelState("a", "UNLOADING")


class World:
    """Carries out nothing; remembers what was to be done, and holds the invariants after each step."""

    def __init__(self, policy: Policy = POLICY) -> None:
        self.policy = policy
        self.now = 1000.0
        self.state = begin(self.now)
        self.done: list[Action] = []
        self.wish: bool | None = None
        self.pid = 0

    def on(self, *events: Event) -> World:
        for event in events:
            before = self.state
            self.state, actions = lifecycle.step(self.policy, before, event, self.now)
            self.done += actions
            for action in actions:
                self.wish = True if isinstance(action, ev.Announce) else False if isinstance(action, ev.Withdraw) else self.wish
            self.check(before)
        return self

    def check(self, before: State) -> None:
        state = self.state
        assert bool(self.wish) == (state.phase is Phase.READY), (before, state)
        assert state.phase is before.phase or state.phase in TRANSITIONS[before.phase]
        if not state.accepted:
            assert not [action for action in self.done if isinstance(action, ev.Start | ev.Announce | ev.Stage)]
        if before.ending is not None:
            assert state.ending is not None
            assert state.ending.exit is before.ending.exit
            assert state.ending.step.value >= before.ending.step.value
        assert len(self.finishes) <= 1

    @property
    def finishes(self) -> list[ev.Finish]:
        return [action for action in self.done if isinstance(action, ev.Finish)]

    def after(self, seconds: float) -> World:
        """Time passes; ticks come when they are due, as the keeper's timer makes them."""
        end = self.now + seconds
        while (due := lifecycle.next_deadline(self.policy, self.state)) is not None and due <= end:
            self.now = max(self.now, due)
            before = self.state
            self.on(ev.Tick())
            assert self.state != before or due > self.now, "a deadline that has come must change something"
        self.now = end
        return self

    def start(self, pid: int = 7) -> World:
        self.pid = pid
        return self.on(ev.Started(pid))

    def probe(self, *models: ModelState, **more: object) -> World:
        values = {"answered": True, "live": True, "ready": True, **more}
        return self.on(ev.Probed(self.pid, self.now, models=models, **values))  # type: ignore[arg-type]

    def missed(self, began_before_s: float = 2.0, *models: ModelState) -> World:
        return self.on(ev.Probed(self.pid, self.now - began_before_s, False, models=models, error="no answer within 2 s"))

    def gone(self, *last_lines: str) -> World:
        return self.on(ev.Gone(self.pid, last_lines))

    def serving(self) -> World:
        self.on(ev.Accepted(), ev.Staged(("a", "b")))
        return self.start().probe(A_READY, B_READY)

    def took(self, *kinds: type) -> list[Action]:
        return [action for action in self.done if isinstance(action, kinds)]


class TestStraightLife:
    def test_it_becomes_ready_step_by_step(self) -> None:
        world = World()
        assert world.on(ev.Accepted()).state.phase is Phase.STAGING
        assert world.on(ev.Staged(("a", "b"))).state.phase is Phase.STARTING
        assert world.done[-1] == ev.Start(("a", "b"))
        assert world.start().missed(2.0, A_LOADING).state.phase is Phase.STARTING
        assert world.probe(A_READY, B_LOADING).state.reason == "b is LOADING"
        assert world.probe(A_READY, B_READY).state.phase is Phase.READY
        assert world.wish

    def test_nothing_is_taken_before_it_is_accepted(self) -> None:
        world = World().after(99)
        assert (world.state.phase, world.done) == (Phase.LAUNCHED, [])
        world.after(2)
        assert world.state.phase is Phase.STOPPED
        world.on(ev.Stopped())
        assert world.finishes == [ev.Finish(Exit.ORPHANED, "no Application Master accepted this container for 100 s")]

    def test_a_refused_container_ends_having_taken_nothing(self) -> None:
        world = World().on(ev.Refused("unknown"), ev.Stopped())
        assert (world.state.phase, world.finishes[0].exit) == (Phase.STOPPED, Exit.REFUSED)
        assert not world.took(ev.Stage, ev.Start, ev.Announce)

    def test_a_staging_that_fails_fails_the_instance_with_its_reason(self) -> None:
        world = World().on(ev.Accepted(), ev.StageFailed("hdfs://x is not there"), ev.Stopped())
        assert (world.state.phase, world.state.reason_code) == (Phase.FAILED, "staging")
        assert world.finishes == [ev.Finish(Exit.STAGING, "hdfs://x is not there")]


class TestModelThatFails:
    def test_strict_fails_the_instance_naming_model_and_reason(self) -> None:
        world = World().on(ev.Accepted(), ev.Staged(("a", "b"))).start().probe(A_READY, B_FAILED, ready=False).on(ev.Stopped())
        assert world.state.phase is Phase.FAILED
        assert world.finishes[0].exit is Exit.MODEL
        assert "1 of 2 wanted models failed to load" in world.finishes[0].reason
        assert "b: Internal: no weights" in world.finishes[0].reason

    def test_strict_fails_as_soon_as_the_log_says_so(self) -> None:
        world = World().on(ev.Accepted(), ev.Staged(("a", "b"))).start().missed(2.0, A_LOADING, B_FAILED)
        assert world.state.phase is Phase.FAILED

    def test_partial_serves_the_rest_and_says_which_failed(self) -> None:
        world = World(replace(POLICY, strict=False)).on(ev.Accepted(), ev.Staged(("a", "b"))).start()
        world.probe(A_READY, B_FAILED, ready=False)
        assert world.state.phase is Phase.READY
        assert "b: Internal: no weights" in world.state.reason

    def test_partial_fails_where_nothing_is_left_to_serve(self) -> None:
        world = World(replace(POLICY, strict=False)).on(ev.Accepted(), ev.Staged(("b",))).start().probe(B_FAILED, ready=False)
        assert (world.state.phase, world.state.reason_code) == (Phase.FAILED, "model")

    def test_after_it_served_a_broken_model_makes_it_unready_only(self) -> None:
        world = World().serving().probe(A_READY, B_FAILED, ready=False)
        assert world.state.phase is Phase.UNREADY
        assert world.probe(A_READY, B_READY).state.phase is Phase.READY

    def test_one_that_hangs_on_load_fails_the_instance_by_name(self) -> None:
        world = World().on(ev.Accepted(), ev.Staged(("a", "b"))).start()
        for _ in range(30):
            assert world.missed(2.0, A_READY, B_LOADING).state.phase is Phase.STARTING
            world.after(9.9)
        world.after(4)
        assert world.state.phase is Phase.FAILED
        assert "b did not load: nothing changed for 300 s" in world.state.reason

    def test_one_that_takes_long_is_named_in_the_reason(self) -> None:
        world = World().on(ev.Accepted(), ev.Staged(("a", "b"))).start().missed(2.0, A_READY, B_LOADING)
        assert world.state.reason == "model b is loading"
        assert world.after(12).missed(2.0, A_READY, B_LOADING).state.reason == "model b has been loading for more than 10 s"

    def test_progress_of_loading_puts_the_stall_off(self) -> None:
        world = World().on(ev.Accepted(), ev.Staged(("a", "b"))).start().missed(2.0, A_LOADING).after(250)
        world.missed(2.0, A_READY, B_LOADING).after(250)
        assert world.state.phase is Phase.STARTING


class TestTritonThatAnswersAndLoadsNothing:
    NOT_LOADED = ModelState("b", "UNAVAILABLE", "not loaded")

    def started(self) -> World:
        return World().on(ev.Accepted(), ev.Staged(("a", "b"))).start()

    def test_fails_soon_with_what_is_known_of_the_model(self) -> None:
        world = self.started().probe(A_READY, self.NOT_LOADED, ready=False).after(POLICY.idle_s - 0.1)
        assert world.state.phase is Phase.STARTING
        ending = world.after(0.2).state.ending
        assert ending is not None
        assert ending.exit is Exit.MODEL
        assert ending.reason == "tritonserver answers and loads nothing, and after 10 s is not ready: b is UNAVAILABLE (not loaded)"

    def test_fails_soon_with_the_words_in_the_place_of_its_index(self) -> None:
        ending = self.started().probe(live=False, ready=False, error="index answered 503: no cache").after(POLICY.idle_s).state.ending
        assert ending is not None
        assert ending.exit is Exit.TRITON
        assert ending.reason.endswith("is not ready: index answered 503: no cache")

    def test_what_is_loading_has_its_time(self) -> None:
        world = self.started().probe(A_LOADING, self.NOT_LOADED, ready=False).after(POLICY.idle_s * 2)
        assert world.state.ending is None

    def test_so_has_what_is_ordered(self) -> None:
        world = self.started().probe(A_READY, self.NOT_LOADED, ready=False)
        assert world.on(ev.Changing(+1)).probe(A_READY, self.NOT_LOADED, ready=False).after(POLICY.idle_s * 2).state.ending is None
        assert world.on(ev.Changing(-1)).probe(A_READY, B_READY).state.phase is Phase.READY

    def test_one_that_serves_and_loses_its_index_is_hidden_after_a_while(self) -> None:
        world = World().serving()
        assert world.probe(error="index answered 500").after(POLICY.idle_s - 1).probe(error="index answered 500").wish
        assert not world.after(1.0).probe(error="index answered 500").wish
        assert (world.state.phase, world.state.reason) == (Phase.UNREADY, "index answered 500")
        assert world.probe(A_READY, B_READY).wish


class TestHungTriton:
    def test_the_first_look_without_an_answer_takes_the_znode_away(self) -> None:
        world = World().serving().missed()
        assert (world.state.phase, world.wish) == (Phase.UNREADY, False)
        assert "no answer within 2 s" in world.state.reason

    def test_an_answer_brings_it_back(self) -> None:
        assert World().serving().missed().probe(A_READY, B_READY).state.phase is Phase.READY

    def test_it_is_killed_after_its_time_and_started_again(self) -> None:
        world = World().serving()
        for _ in range(7):
            world.missed()
            world.now += 3
        assert world.took(ev.Kill) == [ev.Kill()]
        assert world.missed().state.triton is Triton.GOING
        assert world.gone("last words").state.triton is Triton.DUE
        assert "hangs" in world.state.reason
        assert "last words" in world.state.reason
        assert world.after(1.1).state.triton is Triton.COMING
        assert world.start(8).probe(A_READY, B_READY).state.phase is Phase.READY

    def test_time_in_which_nobody_looked_does_not_count(self) -> None:
        world = World().serving()
        world.now += 3600
        world.missed()
        assert not world.took(ev.Kill)

    def test_one_that_a_kill_does_not_end_fails_the_instance(self) -> None:
        world = World().serving()
        for _ in range(8):
            world.missed()
            world.now += 3
        world.after(40)
        assert (world.state.phase, world.state.reason_code) == (Phase.FAILED, "triton")

    def test_while_it_loads_silence_is_no_hang(self) -> None:
        world = World().on(ev.Accepted(), ev.Staged(("a",))).start()
        for _ in range(50):
            world.missed().after(2)
        assert not world.took(ev.Kill)


class TestRepositoryThatIsAway:
    def test_what_keeps_a_staging_is_the_reason_until_it_goes_on(self) -> None:
        world = World().on(ev.Accepted(), ev.Waiting("namenode:8020 is away"))
        assert (world.state.phase, world.state.reason) == (Phase.STAGING, "namenode:8020 is away")
        assert world.on(ev.Waiting("")).state.reason == ""

    def test_it_is_told_before_a_start_and_ends_the_instance_when_it_stays_away(self) -> None:
        world = World().serving().gone("why").after(1.1).on(ev.Waiting("/models is gone"))
        assert (world.state.phase, world.state.triton, world.state.reason) == (Phase.UNREADY, Triton.COMING, "/models is gone")
        assert world.on(ev.StageFailed("given up"), ev.Stopped()).finishes == [ev.Finish(Exit.STAGING, "given up")]

    def test_nobody_waits_while_a_triton_runs(self) -> None:
        assert World().serving().on(ev.Waiting("late"), ev.StageFailed("late")).state.reason == ""

    def test_a_triton_that_began_again_without_it_is_killed_and_started_again(self) -> None:
        world = World().serving().gone("why").after(1.1).start(8)
        for _ in range(8):
            world.probe(live=False, ready=False, error="index answered 503: not ready; its log: no such directory").after(3)
        assert world.took(ev.Kill) == [ev.Kill()]
        assert world.gone().state.triton is Triton.DUE
        assert "its log: no such directory" in world.state.reason
        assert world.after(2.1).start(9).probe(A_READY, B_READY).state.phase is Phase.READY


class TestTritonThatDies:
    def test_the_znode_goes_in_the_same_step(self) -> None:
        world = World().serving().gone("Segmentation fault")
        assert (world.state.phase, world.wish) == (Phase.UNREADY, False)
        assert "Segmentation fault" in world.state.reason
        assert world.state.pid == 0

    def test_it_is_started_again_with_growing_delays_and_then_given_up(self) -> None:
        world = World().serving()
        starts = len(world.took(ev.Start))
        for delay in (1.0, 2.0):
            world.gone("why").after(delay - 0.01)
            assert len(world.took(ev.Start)) == starts
            world.after(0.02)
            starts += 1
            assert len(world.took(ev.Start)) == starts
            world.start(world.pid + 1).probe(A_READY, B_READY)
        world.gone("Segmentation fault", "core dumped").on(ev.Stopped())
        assert (world.state.phase, world.finishes[0].exit) == (Phase.FAILED, Exit.TRITON)
        assert "Segmentation fault / core dumped" in world.finishes[0].reason

    def test_a_start_that_fails_counts_as_an_end(self) -> None:
        world = World().on(ev.Accepted(), ev.Staged(("a",)))
        for _ in range(3):
            world.on(ev.StartFailed("port 8000 is taken")).after(10)
        assert (world.state.phase, world.state.reason_code) == (Phase.FAILED, "triton")
        assert "port 8000 is taken" in world.state.reason

    def test_an_end_that_was_seen_too_late_is_not_the_present_ones(self) -> None:
        world = World().serving().gone().after(1.1).start(8).on(ev.Gone(7))
        assert world.state.triton is Triton.UP


class TestDrain:
    def test_in_order_and_losing_nothing(self) -> None:
        world = World().serving().on(ev.DrainOrdered(60, 3, "scale down"))
        assert (world.state.phase, world.took(ev.Unload)) == (Phase.DRAINING, [])
        world.after(5)
        assert world.took(ev.Unload) == [], "the znode still stands for all we know"
        world.on(ev.Withdrawn()).after(2.9)
        assert world.took(ev.Unload) == []
        world.after(0.2)
        assert world.took(ev.Unload) == [ev.Unload(("a", "b"))]
        world.probe(A_UNLOADED, B_UNLOADED)
        assert not world.took(ev.Stop), "a look from before the unload says nothing"
        world.on(ev.Unloaded()).probe(A_UNLOADING, B_UNLOADED, ready=False)
        assert not world.took(ev.Stop)
        world.after(1).probe(A_UNLOADED, B_UNLOADED)
        assert world.took(ev.Stop) == [ev.Stop()]
        world.gone().on(ev.Stopped())
        assert (world.state.phase, world.state.reason_code) == (Phase.STOPPED, "drained")
        assert world.finishes == [ev.Finish(Exit.DRAINED, "scale down")]

    def test_its_deadline_leaves_time_to_stop(self) -> None:
        world = World().serving().on(ev.DrainOrdered(10, 0, ""), ev.Withdrawn(), ev.Unloaded()).probe(A_UNLOADING)
        world.after(7.4)
        assert not world.took(ev.Stop)
        world.after(0.2)
        assert world.took(ev.Stop)

    def test_a_grace_longer_than_the_deadline_is_cut(self) -> None:
        world = World().serving().on(ev.DrainOrdered(5, 100, ""), ev.Withdrawn()).after(2.6)
        assert world.took(ev.Stop)

    def test_nothing_in_flight_means_no_waiting(self) -> None:
        for world in (World().on(ev.Accepted()), World().on(ev.Accepted(), ev.Staged(("a",))).start()):
            world.on(ev.DrainOrdered(60, 30, ""))
            assert world.took(ev.Stop)
            assert world.on(ev.Stopped()).state.phase is Phase.STOPPED

    def test_a_stop_cuts_it_short_and_the_first_cause_stays(self) -> None:
        world = World().serving().on(ev.DrainOrdered(60, 30, ""), ev.StopOrdered("now"), ev.Stopped())
        assert world.finishes[0].exit is Exit.DRAINED

    def test_a_term_hurries_it_and_never_slows_it(self) -> None:
        world = World().serving().on(ev.DrainOrdered(1000, 500, ""), ev.Terminated(), ev.Withdrawn()).after(58)
        assert world.took(ev.Stop)
        world = World().serving().on(ev.DrainOrdered(10, 5, ""), ev.Terminated(), ev.Withdrawn()).after(8)
        assert world.took(ev.Stop)

    def test_a_stop_order_ends_at_once(self) -> None:
        world = World().serving().on(ev.StopOrdered("replaced"))
        assert world.took(ev.Stop)
        assert world.on(ev.Stopped()).finishes == [ev.Finish(Exit.ORDERED, "replaced")]

    def test_a_term_ends_with_its_own_status(self) -> None:
        world = World().serving().on(ev.Terminated(), ev.Withdrawn()).after(3).on(ev.Unloaded()).probe(A_UNLOADED, B_UNLOADED)
        assert world.on(ev.Stopped()).finishes[0].exit is Exit.TERMINATED

    def test_an_instance_that_no_application_master_knows_drains_first(self) -> None:
        world = World().serving().on(ev.Refused("unknown"))
        assert (world.state.phase, world.took(ev.Stop)) == (Phase.DRAINING, [])


class TestLease:
    def test_orphans_drain_and_end(self) -> None:
        world = World().serving().on(ev.LinkLost()).after(499)
        assert world.state.phase is Phase.READY
        world.on(ev.LinkLost()).after(2)
        assert (world.state.phase, world.state.ending and world.state.ending.exit) == (Phase.DRAINING, Exit.ORPHANED)

    def test_hearing_again_begins_it_anew(self) -> None:
        world = World().serving().on(ev.LinkLost()).after(400).on(ev.Accepted()).after(5000)
        assert world.state.phase is Phase.READY


class TestAgentStartedAnew:
    def adopted(self, served: bool) -> World:
        world = World()
        world.state = begin(world.now, wanted=("a", "b"))
        world.pid = 7
        return world.on(ev.Adopted(7, served))

    def test_a_running_triton_is_announced_without_any_application_master(self) -> None:
        world = self.adopted(served=True).probe(A_READY, B_READY)
        assert (world.state.phase, world.wish) == (Phase.READY, True)
        assert not world.took(ev.Withdraw, ev.Start, ev.Stage)

    def test_until_the_first_look_the_znode_is_left_as_it_is(self) -> None:
        assert self.adopted(served=True).wish is None

    def test_a_running_triton_that_is_not_ready_is_not_left_announced(self) -> None:
        assert self.adopted(served=False).probe(A_READY, B_LOADING).wish is False

    def test_a_hung_triton_is_found_and_killed(self) -> None:
        world = self.adopted(served=True)
        for _ in range(8):
            world.missed()
            world.now += 3
        assert world.took(ev.Kill)

    def test_an_end_that_had_begun_goes_on(self) -> None:
        world = self.adopted(served=True).on(ev.Interrupted(Exit.DRAINED, "scale down", 30.0)).probe(A_READY, B_READY)
        assert (world.state.phase, world.wish) == (Phase.DRAINING, False)
        world.on(ev.Withdrawn(), ev.Unloaded()).probe(A_UNLOADED, B_UNLOADED).on(ev.Stopped())
        assert world.finishes == [ev.Finish(Exit.DRAINED, "scale down")]

    def test_a_container_that_was_accepted_need_not_be_again(self) -> None:
        world = World()
        world.state = begin(world.now, wanted=("a",))
        assert world.on(ev.Resumed()).state.phase is Phase.STAGING
        assert world.on(ev.Staged(("a", "b"))).took(ev.Start) == [ev.Start(("a",))]


class TestModelsOrdered:
    def test_one_that_is_ordered_away_does_not_count(self) -> None:
        world = World().serving().on(ev.Wanted("b", False)).probe(A_READY, B_UNLOADED)
        assert world.state.phase is Phase.READY

    def test_one_more_counts_and_is_started_with_the_others(self) -> None:
        world = World().serving().on(ev.Wanted("c", True)).probe(A_READY, B_READY, ModelState("c", "READY"))
        assert world.state.phase is Phase.READY
        world.gone().after(1.1)
        assert world.took(ev.Start)[-1] == ev.Start(("a", "b", "c"))

    def test_while_it_is_loaded_tritons_own_readiness_does_not_count(self) -> None:
        world = World().serving().on(ev.Changing(+1)).probe(A_READY, B_READY, ready=False)
        assert world.state.phase is Phase.READY
        assert world.on(ev.Changing(-1)).probe(A_READY, B_READY, ready=False).state.phase is Phase.UNREADY

    def test_without_any_it_is_not_ready(self) -> None:
        world = World().serving().on(ev.Wanted("a", False), ev.Wanted("b", False)).probe(A_UNLOADED, B_UNLOADED)
        assert (world.state.phase, world.state.reason) == (Phase.UNREADY, "no model is wanted")


class TestTritonsOwnReadiness:
    def test_it_counts_where_no_failed_model_explains_it(self) -> None:
        assert World().serving().probe(A_READY, B_READY, ready=False).state.phase is Phase.UNREADY

    def test_a_foreign_model_that_failed_does_not_count(self) -> None:
        for stranger in (ModelState("c", "UNAVAILABLE", "no weights", wanted=False), ModelState("c", "LOADING", wanted=False)):
            assert World().serving().probe(A_READY, B_READY, stranger, ready=False).state.phase is Phase.READY


def script() -> list[Event]:
    """A whole life with a hang, a death, a lost link and a drain."""
    return [
        ev.Accepted(), ev.Staged(("a", "b")), ev.Started(7), probed(7, A_READY, B_LOADING), probed(7, A_READY, B_READY),
        ev.LinkLost(), ev.Probed(7, 1000.0, False, error="no answer"), probed(7, A_READY, B_READY), ev.Accepted(), ev.Gone(7, ("why",)),
        ev.Tick(), ev.Started(8), probed(8, A_READY, B_READY), ev.DrainOrdered(60, 0, ""), ev.Withdrawn(), ev.Unloaded(),
        probed(8, A_UNLOADED, B_UNLOADED), ev.Gone(8), ev.Stopped(),
    ]  # fmt: skip


def probed(pid: int, *models: ModelState) -> ev.Probed:
    return ev.Probed(pid, 1e9, True, True, True, models)


INTERRUPTIONS: list[Event] = [
    ev.Gone(7, ("why",)), ev.Gone(8, ("why",)), ev.DrainOrdered(30, 1, "d"), ev.StopOrdered("s"), ev.Terminated(), ev.Refused("r"),
    ev.LinkLost(), ev.Probed(7, 0.0, False, error="hung"), ev.StartFailed("f"), ev.StageFailed("f"), ev.Stopped(), ev.Withdrawn(),
    ev.Unloaded(), ev.Tick(), ev.Staged(("a",)), ev.Started(9), ev.Waiting("w"),
]  # fmt: skip


def to_its_end(world: World) -> None:
    """Whatever was interrupted: told to end, it ends, with whatever the jobs that were begun say."""
    world.on(ev.DrainOrdered(30, 1, "end"))
    for event in (ev.Withdrawn(), ev.Started(99), ev.Unloaded(), probed(99, A_UNLOADED, B_UNLOADED)):
        world.on(event).after(1)
    world.after(60)
    assert world.took(ev.Stop), world.state
    world.on(ev.Stopped())
    assert len(world.finishes) == 1
    assert world.state.phase in (Phase.STOPPED, Phase.FAILED)
    before = world.state
    world.on(*script(), *INTERRUPTIONS).after(10_000)
    assert (world.state.phase, world.state.ending) == (before.phase, before.ending)


class TestEveryPrefixInterrupted:
    @pytest.mark.parametrize("length", range(len(script()) + 1))
    @pytest.mark.parametrize("interruption", INTERRUPTIONS, ids=lambda event: type(event).__name__)
    def test_it_still_ends_once_and_is_never_wrongly_announced(self, length: int, interruption: Event) -> None:
        world = World().on(*script()[:length])
        world.on(interruption)
        to_its_end(world)

    @pytest.mark.parametrize("length", range(len(script()) + 1))
    def test_the_rest_of_the_life_after_an_interruption_harms_nothing(self, length: int) -> None:
        for interruption in INTERRUPTIONS:
            to_its_end(World().on(*script()[:length]).on(interruption).on(*script()[length:]))


class TestRandomHistories:
    @pytest.mark.parametrize("seed", range(60))
    def test_the_invariants_hold(self, seed: int) -> None:
        chance = random.Random(seed)
        world = World()
        events = [
            *script(),
            *INTERRUPTIONS,
            ev.Wanted("a", False),
            ev.Wanted("c", True),
            ev.Changing(1),
            ev.Changing(-1),
            ev.Adopted(7, True),
        ]
        for _ in range(200):
            event = chance.choice(events)
            if isinstance(event, ev.Adopted) and world.state.phase is not Phase.LAUNCHED:
                continue
            world.on(event).after(chance.choice((0.0, 0.1, 3.0, 50.0)))
        to_its_end(world)


class TestTable:
    def test_an_illegal_transition_raises_and_changes_nothing(self) -> None:
        state = begin(0.0)
        with pytest.raises(IllegalTransition, match="READY cannot follow LAUNCHED"):
            enter(state, Phase.READY, 1.0)
        assert state == begin(0.0)

    def test_nothing_leads_out_of_draining_but_the_end(self) -> None:
        reached = reachable(Phase.DRAINING)
        assert reached == {Phase.STOPPED, Phase.FAILED}

    def test_everything_leads_to_an_end(self) -> None:
        for phase in Phase:
            assert phase in (Phase.STOPPED, Phase.FAILED) or Phase.STOPPED in reachable(phase)


def reachable(start: Phase) -> set[Phase]:
    seen: set[Phase] = set()
    todo: Iterable[Phase] = TRANSITIONS[start]
    while new := set(todo) - seen:
        seen |= new
        todo = {after for phase in new for after in TRANSITIONS[phase]}
    return seen
