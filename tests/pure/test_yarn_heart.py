"""The conversation with a ResourceManager whose answers are lost, that restarts, or that ends the attempt.

The ResourceManager is simulated by its own rules, so that every call of a life can be the one that fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from tarn_am.cluster.yarn.convert import Size
from tarn_am.cluster.yarn.heart import FAST_S, Heart, pause_s
from tarn_am.cluster.yarn.ledger import Ledger
from tarn_am.cluster.yarn.nodes import NodePolicy
from tarn_am.cluster.yarn.placement import Mode, Wish
from tarn_am.cluster.yarn.refusals import Meaning, meaning
from tarn_am.cluster.yarn.rm import Deposed, MasterService, Presence
from tarn_am.hadoop.errors import CallLost, CallTimeout, HadoopError, RemoteError, Unreachable
from tarn_am.hadoop.ipc.sasl import Login
from tarn_am.hadoop.pb import yarn_services_pb2
from tarn_am.ports import Allocated, ClusterError, ClusterEvent, Completed
from tarn_common.ids import ContainerId
from tests.rigs.simulated_rm import SimulatedRm
from tests.rigs.wait import eventually

NODES = {"n1": 1, "n2": 1, "n3": 1}
_YARN = "org.apache.hadoop.yarn.exceptions."


class Life:
    """A heart, a ledger, and a ResourceManager in memory."""

    def __init__(self, rm: SimulatedRm, per_node: int = 1) -> None:
        self.rm = rm
        self.master = MasterService(rm, Login("am"), Presence("here"), 1.0, time.monotonic)
        self.ledger = Ledger(Wish(Size(1024, 1), per_node=per_node), 0, NodePolicy(), 300.0)
        self.heart = Heart(self.master, self.ledger.placement, self, time.monotonic, fast_s=0.001, rest_s=0.002)
        self.events: list[ClusterEvent] = []
        self.again = 0

    def progress(self) -> float:
        return 0.5

    def registered(self, answer: yarn_services_pb2.RegisterApplicationMasterResponseProto) -> None:
        self.again += 1

    def refused(self, asks: list[str], reason: str) -> None:
        self.events += self.ledger.refused(asks, reason)

    def unheard(self) -> None:
        return

    def heard(self, answer: yarn_services_pb2.AllocateResponseProto) -> None:
        outcome = self.ledger.heard(answer, time.monotonic(), time.time())
        for gone in outcome.gone:
            self.heart.gone(gone)
        for name, _ in outcome.back:
            self.heart.release(name)
        self.events += outcome.events
        if outcome.soon:
            self.heart.kick()

    def ask(self, *names: str) -> None:
        for name in names:
            self.ledger.ask(name, time.monotonic())
        self.heart.kick()

    @property
    def held(self) -> set[ContainerId]:
        return {held.name for held in self.ledger.books}

    def answered(self) -> set[str]:
        return {event.ask_id for event in self.events if isinstance(event, Allocated)}

    async def settled(self) -> None:
        """Both sides agree on what is held."""
        await eventually(lambda: len(self.held) == len(self.rm.held) and not self.rm.asks, "both agree")


@asynccontextmanager
async def living(rm: SimulatedRm, per_node: int = 1) -> AsyncIterator[Life]:
    life = Life(rm, per_node)
    await life.master.register(10.0)
    beating = asyncio.create_task(life.heart.run())
    try:
        yield life
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


@pytest.mark.parametrize("takes_tags", [True, False])
class TestEveryCallOfALifeFailsOnce:
    @pytest.mark.parametrize("number", range(2, 14))
    @pytest.mark.parametrize("when", ["before", "after"])
    async def test_each_ask_has_one_container_and_none_is_lost(self, takes_tags: bool, number: int, when: str) -> None:
        rm = SimulatedRm(NODES, takes_tags=takes_tags)
        (rm.lost_before if when == "before" else rm.lost_after).add(number)
        async with living(rm) as life:
            life.ask("a", "b", "c")
            await eventually(lambda: life.answered() == {"a", "b", "c"}, "all are answered")
            await life.settled()
            assert sorted(rm.held.values()) == ["n1", "n2", "n3"]
            assert set(rm.most_at_once.values()) == {1}
            assert sum(isinstance(event, Allocated) for event in life.events) == 3

    @pytest.mark.parametrize("after_calls", range(1, 12))
    async def test_a_restart_at_any_moment_loses_no_ask_and_no_container(self, takes_tags: bool, after_calls: int) -> None:
        rm = SimulatedRm(NODES, takes_tags=takes_tags)
        async with living(rm) as life:
            life.ask("a", "b")
            await eventually(lambda: rm.calls >= after_calls, "so many calls were made")
            rm.restart()
            life.ask("c")
            await eventually(lambda: life.answered() == {"a", "b", "c"}, "all are answered")
            await life.settled()
            assert life.again == 1
            assert sorted(rm.held.values()) == ["n1", "n2", "n3"]


class TestARestartWithAnotherHandler:
    async def test_it_is_probed_anew_and_the_asks_go_on_in_the_other_form(self) -> None:
        rm = SimulatedRm(NODES, takes_tags=True)
        async with living(rm) as life:
            life.ask("a")
            await eventually(lambda: life.answered() == {"a"}, "it is answered")
            before = life.ledger.placement.mode
            rm.takes_tags = False
            rm.restart()
            life.ask("b", "c")
            await eventually(lambda: life.answered() == {"a", "b", "c"}, "all are answered")
            assert (before, life.ledger.placement.mode) == (Mode.TAGGED, Mode.LISTED)
            assert sorted(rm.held.values()) == ["n1", "n2", "n3"]


class TestAnEnd:
    async def test_it_frees_its_node_for_the_ask_that_waits(self) -> None:
        rm = SimulatedRm({"n1": 1})
        async with living(rm) as life:
            life.ask("a", "b")
            await eventually(lambda: life.answered() == {"a"}, "one is answered")
            rm.end(1, 104)
            await eventually(lambda: life.answered() == {"a", "b"}, "the other is answered")
            [end] = [event for event in life.events if isinstance(event, Completed)]
            assert end.exit_status == 104

    async def test_a_release_is_said_again_after_a_restart_until_it_is_heard_of(self) -> None:
        rm = SimulatedRm(NODES)
        async with living(rm) as life:
            life.ask("a")
            await eventually(lambda: bool(life.held), "it is answered")
            [name] = life.held
            life.ledger.forget(name)
            rm.restart()
            life.heart.release(name)
            await eventually(lambda: not rm.held, "it is given back")
            assert not any(isinstance(event, Completed) for event in life.events)


class TestWhereItIsShown:
    async def test_what_is_shown_while_a_request_is_under_way_is_said_with_the_next(self) -> None:
        rm = SimulatedRm({"a": 1})
        life = Life(rm)
        await life.master.register(10.0)
        saying = asyncio.create_task(life.master.say(yarn_services_pb2.AllocateRequestProto()))
        await asyncio.sleep(0)
        life.master.show(Presence("a", "http://a:8888"))
        await saying
        assert rm.urls == []
        await life.master.say(yarn_services_pb2.AllocateRequestProto())
        await life.master.say(yarn_services_pb2.AllocateRequestProto())
        assert rm.urls == ["http://a:8888"]


class TestAMany:
    async def test_hundreds_are_placed_one_a_node(self) -> None:
        rm = SimulatedRm({f"n{number}": 1 for number in range(300)})
        async with living(rm) as life:
            life.ask(*(f"ask-{number}" for number in range(300)))
            await eventually(lambda: len(life.answered()) == 300, "all are answered")
            assert set(rm.most_at_once.values()) == {1}
            assert not rm.released

    async def test_on_nodes_with_room_for_more_the_surplus_goes_back(self) -> None:
        rm = SimulatedRm(dict.fromkeys(("n1", "n2", "n3", "n4", "n5"), 9))
        async with living(rm) as life:
            life.ask(*(f"ask-{number}" for number in range(5)))
            await eventually(lambda: len(life.answered()) == 5, "all are answered")
            await life.settled()
            assert sorted(rm.held.values()) == ["n1", "n2", "n3", "n4", "n5"]


class TestTrust:
    async def test_nothing_is_begun_before_a_heartbeat_succeeds_again(self) -> None:
        rm = SimulatedRm(NODES)
        async with living(rm) as life:
            await life.heart.trusted(10.0, 1.0)
            rm.lost_before = set(range(rm.calls + 1, rm.calls + 10_000))
            await eventually(lambda: bool(life.master.trouble), "the outage is noticed")
            with pytest.raises(ClusterError, match=r"nothing is started or stopped while the ResourceManager does not answer: .*reached"):
                await life.heart.trusted(0.0, 0.05)
            heard_at = life.master.heard_at or 0.0
            await eventually(lambda: time.monotonic() - heard_at > 0.1, "the trust has run out")
            waiting = asyncio.create_task(life.heart.trusted(0.1, 30.0))
            rm.lost_before = set()
            await waiting
            assert life.master.trouble == ""

    async def test_an_attempt_that_is_over_ends_the_heart(self) -> None:
        life = Life(SimulatedRm(NODES))
        await life.master.register(10.0)
        life.rm.over = True
        with pytest.raises(Deposed, match="ApplicationAttemptNotFoundException"):
            await life.heart.run()


class TestASecondProcess:
    async def test_it_finds_the_number_and_hears_the_last_answer_once_more(self) -> None:
        rm = SimulatedRm(NODES)
        async with living(rm) as first:
            first.ask("a")
            await eventually(lambda: first.answered() == {"a"}, "it is answered")
            rm.end(1, 7, "heard by nobody")
            # The call that is under way included.
            rm.lost_after = set(range(rm.calls, rm.calls + 10_000))
            await eventually(lambda: not rm._completed, "the answer is under way")
        rm.lost_after = set()
        second = Life(rm)
        assert await second.master.register(10.0) is None
        answer = await second.master.resume()
        assert [status.exit_status for status in answer.completed_container_statuses] == [7]
        second.ledger.heard(await second.master.say(yarn_services_pb2.AllocateRequestProto()), 0.0, 0.0)

    async def test_finish_registers_first_with_one_that_was_restarted(self) -> None:
        life = Life(SimulatedRm(NODES))
        await life.master.register(10.0)
        life.rm.restart()
        assert await life.master.finish(True, "done", 10.0)


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (Unreachable("x"), Meaning.LATER),
        (CallLost("x"), Meaning.LATER),
        (CallTimeout("x"), Meaning.LATER),
        (RemoteError(f"{_YARN}ApplicationMasterNotRegisteredException", "AM is not registered for known application"), Meaning.REGISTER),
        (RemoteError(f"{_YARN}ApplicationAttemptNotFoundException", "x"), Meaning.OVER),
        (RemoteError("org.apache.hadoop.security.token.SecretManager$InvalidToken", "x", detail=15, fatal=True), Meaning.OVER),
        (RemoteError(f"{_YARN}YarnException", "the configured h cannot handle placement constraints. Rejecting"), Meaning.NO_TAGS),
        (RemoteError(f"{_YARN}InvalidResourceRequestException", "Invalid resource request!"), Meaning.BAD_ASK),
        (RemoteError(f"{_YARN}InvalidResourceBlacklistRequestException", "x"), Meaning.BAD_LIST),
        (
            RemoteError(f"{_YARN}YarnException", "…SchedulerInvalidResoureRequestException: Invalid updated SchedulingRequest"),
            Meaning.BAD_ASK,
        ),
        (RemoteError("java.io.IOException", "too busy", fatal=True), Meaning.LATER),
    ],
)
def test_each_refusal_has_its_meaning(error: HadoopError, found: Meaning) -> None:
    assert meaning(error) is found


@pytest.mark.parametrize(
    ("now", "fast_until", "waiting", "due_at", "pause"),
    [
        (0.0, FAST_S, True, None, 0.1),
        (9.0, FAST_S, True, None, 0.5),
        (9.0, FAST_S, False, None, 1.0),
        (9.0, FAST_S, False, 9.25, 0.25),
        (9.0, FAST_S, False, 8.0, 0.0),
    ],
)
def test_the_pace_follows_what_is_awaited(now: float, fast_until: float, waiting: bool, due_at: float | None, pause: float) -> None:
    assert pause_s(now, fast_until, waiting, due_at, 0.1, 1.0) == pytest.approx(pause)
