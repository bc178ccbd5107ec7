"""What the verbs read out of `/status`: which instance is meant, how far a wait is, what is new, and the page of `tarn status`."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from tarn_am.api import views
from tarn_am.cli import fleet
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.cli.status import page
from tarn_am.core.model import FleetView, Happening, Instance, ModelState, Phase, Staging
from tarn_common.endpoint import Endpoint
from tests.rigs.fake_fleet import container, fleet_view, ready, sample, staging

IDS = [
    "container_e17_1700000000000_0001_01_000002",
    "container_e17_1700000000000_0001_02_000012",
    "container_e17_1700000000000_0001_01_000020",
]


def shown(view: FleetView) -> dict[str, Any]:
    return views.status(view)


def first(instance: Instance) -> dict[str, Any]:
    found: dict[str, Any] = shown(fleet_view(instance))["instances"][0]
    return found


class TestAnInstanceIsMeantBy:
    @pytest.mark.parametrize(
        ("text", "meant"), [("2", 0), ("000002", 0), ("12", 1), ("_02_000012", 1), ("20", 2), ("0020", 2), (IDS[2], 2)]
    )
    def test_its_id_its_number_or_its_end(self, text: str, meant: int) -> None:
        assert fleet.resolve(text, IDS) == IDS[meant]

    @pytest.mark.parametrize("text", ["1", "3", "", "x", "container"])
    def test_nothing_else(self, text: str) -> None:
        with pytest.raises(CommandError) as raised:
            fleet.resolve(text, IDS)
        assert raised.value.outcome is Outcome.USAGE
        assert all(one in raised.value.line for one in IDS)

    def test_what_two_have_in_common_is_not_enough(self) -> None:
        twins = ["container_1700000000000_0001_01_000002", "container_1700000000000_0001_02_000002"]
        with pytest.raises(CommandError, match="means several"):
            fleet.resolve("2", twins)
        assert fleet.resolve("_02_000002", twins) == twins[1]


class TestAWaitIsOver:
    def test_only_when_all_that_are_wanted_are_ready_and_nothing_else_is_there(self) -> None:
        assert fleet.settled(shown(fleet_view(ready(1), ready(2))), 2)
        assert not fleet.settled(shown(fleet_view(ready(1), ready(2))), 3)
        assert not fleet.settled(shown(fleet_view(ready(1), staging(2))), 2)
        assert not fleet.settled(shown(fleet_view(ready(1), ready(2, phase=Phase.DRAINING), wanted=1)), 1)

    def test_and_until_then_it_is_said_what_is_missing(self) -> None:
        starting = replace(ready(3), phase=Phase.STARTING, models=(ModelState("a", "READY"), ModelState("b", "LOADING")))
        draining = replace(ready(4), phase=Phase.DRAINING, sample=sample(in_flight=3.0))
        assert fleet.motion(shown(fleet_view(ready(1), staging(2), starting, draining))) == (
            "instance 2 STAGING 75 % of 4.0 GiB, 7/9 files, 209.8 MiB/s, about 4.9 s left · instance 3 STARTING (loads b) · instance 4 DRAINING (3 in flight)"
        )
        assert fleet.motion(shown(fleet_view(ready(1)))) == ""
        asked = Instance("ask-7", Phase.REQUESTED, 1_700_000_090.0, 1_700_000_090.0)
        assert fleet.motion(shown(fleet_view(asked))) == "a new instance REQUESTED"


class TestNews:
    def test_is_told_once_and_in_order(self) -> None:
        one, two = Happening(1.0, "is STAGING", container(1)), Happening(2.0, "somebody ordered 3 instances")
        before, after = shown(fleet_view(ready(1), happenings=(one,))), shown(fleet_view(ready(1), happenings=(one, two)))
        assert fleet.news(None, before) == ["instance 1 is STAGING"]
        assert fleet.news(before, after) == ["somebody ordered 3 instances"]
        assert fleet.news(after, after) == []

    def test_of_an_instance_that_is_ready_has_its_address(self) -> None:
        happened = (Happening(1.0, "is READY", container(1)),)
        assert fleet.news(None, shown(fleet_view(ready(1), happenings=happened))) == [
            "instance 1 is READY at 127.0.0.1:20001 with identity"
        ]

    def test_of_an_instance_that_is_ready_no_more_has_none(self) -> None:
        happened = (Happening(1.0, "is READY", container(1)),)
        assert fleet.news(None, shown(fleet_view(staging(1), happenings=happened))) == ["instance 1 is READY"]


class TestThePage:
    @pytest.mark.parametrize(
        ("view", "word"),
        [
            (fleet_view(ready(1)), "SERVING  1 of 1"),
            (fleet_view(ready(1), staging(2)), "DEGRADED  1 of 2"),
            (fleet_view(ready(1), halted="5 failed in a row"), "DEGRADED  1 of 1"),
            (fleet_view(replace(ready(1), phase=Phase.UNREADY)), "NOT SERVING  0 of 1"),
            (fleet_view(wanted=2, halted="5 failed in a row"), "NOT SERVING  0 of 2"),
            (fleet_view(staging(1, phases={})), "STARTING  0 of 1"),
            (fleet_view(wanted=0), "IDLE  0 of 0"),
            (fleet_view(ready(1), shutting_down=True), "STOPPING  1 of 1"),
        ],
    )
    def test_begins_with_the_verdict(self, view: FleetView, word: str) -> None:
        assert page(shown(view), "", colours=False).startswith(word)

    def test_is_never_well_when_the_loop_behind_it_hangs(self) -> None:
        text = page(shown(fleet_view(ready(1))), "the Application Master's loop has not turned for 9 s", colours=False)
        assert text.startswith("UNKNOWN  1 of 1 instances READY\nthe Application Master's loop has not turned for 9 s\n")

    def test_says_why_nothing_more_is_asked_for(self) -> None:
        assert "5 failed in a row" in page(shown(fleet_view(ready(1), halted="5 failed in a row")), "", colours=False)

    def test_what_is_unknown_is_never_zero(self) -> None:
        unknown = replace(ready(1), sample=sample(in_flight=None, gpus=(), gpus_known=False, models=()))
        row = next(line for line in page(shown(fleet_view(unknown)), "", colours=False).splitlines() if line.startswith("container_"))
        assert row.split()[-5:] == ["unknown", "unknown", "unknown", "0", "-"]

    def test_an_instance_that_is_only_asked_for_has_a_row(self) -> None:
        asked = Instance("ask-7", Phase.REQUESTED, 1_700_000_090.0, 1_700_000_090.0)
        assert "(ask-7)" in page(shown(fleet_view(asked)), "", colours=False)

    def test_many_models_are_counted(self) -> None:
        many = replace(ready(1), models=tuple(ModelState(f"m{n}", "READY") for n in range(9)))
        assert "m0, m1, m2 and 6 more" in page(shown(fleet_view(many)), "", colours=False)

    def test_colours_stand_beside_the_words_that_say_the_same(self) -> None:
        plain, coloured = (page(shown(fleet_view(ready(1), staging(2))), "", colours=colours) for colours in (False, True))
        assert "\x1b[32mREADY" in coloured
        assert _without_colours(coloured) == plain


def _without_colours(text: str) -> str:
    pieces = text.split("\x1b[")
    return pieces[0] + "".join(piece.partition("m")[2] for piece in pieces[1:])


class TestAnAddress:
    def test_of_ipv6_has_brackets(self) -> None:
        assert fleet.address(first(replace(ready(1), endpoint=Endpoint("::1", 8000, 0, 0)))) == "[::1]:8000"

    def test_is_none_before_the_ports_are_chosen(self) -> None:
        assert fleet.address(first(staging(1))) == "-"
        assert fleet.address(first(replace(ready(1), endpoint=Endpoint("h", 0, 0, 0)))) == "-"

    def test_staging_without_a_total_has_no_share(self) -> None:
        begun = replace(staging(1), staging=Staging(0, 0, 0, 0, 0.0, "", 0.0))
        assert fleet.progress(first(begun)) == "instance 1 STAGING 0 B, 0/0 files"
