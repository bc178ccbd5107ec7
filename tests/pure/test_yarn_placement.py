"""Which requests stand at the ResourceManager, and what of its deliveries answers which ask."""

from __future__ import annotations

import pytest

from tarn_am.cluster.yarn.convert import Size, resource
from tarn_am.cluster.yarn.placement import REPEAT_S, WIDEST, Mode, Placement, Wish, probe
from tarn_am.hadoop.pb import yarn_pb2
from tests.rigs.simulated_rm import delivery

SIZE = Size(1024, 2, {"yarn.io/gpu": 1})


def placement(*, tags: bool, per_node: int = 1, label: str = "", asks: int = 0) -> Placement:
    found = Placement(Wish(SIZE, per_node=per_node, label=label), first_key=100)
    found.probed(tags)
    for number in range(asks):
        found.ask(f"ask-{number}", now=0.0)
    return found


def given(key: int, node: str, size: Size = SIZE, serial: int = 7) -> yarn_pb2.ContainerProto:
    return delivery(serial, node, key, resource(size))


class TestTagged:
    def test_every_ask_stands_at_once_under_a_key_of_its_own(self) -> None:
        book = placement(tags=True, asks=3)
        said = book.requests(0.0)
        assert [each.allocationRequestId for each in said.tagged] == [101, 102, 103]
        assert not said.plain
        assert {each.resourceSizing.numAllocations for each in said.tagged} == {1}
        assert not book.requests(1.0)

    def test_no_node_may_have_one_of_the_tag_already(self) -> None:
        book = Placement(Wish(SIZE, tag="web"))
        book.probed(True)
        book.ask("a", 0.0)
        [each] = book.requests(0.0).tagged
        # As Java reads notin(node, self/web).
        assert each.placementConstraint.SerializeToString().hex() == "0a190a046e6f6465120d0802120473656c661a0377656218002000"
        assert list(each.allocationTags) == ["web"]
        assert each.executionType.execution_type == yarn_pb2.GUARANTEED

    @pytest.mark.parametrize(("per_node", "there_already"), [(1, 0), (2, 1), (8, 7)])
    def test_so_many_a_node_are_one_less_there_already(self, per_node: int, there_already: int) -> None:
        [each] = placement(tags=True, per_node=per_node, asks=1).requests(0.0).tagged
        simple = each.placementConstraint.simpleConstraint
        assert (simple.scope, simple.minCardinality, simple.maxCardinality) == ("node", 0, there_already)

    def test_a_rejected_one_is_asked_for_anew_after_a_pause_or_when_a_node_comes(self) -> None:
        book = placement(tags=True, asks=2)
        first, second = book.requests(0.0).tagged
        book.rejects([yarn_pb2.RejectedSchedulingRequestProto(reason=yarn_pb2.RRP_COULD_NOT_PLACE_ON_NODE, request=first)], now=1.0)
        assert not book.requests(1.0 + REPEAT_S - 0.1)
        assert book.next_at() == 1.0 + REPEAT_S
        assert [each.allocationRequestId for each in book.requests(1.0 + REPEAT_S).tagged] == [103]
        book.rejects([yarn_pb2.RejectedSchedulingRequestProto(reason=yarn_pb2.RRP_COULD_NOT_PLACE_ON_NODE, request=second)], now=5.0)
        book.node_came()
        assert [each.allocationRequestId for each in book.requests(5.0).tagged] == [104]
        assert book.delivered(given(102, "n"), 6.0).back == "nobody waits for it"

    def test_a_cancelled_one_is_said_again_identically_with_none(self) -> None:
        book = placement(tags=True, asks=1)
        [asked] = book.requests(0.0).tagged
        book.cancel("ask-0")
        [cancelled] = book.requests(0.0).tagged
        assert cancelled.resourceSizing.numAllocations == 0
        cancelled.resourceSizing.numAllocations = 1
        assert cancelled == asked
        assert book.delivered(given(101, "n"), 0.0).back == "nobody waits for it"


