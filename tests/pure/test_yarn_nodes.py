"""Nodes that fail what is started on them."""

from __future__ import annotations

import pytest

from tarn_am.cluster.yarn.convert import Size
from tarn_am.cluster.yarn.nodes import NodePolicy, Nodes
from tarn_am.cluster.yarn.offer import Node, why_never, why_unknown
from tarn_am.cluster.yarn.why import Seen, why

POLICY = NodePolicy(failures=2, window_s=600.0, first_s=60.0, limit_s=300.0)


class TestAvoiding:
    def test_so_many_failures_make_a_node_bad_and_time_makes_it_good(self) -> None:
        nodes = Nodes(POLICY).failed("n1", "no disk", 0.0, known_nodes=10)
        assert nodes.avoided(0.0) == frozenset()
        nodes = nodes.failed("n1", "no disk", 10.0, known_nodes=10)
        assert nodes.avoided(10.0) == {"n1"}
        assert nodes.avoided(69.0) == {"n1"}
        assert nodes.avoided(70.0) == frozenset()
        assert nodes.records["n1"].reason == "no disk"

    def test_each_further_time_is_twice_as_long_up_to_the_limit_after_one_failure(self) -> None:
        nodes, now, lengths = Nodes(POLICY), 0.0, []
        nodes = nodes.failed("n1", "x", now, 10)
        for _ in range(5):
            nodes = nodes.failed("n1", "x", now, 10)
            until = nodes.records["n1"].until
            lengths.append(until - now)
            now = until
        assert lengths == [60.0, 120.0, 240.0, 300.0, 300.0]

    def test_old_failures_do_not_count(self) -> None:
        nodes = Nodes(POLICY).failed("n1", "x", 0.0, 10).failed("n1", "x", 601.0, 10)
        assert nodes.avoided(601.0) == frozenset()

    def test_a_failure_of_what_ran_before_it_was_avoided_changes_nothing(self) -> None:
        nodes = Nodes(POLICY).failed("n1", "x", 0.0, 10).failed("n1", "x", 0.0, 10)
        again = nodes.failed("n1", "x", 5.0, 10)
        assert again.records["n1"].until == nodes.records["n1"].until

    def test_one_that_serves_is_forgiven_all(self) -> None:
        nodes = Nodes(POLICY).failed("n1", "x", 0.0, 10).served("n1").failed("n1", "x", 1.0, 10)
        assert nodes.avoided(1.0) == frozenset()

    def test_it_can_be_lifted_by_hand(self) -> None:
        nodes = Nodes(POLICY).failed("n1", "x", 0.0, 10).failed("n1", "x", 0.0, 10)
        assert nodes.lifted("n1").avoided(1.0) == frozenset()
        assert nodes.lifted("never heard of") == nodes

    @pytest.mark.parametrize(("known", "most"), [(1, 0), (2, 1), (3, 1), (4, 2), (0, 6)])
    def test_where_most_fail_the_fault_is_not_the_nodes(self, known: int, most: int) -> None:
        nodes = Nodes(POLICY)
        for number in range(6):
            for _ in range(2):
                nodes = nodes.failed(f"n{number}", "x", 0.0, known)
        assert len(nodes.avoided(0.0)) == most


class TestWhatNoNodeCouldGive:
    def node(self, memory: int, gpus: int) -> Node:
        return Node("n", Size(memory, 8, {"yarn.io/gpu": gpus}), Size(0, 0))

    def test_one_that_fits_on_some_node_is_asked_for(self) -> None:
        nodes = (self.node(1024, 0), self.node(2048, 2))
        assert why_never(Size(2048, 8, {"yarn.io/gpu": 2}), nodes, None) == ""

    def test_what_is_only_there_on_different_nodes_is_nowhere(self) -> None:
        nodes = (self.node(8192, 0), self.node(1024, 2))
        assert "no single node has all of it" in why_never(Size(4096, 1, {"yarn.io/gpu": 1}), nodes, None)

    def test_the_best_that_there_is_is_named(self) -> None:
        told = why_never(Size(1024, 1, {"yarn.io/gpu": 4}), (self.node(1024, 2),), None)
        assert told == (
            "no node of the cluster can hold an instance of 1024 MiB, 1 vcores, 4 yarn.io/gpu: "
            "the best has 2 of 4 yarn.io/gpu; ask for less, or add a node"
        )

    def test_without_nodes_to_see_the_cluster_s_own_maximum_counts(self) -> None:
        assert "512 of 1024 memory-mb" in why_never(Size(1024, 1), None, Size(512, 4))
        assert why_never(Size(1024, 1), None, None) == ""

    def test_an_unknown_resource_is_named_with_the_known_ones(self) -> None:
        names = frozenset({"memory-mb", "vcores", "yarn.io/gpu"})
        assert why_unknown(Size(1, 1, {"yarn.io/gpu": 1}), names) == ""
        assert why_unknown(Size(1, 1, {"yarn.io/gpus": 1}), names).startswith("the cluster has no resource yarn.io/gpus; it has memory-mb,")
        assert why_unknown(Size(1, 1, {"x": 1}), frozenset()) == ""


class TestWhyAnAskWaits:
    def seen(self, **changes: object) -> str:
        values: dict[str, object] = {"size": Size(1024, 2), "per_node": 1, "nodes": 3, "full": 0, **changes}
        return why(Seen(**values))  # type: ignore[arg-type]

    def test_every_node_has_its_instance(self) -> None:
        assert self.seen(full=3) == (
            "3 of 3 nodes have its instance already, and no node may have more (--per-node 1); it starts as soon as another node comes"
        )
        assert self.seen(full=2, avoided=("n3",)).startswith("2 of 3 nodes have its instance already")
        assert "avoided after failures: n3" in self.seen(full=2, avoided=("n3",))

    def test_no_node_has_room(self) -> None:
        assert self.seen(full=1, room=0) == "no node has 1024 MiB, 2 vcores free now; it starts as soon as one has"

    def test_there_is_room_and_the_queue_is_used_up(self) -> None:
        assert "room or the queue's share is used up" in self.seen(room=2)

    def test_no_node_at_all(self) -> None:
        assert self.seen(nodes=0) == "the cluster has no node that takes containers now"
        assert self.seen(nodes=0, label="gpu") == "the cluster has no node with label gpu that takes containers now"

    def test_a_silent_resource_manager_comes_first(self) -> None:
        assert self.seen(full=3, trouble="connection refused", silent_s=20.0) == (
            "the ResourceManager has not answered for 20 s: connection refused"
        )
