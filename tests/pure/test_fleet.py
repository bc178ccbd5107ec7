"""The fleet's decisions: how many, who goes, and what late, doubled and illegal events change (nothing)."""

from __future__ import annotations

import dataclasses

from tarn_am.core.actions import (
    Cancel,
    FinishApplication,
    KeepTarget,
    Launch,
    Release,
    Request,
    SendDrain,
    SendStop,
    StopContainer,
)
from tarn_am.core.events import (
    Adopted,
    AdoptedContainer,
    AgentLost,
    ClusterAllocated,
    ClusterAskRefused,
    DrainOrdered,
    Launched,
    LaunchFailed,
    Report,
    ScaleOrdered,
    ShutdownOrdered,
    Tick,
)
from tarn_am.core.model import Phase
from tarn_am.core.roster import FleetPolicy
from tests.rigs.fleet import FleetRig, container, ready, serving


class TestPendingAsksCount:
    def test_the_first_tick_asks_for_all_and_later_ones_for_none(self) -> None:
        rig = FleetRig(3)
        rig.feed(Tick(), Tick(), Tick())
        assert [action.ask_id for action in rig.take(Request)] == ["ask-1", "ask-2", "ask-3"]

    def test_an_instance_counts_from_the_ask_until_it_drains(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        rig.launched("ask-1", 2)
        rig.hello(2)
        for phase in (Phase.STAGING, Phase.STARTING):
            rig.say(2, Report(phase))
        rig.say(2, ready())
        rig.say(2, Report(Phase.UNREADY, "Triton does not answer"))
        assert len(rig.take(Request)) == 1
        rig.say(2, Report(Phase.DRAINING))
        assert len(rig.take(Request)) == 1

    def test_every_cycle_ends_in_a_sentence(self) -> None:
        rig = FleetRig(2)
        rig.feed(Tick())
        assert rig.state.verdict == "2 wanted: 2 REQUESTED; asked for 2 more"
        rig.feed(Tick())
        assert rig.state.verdict == "2 wanted: 2 REQUESTED; nothing to do"

    def test_a_tick_in_which_nothing_happens_changes_nothing_that_is_shown(self) -> None:
        rig = serving(2)
        rig.talk(1)
        before = rig.state.changes
        rig.feed(Tick(), Tick())
        assert rig.state.changes == before


class TestALifeFromAskToEnd:
    def test_it_is_listed_only_while_ready(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        listing = rig.state.listing
        rig.launched("ask-1", 2)
        rig.hello(2)
        rig.say(2, Report(Phase.STARTING, endpoint=ready().endpoint))
        assert rig.state.listing == listing
        rig.say(2, ready())
        assert rig.state.listing == listing + 1
        rig.say(2, Report(Phase.UNREADY))
        assert rig.state.listing == listing + 2

    def test_an_allocation_is_launched_once(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        rig.allocate("ask-1", 2)
        rig.allocate("ask-1", 2)
        rig.feed(Tick())
        assert rig.take(Launch) == [Launch(container(2))]

    def test_the_hello_may_overtake_the_launchs_own_answer(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        rig.allocate("ask-1", 2)
        rig.hello(2, Report(Phase.STAGING))
        rig.feed(Launched(container(2)))
        assert rig.of(2).phase is Phase.STAGING

    def test_tritons_version_is_kept_once_it_was_told(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        rig.launched("ask-1", 2)
        rig.hello(2)
        rig.say(2, Report(Phase.STARTING))
        assert dict(rig.of(2).versions) == {}
        rig.say(2, dataclasses.replace(ready(), triton_version="2.51.0"))
        rig.say(2, Report(Phase.UNREADY))
        assert dict(rig.of(2).versions) == {"triton": "2.51.0"}

    def test_the_reason_that_the_agent_gave_is_the_reason(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        rig.launched("ask-1", 2)
        rig.hello(2)
        rig.say(2, Report(Phase.FAILED, "model 'mnist' failed to load: no weights", "model"))
        rig.complete(2, 106)
        (ended,) = rig.state.ended
        assert (ended.phase, ended.reason, ended.exit_status) == (Phase.FAILED, "model 'mnist' failed to load: no weights", 106)

    def test_without_a_word_the_exit_status_speaks(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        rig.launched("ask-1", 2)
        rig.complete(2, 137, "Killed by external signal")
        assert "SIGKILL" in rig.state.ended[0].reason
        assert "Killed by external signal" in rig.state.ended[0].reason


class TestLateAndDoubledEventsChangeNothing:
    def test_all_of_them(self) -> None:
        rig = serving(2)
        rig.talk(1)
        before, rig.actions = rig.state, []
        rig.feed(
            ClusterAllocated("ask-1", container(2), "node1"),
            Launched(container(2)),
            ClusterAskRefused("ask-1", "late", retry=False),
            LaunchFailed(container(2), "late"),
            AgentLost(container(99)),
            DrainOrdered(container(99), "somebody"),
        )
        rig.complete(99)
        rig.hello(99)
        assert rig.state.members == before.members
        assert rig.state.halted == ""
        assert rig.actions == []

    def test_an_allocation_that_nobody_waits_for_is_given_back(self) -> None:
        rig = serving(1)
        rig.feed(ClusterAllocated("ask-77", container(9), "node1"))
        assert rig.take(Release) == [Release(container(9))]
        assert len(rig.instances) == 1

    def test_a_completion_counts_once(self) -> None:
        rig = serving(1)
        rig.complete(2)
        rig.complete(2)
        assert rig.state.failed_total == 1
        assert len(rig.take(Request)) == 1


class TestIllegalReportsAreRefused:
    def test_ready_after_draining_is_not_listed(self) -> None:
        rig = serving(1)
        rig.feed(DrainOrdered(container(2), "a person"))
        listing, happened = rig.state.listing, rig.state.happened
        rig.say(2, ready())
        rig.say(2, ready())
        assert rig.of(2).phase is Phase.DRAINING
        assert rig.state.listing == listing
        assert rig.state.happened == happened + 1, "told once, not at each repetition"
        assert "READY cannot follow DRAINING" in rig.state.happenings[-1].sentence

    def test_ready_without_an_endpoint_is_not_ready(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        rig.launched("ask-1", 2)
        rig.hello(2)
        rig.say(2, Report(Phase.READY))
        assert rig.of(2).phase is Phase.LAUNCHED

    def test_nothing_comes_back_from_the_grave(self) -> None:
        rig = serving(1)
        rig.say(2, Report(Phase.FAILED, "gone", "triton"))
        rig.say(2, ready())
        rig.hello(2, ready(), "two")
        assert rig.of(2).phase is Phase.FAILED

    def test_an_agent_started_anew_may_begin_again(self) -> None:
        rig = serving(1)
        rig.hello(2, Report(Phase.STAGING), "two")
        assert rig.of(2).phase is Phase.STAGING
        rig.say(2, Report(Phase.LAUNCHED))
        assert rig.of(2).phase is Phase.STAGING, "but not within one life"


class TestScalingDown:
    def test_asks_go_first_then_what_never_served(self) -> None:
        rig = serving(3)
        rig.feed(ScaleOrdered(6, "a person"))
        rig.launched("ask-4", 5)
        rig.hello(5)
        rig.allocate("ask-5", 6)
        rig.actions.clear()
        rig.feed(ScaleOrdered(5, "a person"))
        assert rig.take(Cancel) == [Cancel("ask-6")]
        rig.feed(ScaleOrdered(3, "a person"))
        assert rig.take(SendStop) == [SendStop(container(5), "the fleet was scaled down")]
        assert rig.take(StopContainer) == [StopContainer(container(6))], "no agent there to be told"
        assert rig.take(SendDrain) == []

    def test_a_stop_that_overtook_the_launch_is_repeated(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        rig.allocate("ask-1", 2)
        rig.feed(ScaleOrdered(0, "a person"))
        assert rig.take(StopContainer) == [StopContainer(container(2))]
        rig.feed(Launched(container(2)))
        assert rig.take(StopContainer) == [StopContainer(container(2))]

    def test_a_serving_one_is_drained_with_grace_and_deadline(self) -> None:
        rig = serving(2)
        rig.feed(ScaleOrdered(1, "a person"))
        (order,) = rig.take(SendDrain)
        assert (order.container_id, order.deadline_s, order.grace_s) == (container(3), 123.0, 3.0)
        assert rig.of(3).phase is Phase.DRAINING
        assert rig.take(StopContainer) == []
        rig.say(3, Report(Phase.DRAINING))
        rig.say(3, Report(Phase.STOPPED, "", "drained"))
        rig.complete(3, 100)
        assert rig.state.ended[0].phase is Phase.STOPPED
        assert rig.state.failed_total == 0
        assert rig.take(Request) == []

    def test_what_is_left_after_the_deadline_is_stopped_and_stopped_again(self) -> None:
        rig = serving(2)
        rig.feed(ScaleOrdered(1, "a person"))
        rig.talk(132)
        assert rig.take(StopContainer) == []
        rig.talk(3)
        assert rig.take(StopContainer) == [StopContainer(container(3))]
        rig.talk(31)
        assert rig.take(StopContainer) == [StopContainer(container(3))]

    def test_an_agent_that_was_away_is_told_when_it_is_back(self) -> None:
        rig = serving(2)
        rig.feed(AgentLost(container(3)), ScaleOrdered(1, "a person"))
        assert rig.of(3).phase is Phase.DRAINING
        assert rig.take(SendDrain) == []
        rig.talk(10)
        rig.hello(3, ready())
        (order,) = rig.take(SendDrain)
        assert order.deadline_s == 113.0
        assert rig.of(3).phase is Phase.DRAINING


class TestOneInstanceIsDrainedByHand:
    def test_it_is_replaced_at_once(self) -> None:
        rig = serving(2)
        rig.feed(DrainOrdered(container(2), "a person"))
        assert len(rig.take(Request)) == 1
        assert len(rig.take(SendDrain)) == 1
        assert rig.state.replaced_total == 1

    def test_twice_is_once(self) -> None:
        rig = serving(2)
        rig.feed(DrainOrdered(container(2), "a person"), DrainOrdered(container(2), "a person"))
        assert len(rig.take(SendDrain)) == 1
        assert len(rig.take(Request)) == 1


class TestAnInstanceDies:
    def test_bad_luck_is_replaced_at_once(self) -> None:
        rig = serving(2)
        rig.talk(100)
        rig.complete(2, 137)
        assert len(rig.take(Request)) == 1
        assert rig.state.crashes.in_a_row == 0
        assert (rig.state.failed_total, rig.state.replaced_total) == (1, 1)

    def test_its_agent_says_so_before_the_container_ends(self) -> None:
        rig = serving(1)
        rig.say(2, Report(Phase.FAILED, "tritonserver died too often", "triton"))
        assert len(rig.take(Request)) == 1
        rig.talk(21)
        assert rig.take(StopContainer) == [StopContainer(container(2))], "a FAILED one that does not end is stopped"
        rig.complete(2, 105)
        assert rig.state.failed_total == 1

    def test_a_term_from_outside_is_no_failure_but_is_replaced(self) -> None:
        rig = serving(1)
        rig.complete(2, 143)
        assert rig.state.failed_total == 0
        assert len(rig.take(Request)) == 1


class TestCrashLoop:
    def crash(self, rig: FleetRig, number: int) -> None:
        (ask,) = rig.take(Request)
        rig.launched(ask.ask_id, number)
        rig.complete(number, 104)

    def test_asks_slow_down_and_then_end_with_the_reason(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        waits = []
        for number in range(2, 7):
            self.crash(rig, number)
            waited = 0
            while not any(isinstance(action, Request) for action in rig.actions) and waited < 100:
                rig.wait(1)
                waited += 1
            waits.append(waited)
        assert waits == [0, 1, 2, 4, 100]
        assert "5 instances failed in a row and none became READY" in rig.state.halted
        assert "the model repository could not be staged" in rig.state.halted
        assert "tarn scale 1" in rig.state.halted
        assert [one.sentence.partition(":")[0] for one in rig.state.happenings[-2:]] == ["failed", "no more instances are asked for"]

    def test_a_scale_order_of_the_same_number_lifts_the_halt(self) -> None:
        rig = FleetRig(1, FleetPolicy(min_instances=0, crash_limit=1))
        rig.feed(Tick())
        self.crash(rig, 2)
        assert rig.state.halted
        rig.feed(ScaleOrdered(1, "a person"))
        assert rig.state.halted == ""
        assert len(rig.take(Request)) == 1

    def test_one_that_becomes_ready_lifts_it_too(self) -> None:
        rig = FleetRig(2, FleetPolicy(min_instances=0, crash_limit=1))
        rig.feed(Tick())
        rig.launched("ask-1", 2)
        rig.complete(2, 104)
        assert rig.state.halted
        rig.serve("ask-2", 3)
        assert rig.state.halted == ""

    def test_a_fleet_that_served_is_asked_for_ever_more_slowly_and_never_given_up(self) -> None:
        rig = serving(1)
        rig.feed(ScaleOrdered(4, "a person"))
        waits = []
        number = 2
        for _ in range(9):
            asks = rig.take(Request)
            for ask in asks:
                number += 1
                rig.launched(ask.ask_id, number)
            for back in range(len(asks)):
                rig.complete(number - back, 104)
            waited = 0
            while not any(isinstance(action, Request) for action in rig.actions) and waited < 100:
                rig.talk(1)
                waited += 1
            waits.append(waited)
        assert not rig.state.halted
        assert waits[-1] == 60, waits
        assert waits == sorted(waits)
        assert "the model repository could not be staged" in rig.state.crashes.last_reason
        assert rig.of(2).phase is Phase.READY

    def test_one_wave_counts_once_however_many_fail_in_it(self) -> None:
        rig = FleetRig(20)
        rig.feed(Tick())
        asks = rig.take(Request)
        for number, ask in enumerate(asks, 2):
            rig.launched(ask.ask_id, number)
        for number, _ in enumerate(asks, 2):
            rig.now += 0.01
            rig.complete(number, 104)
        assert rig.state.crashes.in_a_row == 1
        assert not rig.state.halted

    def test_all_at_once_fail_at_the_same_moment(self) -> None:
        rig = FleetRig(20)
        rig.feed(Tick())
        asks = rig.take(Request)
        rig.now += 1.0
        for number, ask in enumerate(asks[:4], 2):
            rig.launched(ask.ask_id, number)
            rig.complete(number, 104)
        assert rig.state.crashes.next_ask_at <= rig.now, "one cause, one burst"
        assert not rig.state.halted

    def test_ready_for_a_moment_and_dead_again_is_asked_for_ever_more_slowly_but_not_halted(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        waits = []
        for number in range(2, 12):
            (ask,) = rig.take(Request)
            rig.serve(ask.ask_id, number)
            rig.complete(number, 105)
            waited = 0
            while not any(isinstance(action, Request) for action in rig.actions):
                rig.wait(1)
                waited += 1
            waits.append(waited)
        assert waits == [0, 1, 2, 4, 8, 16, 32, 60, 60, 60]
        assert not rig.state.halted


class TestTheClusterSaysNo:
    def test_for_now(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick(), ClusterAskRefused("ask-1", "the queue is full", retry=True))
        assert len(rig.take(Request)) == 1
        rig.wait(1)
        assert len(rig.take(Request)) == 1

    def test_for_good(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick(), ClusterAskRefused("ask-1", "no node has 9 GPUs", retry=False))
        rig.take(Request)
        rig.wait(100)
        assert rig.take(Request) == []
        assert "no node has 9 GPUs" in rig.state.halted

    def test_a_launch(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        rig.allocate("ask-1", 2)
        rig.feed(LaunchFailed(container(2), "the node does not answer"))
        assert rig.take(Release) == [Release(container(2))]
        assert "the node does not answer" in rig.state.ended[0].reason
        assert len(rig.take(Request)) == 2


class TestAnAgentIsSilent:
    def test_first_unlisted_then_replaced(self) -> None:
        rig = serving(1)
        rig.feed(AgentLost(container(2)))
        rig.wait(5)
        assert rig.of(2).phase is Phase.READY, "a restart of the agent disturbs nobody"
        rig.wait(1)
        assert rig.of(2).phase is Phase.UNREADY
        assert rig.take(Request) == []
        rig.wait(55)
        assert rig.of(2).phase is Phase.FAILED
        assert rig.take(StopContainer) == [StopContainer(container(2))]
        assert len(rig.take(Request)) == 1

    def test_a_stream_that_stands_and_says_nothing_is_silence_too(self) -> None:
        rig = serving(1)
        rig.wait(6)
        assert rig.of(2).phase is Phase.UNREADY
        rig.report()
        assert rig.of(2).phase is Phase.READY, "and one report ends it"

    def test_back_with_a_hello(self) -> None:
        rig = serving(1)
        rig.feed(AgentLost(container(2)))
        rig.wait(10)
        rig.hello(2, ready())
        assert rig.of(2).phase is Phase.READY
        assert rig.of(2).silent_since == 0.0
        assert rig.take(Request) == []

    def test_no_hello_at_all(self) -> None:
        rig = FleetRig(1)
        rig.feed(Tick())
        rig.launched("ask-1", 2)
        rig.wait(120)
        assert rig.of(2).phase is Phase.LAUNCHED
        rig.wait(1)
        assert "no word from its agent within 120 s" in rig.of(2).reason
        assert rig.take(StopContainer) == [StopContainer(container(2))]
        assert len(rig.take(Request)) == 2

    def test_it_was_this_application_master_that_slept(self) -> None:
        rig = serving(1)
        rig.talk(3)
        rig.now += 300.0
        rig.feed(Tick())
        assert rig.of(2).phase is Phase.READY
        rig.wait(6)
        assert rig.of(2).phase is Phase.UNREADY


class TestTheApplicationMasterWasRestarted:
    def adopted(self, wanted: int, *numbers: int) -> FleetRig:
        rig = FleetRig(wanted)
        rig.feed(Adopted(tuple(AdoptedContainer(container(number), "node1", 900_000.0) for number in numbers)), Tick())
        return rig

    def test_what_runs_counts_before_it_speaks(self) -> None:
        rig = self.adopted(2, 2, 3)
        assert rig.take(Request) == []
        assert rig.phases() == {Phase.LAUNCHED: 2}

    def test_a_hello_brings_the_whole_state(self) -> None:
        rig = self.adopted(1, 2)
        report = Report(Phase.READY, endpoint=ready().endpoint, since_at=950_000.0)
        rig.hello(2, report)
        assert (rig.of(2).phase, rig.of(2).since_at) == (Phase.READY, 950_000.0)

    def test_nobody_is_taken_away_before_all_have_spoken(self) -> None:
        rig = self.adopted(1, 2, 3)
        rig.hello(3, ready())
        rig.wait(3)
        assert rig.take(SendDrain) == []
        rig.hello(2, Report(Phase.DRAINING))
        rig.talk(3)
        assert rig.take(SendDrain) == []
        assert rig.phases() == {Phase.READY: 1, Phase.DRAINING: 1}

    def test_one_that_never_speaks_is_replaced(self) -> None:
        rig = self.adopted(1, 2)
        rig.wait(121)
        assert rig.take(StopContainer) == [StopContainer(container(2))]
        assert len(rig.take(Request)) == 1

    def test_one_that_ends_is_replaced(self) -> None:
        rig = self.adopted(1, 2)
        rig.complete(2, None)
        assert len(rig.take(Request)) == 1

    def test_twice_adopted_is_once(self) -> None:
        rig = self.adopted(1, 2)
        rig.feed(Adopted((AdoptedContainer(container(2), "node1", 0.0),)))
        assert len(rig.instances) == 1


class TestShuttingDown:
    def test_all_drain_then_the_application_is_finished(self) -> None:
        rig = serving(2)
        rig.feed(ScaleOrdered(3, "a person"))
        rig.actions.clear()
        rig.feed(ShutdownOrdered("a person"))
        assert len(rig.take(SendDrain)) == 2
        assert rig.take(Cancel) == [Cancel("ask-3")]
        assert rig.take(KeepTarget) == [KeepTarget(None)]
        rig.complete(2, 100)
        assert rig.take(FinishApplication) == []
        rig.complete(3, 100)
        assert rig.take(FinishApplication) == [FinishApplication(True, "shut down as ordered")]
        rig.wait(10)
        assert rig.actions == [], "and nothing more"

    def test_a_second_order_hurries(self) -> None:
        rig = serving(1)
        rig.feed(ShutdownOrdered("a person"))
        rig.actions.clear()
        rig.feed(ShutdownOrdered("a person"), ShutdownOrdered("a person"))
        assert len(rig.take(SendStop)) == 1
        assert len(rig.take(StopContainer)) == 1

    def test_an_empty_fleet_is_finished_at_once(self) -> None:
        rig = FleetRig(0)
        rig.feed(ShutdownOrdered("a person"))
        assert len(rig.take(FinishApplication)) == 1

    def test_a_container_that_will_not_end_does_not_hold_it_for_ever(self) -> None:
        rig = serving(1)
        rig.feed(ShutdownOrdered("a person"))
        rig.talk(400)
        (finish,) = rig.take(FinishApplication)
        assert not finish.succeeded
        assert "1 containers would not end" in finish.message

    def test_nothing_is_asked_for_any_more(self) -> None:
        rig = serving(1)
        rig.feed(ShutdownOrdered("a person"))
        rig.complete(2, 105)
        rig.feed(ScaleOrdered(5, "a person"))
        rig.wait(5)
        assert rig.take(Request) == []


class TestOrdersAreKept:
    def test_a_target_is_written_down_once(self) -> None:
        rig = serving(1)
        rig.feed(ScaleOrdered(2, "a person"), ScaleOrdered(2, "a person"))
        assert rig.take(KeepTarget) == [KeepTarget(2)]

    def test_a_kept_target_is_bent_into_new_bounds(self) -> None:
        assert FleetRig(9, FleetPolicy(min_instances=1, max_instances=4)).state.target == 4