class TestListed:
    def test_nodes_that_are_full_are_on_the_list_until_one_is_free(self) -> None:
        book = placement(tags=False, asks=2)
        [first] = book.requests(0.0).plain
        assert (first.resource_name, first.num_containers, first.relax_locality) == ("*", 1, True)
        assert book.delivered(given(first.allocation_request_id, "n1"), 0.0).ask == "ask-0"
        said = book.requests(0.0)
        assert (said.add, said.remove, len(said.plain)) == (("n1",), (), 1)
        book.freed("n1")
        assert (book.requests(0.0).add, book.requests(0.0).remove) == ((), ())
        book.taken("n2")
        assert book.requests(0.0).add == ("n2",)

    def test_what_comes_twice_to_a_node_goes_back_and_is_asked_for_again(self) -> None:
        book = placement(tags=False, asks=9)
        kept = 0
        while kept < 3:
            for one in book.requests(0.0).plain:
                kept += bool(book.delivered(given(one.allocation_request_id, f"n{kept}"), 0.0).ask)
        wide = book.requests(0.0).plain
        assert len(wide) > 1
        verdicts = [book.delivered(given(one.allocation_request_id, "n0"), 0.0) for one in wide]
        assert {verdict.back for verdict in verdicts} == {"n0 has its instances already"}
        assert len(book.requests(0.0).plain) == 1
        assert len(book.waiting) == 6

    def test_the_width_doubles_while_each_delivery_is_of_use(self) -> None:
        book = placement(tags=False, asks=500)
        widths, node = [], 0
        while book.waiting:
            said = book.requests(0.0).plain
            widths.append(len(said))
            for one in said:
                node += 1
                assert book.delivered(given(one.allocation_request_id, f"n{node}"), 0.0).ask
        assert widths[:3] == [1, 2, 8]
        assert max(widths) <= WIDEST

    def test_a_label_is_said_plainly_whatever_the_handler(self) -> None:
        book = placement(tags=True, label="gpu", asks=1)
        assert book.mode is Mode.LISTED
        [one] = book.requests(0.0).plain
        assert one.node_label_expression == "gpu"

    def test_with_no_limit_all_stand_at_once_and_no_node_is_full(self) -> None:
        book = placement(tags=True, per_node=0, asks=5)
        said = book.requests(0.0)
        assert (book.mode, len(said.plain)) == (Mode.LISTED, 5)
        for one in said.plain:
            assert book.delivered(given(one.allocation_request_id, "n1"), 0.0).ask
        assert not book.requests(0.0)


class TestWhatIsDelivered:
    @pytest.mark.parametrize(
        ("size", "short"),
        [
            (Size(1024, 2), "0 of 1 yarn.io/gpu"),
            (Size(1024, 1, {"yarn.io/gpu": 1}), "1 of 2 vcores"),
            (Size(512, 2, {"yarn.io/gpu": 1}), "512 of 1024 memory-mb"),
        ],
    )
    def test_less_than_was_asked_for_goes_back_and_ends_the_ask(self, size: Size, short: str) -> None:
        """YARN clamps a scheduling request to what it has, and leaves out a resource that it does not know."""
        book = placement(tags=True, asks=1)
        book.requests(0.0)
        verdict = book.delivered(given(101, "n1", size), 0.0)
        assert (verdict.ask, verdict.back, verdict.refused) == ("", f"it has {short}", "ask-0")
        assert not book.waiting
        assert not book.occupied

    def test_more_than_was_asked_for_is_kept(self) -> None:
        book = placement(tags=True, asks=1)
        book.requests(0.0)
        assert book.delivered(given(101, "n1", Size(2048, 4, {"yarn.io/gpu": 1, "fpga": 0})), 0.0).ask == "ask-0"

    def test_a_second_delivery_under_the_same_key_goes_back(self) -> None:
        book = placement(tags=True, asks=1)
        book.requests(0.0)
        assert book.delivered(given(101, "n1"), 0.0).ask
        assert book.delivered(given(101, "n2", serial=8), 0.0).back == "nobody waits for it"

    def test_one_on_a_node_that_is_avoided_goes_back(self) -> None:
        book = placement(tags=True, asks=1)
        book.avoid(frozenset({"n1"}))
        assert book.requests(0.0).add == ("n1",)
        assert book.delivered(given(101, "n1"), 0.0).back == "n1 is avoided"
        assert book.next_at() == REPEAT_S


class TestAfterARestart:
    @pytest.mark.parametrize("tags", [True, False])
    def test_all_that_stood_is_said_again_under_new_keys_once_probed(self, tags: bool) -> None:
        book = placement(tags=tags, per_node=1, asks=2)
        book.avoid(frozenset({"bad"}))
        old = book.requests(0.0)
        book.forgotten()
        assert not book.requests(1.0)
        book.probed(not tags)
        said = book.requests(1.0)
        assert said.add == ("bad",)
        keys = {one.allocation_request_id for one in said.plain} | {one.allocationRequestId for one in said.tagged}
        before = {one.allocation_request_id for one in old.plain} | {one.allocationRequestId for one in old.tagged}
        assert keys
        assert not keys & before

    def test_what_was_not_applied_is_said_again(self) -> None:
        book = placement(tags=False, asks=1)
        book.avoid(frozenset({"bad"}))
        book.taken("full")
        first = book.requests(0.0)
        book.unsaid(first)
        again = book.requests(0.0)
        assert (again.add, len(again.plain)) == (first.add, 1)

    def test_refused_asks_end_and_the_list_stands(self) -> None:
        book = placement(tags=False, asks=1)
        said = book.requests(0.0)
        assert book.refuse(said) == ["ask-0"]
        assert not book.waiting


def test_the_probe_asks_for_nothing() -> None:
    assert probe().resourceSizing.numAllocations == 0
    assert not probe().allocationTags
