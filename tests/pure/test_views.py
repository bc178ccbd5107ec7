"""What programs read: the status, the list in both forms, the settings; and the verdict on the fleet."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest

from tarn_am.api import verdict, views
from tarn_am.api.answers import ApiError, dump
from tarn_am.api.orders import check_query, read_order
from tarn_am.api.verdict import State
from tarn_am.core.model import FleetView, Instance, ModelState, Phase
from tarn_am.settings import AmSettings
from tarn_common.endpoint import Endpoint
from tests.rigs.fake_fleet import STARTED_AT, counts, fleet_view, gpu, large_view, ready, sample, staging

NOW = STARTED_AT + 100
EMPTY_ASK = Instance("ask-9", Phase.REQUESTED, NOW, NOW)


class TestTheStatus:
    def test_has_every_field_of_the_dataclasses(self) -> None:
        found = views.status(fleet_view(ready(1), staging(2), EMPTY_ASK))
        assert found["counts"]["ready"] == 1
        one, two, three = found["instances"]
        assert one["phase"] == "READY"
        assert one["phases"] == {"REQUESTED": STARTED_AT + 1, "READY": STARTED_AT + 40}
        assert one["endpoint"] == {"host": "127.0.0.1", "http_port": 20001, "grpc_port": 30001, "metrics_port": 40001}
        assert one["sample"]["gpus"][0]["memory_total"] == 80 << 30
        assert one["models"][0] == {"name": "identity", "state": "READY", "reason": "", "versions": ["1"], "wanted": True}
        assert two["staging"]["bytes_done"] == 3 << 30
        assert three["container_id"] is None
        assert three["sample"] is None

    def test_says_null_for_what_is_unknown_or_no_number(self) -> None:
        odd = sample(in_flight=math.nan, cpu_utilization=None, gpus=(gpu(utilization=math.inf),))
        found = json.loads(dump(views.status(fleet_view(ready(1, sample=odd)))))["instances"][0]["sample"]
        assert found["in_flight"] is None
        assert found["cpu_utilization"] is None
        assert found["gpus"][0]["utilization"] is None

    def test_survives_any_text(self) -> None:
        for text in ("<script>", "\udcff", "\x00", "a\nb", "é" * 9999):
            body = dump(views.status(fleet_view(ready(1, reason=text))))
            assert json.loads(body)["instances"][0]["reason"] == text


class TestTheList:
    def test_holds_ready_instances_alone_in_order(self) -> None:
        view = fleet_view(ready(3), ready(2, phase=Phase.UNREADY), ready(1), ready(4, phase=Phase.DRAINING), staging(5), EMPTY_ASK)
        assert views.instances_text(view) == b"127.0.0.1:20001\n127.0.0.1:20003\n"
        assert [i["http_port"] for i in views.instances_json(view)["instances"]] == [20001, 20003]

    def test_is_empty_text_when_none_is_ready(self) -> None:
        assert views.instances_text(fleet_view()) == b""

    def test_writes_version_six_addresses_in_brackets(self) -> None:
        assert views.instances_text(fleet_view(ready(1, endpoint=Endpoint("::1", 8000, 8001, 8002)))) == b"[::1]:8000\n"

    @pytest.mark.parametrize("host", ["", "a\nb:1", "a b", "<b>", "a\r\nX-Evil: 1", "é", "x" * 300])
    def test_leaves_out_a_host_that_would_break_a_line(self, host: str) -> None:
        view = fleet_view(ready(1), ready(2, endpoint=Endpoint(host, 8000, 8001, 8002)))
        assert views.instances_text(view) == b"127.0.0.1:20001\n"
        assert len(views.instances_json(view)["instances"]) == 1

    def test_names_ports_node_and_ready_models(self) -> None:
        models = (ModelState("b", "READY"), ModelState("a", "READY"), ModelState("c", "UNAVAILABLE", "no weights"))
        assert views.instances_json(fleet_view(ready(1, models=models)))["instances"] == [
            {
                "container_id": "container_1700000000000_0001_01_000001",
                "host": "127.0.0.1",
                "http_port": 20001,
                "grpc_port": 30001,
                "metrics_port": 40001,
                "node": "node1",
                "models": ["a", "b"],
                "since": STARTED_AT + 40,
            }
        ]

    def test_is_incomplete_while_an_adopted_instance_has_not_said_hello(self) -> None:
        adopted = ready(2, phase=Phase.LAUNCHED, asked_at=STARTED_AT - 500, incarnation="", connected=False)
        assert not views.is_complete(fleet_view(ready(1), adopted))
        assert views.is_complete(fleet_view(ready(1), replace(adopted, incarnation="x")))
        assert views.is_complete(fleet_view(ready(1), replace(adopted, asked_at=STARTED_AT + 5)))
        assert views.is_complete(fleet_view(ready(1), EMPTY_ASK))
        assert views.instances_json(fleet_view(adopted))["complete"] is False


class TestTheSettingsShown:
    def test_hold_no_value_that_may_be_secret(self) -> None:
        settings = AmSettings(
            model_repository="webhdfs://user:hunter2@nn:9870/models",
            env=("API_KEY=hunter2", "PLAIN"),
            triton_args=(
                "--log-verbose=1",
                "--http-restricted-api=x:y=hunter2",
                "--strict",
                "--cache-config=redis,password=hunter2",
                "--trace-config",
                "opentelemetry,url=hunter2",
                "--ssl hunter2",
            ),
        )
        shown = views.config(settings)
        assert "hunter2" not in json.dumps(shown)
        assert shown["env"] == ["API_KEY=(set)", "PLAIN=(set)"]
        assert shown["triton_args"] == [
            "--log-verbose=1",
            "--http-restricted-api=(set)",
            "--strict",
            "--cache-config=(set)",
            "--trace-config",
            "(set)",
            "(set)",
        ]
        assert shown["max_instances"] == 10


def judged(view: FleetView, now: float = NOW) -> State:
    return verdict.judge(view, now).state


class TestTheVerdict:
    @pytest.mark.parametrize(
        ("view", "state"),
        [
            (fleet_view(ready(1)), State.SERVING),
            (fleet_view(ready(1), wanted=2), State.DEGRADED),
            (fleet_view(ready(1), halted="5 failed in a row"), State.DEGRADED),
            (fleet_view(ready(1), ready(2, phase=Phase.UNREADY), wanted=1), State.DEGRADED),
            (fleet_view(staging(1, phases={}), wanted=1), State.STARTING),
            (fleet_view(ready(1, phase=Phase.UNREADY), wanted=1), State.NOT_SERVING),
            (fleet_view(wanted=1, halted="5 failed in a row"), State.NOT_SERVING),
            (fleet_view(wanted=1, ended=(ready(1, phase=Phase.FAILED, since_at=NOW - 5),)), State.NOT_SERVING),
            (fleet_view(wanted=0), State.IDLE),
            (fleet_view(ready(1), shutting_down=True), State.STOPPING),
            (fleet_view(ready(1), at=NOW - 6), State.UNKNOWN),
        ],
    )
    def test_is_one_word(self, view: FleetView, state: State) -> None:
        assert judged(view) is state

    def test_unknown_is_never_well_whatever_the_view_says(self) -> None:
        for view in (fleet_view(ready(1)), fleet_view(wanted=0), fleet_view(ready(1), shutting_down=True)):
            assert judged(view, NOW + 60) is State.UNKNOWN
            assert not verdict.health(view, NOW + 60).ok

    def test_names_what_to_look_at(self) -> None:
        model = ModelState("resnet", "UNAVAILABLE", "no weights")
        view = fleet_view(
            ready(1, phase=Phase.UNREADY, reason="no answer for 12 s"),
            ready(2, connected=False, silent_since=NOW - 7),
            ready(3, models=(model,), sample=sample(gpus=(gpu(7, ecc_uncorrected=3, last_xid=79),))),
            halted="5 failed in a row",
            ended=(ready(4, phase=Phase.FAILED, since_at=NOW - 5, reason="no space left"),),
        )
        told = "\n".join(verdict.judge(view, NOW).problems)
        for part in ("5 failed in a row", "no answer for 12 s", "silent for 7 s", "no weights", "3 uncorrected", "XID 79", "no space left"):
            assert part in told


class TestHealth:
    @pytest.mark.parametrize(
        ("view", "word"),
        [
            (fleet_view(ready(1), min_instances=1), "ok"),
            (fleet_view(wanted=0), "ok"),
            (fleet_view(ready(1), min_instances=2), "few"),
            (fleet_view(ready(1), halted="no space left on node7"), "halted"),
            (fleet_view(ready(1), shutting_down=True), "stopping"),
            (fleet_view(ready(1), at=NOW - 5.1), "stale"),
        ],
    )
    def test_is_honest(self, view: FleetView, word: str) -> None:
        found = verdict.health(view, NOW)
        assert (found.word, found.ok) == (word, word == "ok")
        assert found.sentence


SHAPE: dict[str, type] = {"instances": int, "why": str}


class TestAnOrdersBody:
    def test_with_exactly_its_keys_is_read(self) -> None:
        assert read_order(b'{"why": "load", "instances": 3}', SHAPE) == {"why": "load", "instances": 3}

    @pytest.mark.parametrize(
        ("body", "named"),
        [
            (b"", "not JSON"),
            (b"{", "not JSON"),
            (b"\xff\xfe{}", "not UTF-8"),
            (b"[]", "not a JSON object"),
            (b"null", "not a JSON object"),
            (b'{"instances": NaN, "why": "x"}', "NaN"),
            (b'{"instances": Infinity, "why": "x"}', "Infinity"),
            (b'{"instances": 1.0, "why": "x"}', "1.0"),
            (b'{"instances": true, "why": "x"}', "True"),
            (b'{"instances": "3", "why": "x"}', "'3'"),
            (b'{"instances": null, "why": "x"}', "None"),
            (b'{"instances": 1e999, "why": "x"}', "inf"),
            (b'{"instances": 1, "instances": 2, "why": "x"}', "twice"),
            (b'{"instances": 1}', "lacks the key 'why'"),
            (b'{"instances": 1, "why": ""}', "why"),
            (b'{"instances": 1, "why": "a\\nb"}', "why"),
            (b'{"instances": 1, "why": "\\ud800"}', "why"),
            (b'{"instances": 1, "why": "x", "who": 1}', "'who'"),
            (b"[" * 60_000, "not JSON"),
            (b'{"a":' * 10_000, "not JSON"),
            (b'{"instances": ' + b"9" * 60_000 + b', "why": "x"}', "not JSON"),
        ],
    )
    def test_that_is_wrong_is_named(self, body: bytes, named: str) -> None:
        with pytest.raises(ApiError) as caught:
            read_order(body, SHAPE)
        assert caught.value.status == 400
        assert named in caught.value.error
        assert len(caught.value.error) < 400

    def test_that_lacks_a_key_is_shown_one_that_can_be_sent(self) -> None:
        with pytest.raises(ApiError) as caught:
            read_order(b"{}", {"instances": int})
        assert caught.value.fix == 'send {"instances": 3}'

    def test_with_a_misspelt_key_says_which_was_meant(self) -> None:
        with pytest.raises(ApiError) as caught:
            read_order(b'{"instnaces": 3}', {"instances": int})
        assert "'instnaces'" in caught.value.error
        assert caught.value.fix == "did you mean instances?"


class TestAQuery:
    def test_is_read_by_name(self) -> None:
        assert check_query([("watch", "a-1"), ("timeout", "5")], ("watch", "timeout")) == {"watch": "a-1", "timeout": "5"}

    @pytest.mark.parametrize("query", [[("wach", "1")], [("watch", "1"), ("watch", "1")], [("", "1")], [("watch\r\nX: y", "1")]])
    def test_that_is_wrong_is_named(self, query: list[tuple[str, str]]) -> None:
        with pytest.raises(ApiError) as caught:
            check_query(query, ("watch", "timeout"))
        assert "\n" not in caught.value.error

    def test_with_a_token_in_it_does_not_show_it(self) -> None:
        with pytest.raises(ApiError) as caught:
            check_query([("token", "sesame")], ("watch",))
        assert "sesame" not in caught.value.error + caught.value.fix
        assert "X-TARN-Token" in caught.value.fix


class TestAThousandInstances:
    def test_are_all_listed(self) -> None:
        view = large_view(1000)
        assert view.counts == counts(1000, view.instances)
        assert views.instances_text(view).count(b"\n") == 1000
        status: dict[str, Any] = views.status(view)
        assert len(status["instances"]) == 1000
