"""Whether a cluster could ever give what is asked for."""

from __future__ import annotations

import dataclasses

import pytest

from tarn_am.cluster.yarn.convert import MEMORY, VCORES, Size
from tarn_am.submission.ask import Ask, AskError, Node, Offer, check

GPU = "yarn.io/gpu"
SMALL, LARGE = Size(4096, 4, {GPU: 1}), Size(65536, 32, {GPU: 8})
OFFER = Offer(
    Size(32768, 16, {GPU: 4}),
    frozenset({MEMORY, VCORES, GPU}),
    [Node("small", SMALL), Node("large", LARGE), Node("fast", LARGE, "a100")],
)
FLAGS = {MEMORY: "--memory-mb", VCORES: "--vcores", GPU: "--gpus", "label": "--node-label"}


def ask(memory_mb: int = 1024, vcores: int = 1, gpus: int = 1, label: str = "", name: str = GPU) -> Ask:
    return Ask("an instance", Size(memory_mb, vcores, {name: gpus}), label, {**FLAGS, name: "--gpus"})


def refused(wanted: Ask, offer: Offer = OFFER) -> str:
    with pytest.raises(AskError) as error:
        check(wanted, offer)
    return str(error.value)


class TestWhatFits:
    def test_is_let_through_to_the_last_unit(self) -> None:
        check(ask(32768, 16, 4), OFFER)
        check(ask(32768, 16, 4, label="a100"), OFFER)

    def test_a_resource_of_which_nothing_is_asked_needs_no_name(self) -> None:
        check(ask(gpus=0, name="no.such/thing"), OFFER)

    def test_any_partition_will_do_for_a_star(self) -> None:
        check(ask(label="*"), OFFER)


class TestAName:
    def test_that_is_nearly_right_is_corrected(self) -> None:
        assert refused(ask(name="yarn.io/gpus")).endswith("has no resource of that name; did you mean 'yarn.io/gpu'?")

    def test_that_is_like_none_is_answered_with_all(self) -> None:
        assert refused(ask(name="fpga")).endswith(
            "(--gpus), and the cluster has no resource of that name; it knows memory-mb, vcores, yarn.io/gpu"
        )


class TestTooMuch:
    @pytest.mark.parametrize(
        ("wanted", "told"),
        [
            (ask(memory_mb=32769), "an instance asks for 32769 MiB (--memory-mb), and the cluster allows a container at most 32768 MiB"),
            (ask(vcores=17), "an instance asks for 17 vcores (--vcores), and the cluster allows a container at most 16 vcores"),
            (ask(gpus=5), "an instance asks for 5 yarn.io/gpu (--gpus), and the cluster allows a container at most 4 yarn.io/gpu"),
        ],
    )
    def test_above_the_limit(self, wanted: Ask, told: str) -> None:
        assert refused(wanted).startswith(told)

    def test_a_limit_that_no_node_has_is_not_believed(self) -> None:
        """Right after its start a ResourceManager tells its configured maximum."""
        young = dataclasses.replace(OFFER, maximum=Size(1 << 20, 1000, {GPU: 1 << 62}), nodes=[Node("small", SMALL)])
        assert refused(ask(gpus=2), young) == (
            "an instance asks for 1024 MiB, 1 vcores, 2 yarn.io/gpu, and no node has that: the best offer is small with "
            "4096 MiB, 4 vcores, 1 yarn.io/gpu; lower --gpus"
        )

    def test_parts_that_no_single_node_has_together(self) -> None:
        apart = dataclasses.replace(OFFER, nodes=[Node("gpus", Size(1024, 4, {GPU: 4})), Node("memory", Size(32768, 4))])
        told = refused(ask(memory_mb=8192, gpus=4), apart)
        assert "the best offer is gpus with 1024 MiB" in told
        assert told.endswith("lower --memory-mb")


class TestNodes:
    def test_a_label_that_no_node_has(self) -> None:
        assert refused(ask(label="h100")).endswith("(--node-label), and there is none: there are nodes with the labels a100")

    def test_only_labelled_nodes(self) -> None:
        assert "without a label" in refused(ask(), dataclasses.replace(OFFER, nodes=[Node("fast", LARGE, "a100")]))

    def test_a_cluster_without_nodes(self) -> None:
        assert (
            refused(ask(), dataclasses.replace(OFFER, nodes=[])) == "no node of the cluster takes containers now: are its NodeManagers up?"
        )
