"""The metrics page, read back by prometheus-client's own parser."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tarn_am.api.metrics import Metrics, render
from tarn_am.core.model import FleetView, ModelSample, ModelState, Phase
from tests.rigs.fake_fleet import STARTED_AT, container, fleet_view, gpu, large_view, ready, sample, staging

NOW = STARTED_AT + 100
Found = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(page: bytes) -> Found:
    """Every sample by name and labels; a series that stands there twice fails."""
    found: Found = {}
    for family in text_string_to_metric_families(page.decode()):
        for one in family.samples:
            key = (one.name, tuple(sorted(one.labels.items())))
            assert key not in found, f"{key} stands there twice"
            found[key] = one.value
    return found


def page(view: FleetView, now: float = NOW) -> Found:
    return parsed(render(view, now, 5.0))


def value(found: Found, name: str, **labels: str) -> float | None:
    matching = [number for (n, pairs), number in found.items() if n == name and set(labels.items()) <= set(pairs)]
    assert len(matching) <= 1, matching
    return matching[0] if matching else None


class TestThePage:
    def test_has_the_names_that_users_of_the_java_program_know(self) -> None:
        found = page(fleet_view(ready(1), ready(2), staging(3), wanted=4))
        assert value(found, "tarn_target_containers") == 4
        assert value(found, "tarn_running_containers") == 3
        assert value(found, "tarn_container_load", container=container(1)) == 1.5
        assert value(found, "tarn_gpu_utilization", container=container(1), gpu="0") == 0.5
        assert value(found, "tarn_gpu_memory_used", container=container(2), gpu="1") == 40 << 30

    def test_counts_phases_models_and_staging(self) -> None:
        found = page(fleet_view(ready(1), staging(3), halted="why"))
        assert value(found, "tarn_instances", phase="READY") == 1
        assert value(found, "tarn_instances", phase="UNREADY") == 0
        assert value(found, "tarn_halted") == 1
        assert value(found, "tarn_model_request_rate", model="identity") == 12.5
        assert value(found, "tarn_model_requests_total", model="identity", result="failure") == 2
        assert value(found, "tarn_staging_bytes", container=container(3)) == 3 << 30
        assert value(found, "tarn_build_info") == 1

    def test_names_follow_prometheus_rules(self) -> None:
        for family in text_string_to_metric_families(render(fleet_view(ready(1)), NOW, 5.0).decode()):
            assert family.name.startswith("tarn_")
            assert family.documentation
            assert family.type in ("gauge", "counter")
            for one in family.samples:
                assert one.name.endswith("_total") == (family.type == "counter")


class TestWhatIsUnknown:
    def test_is_absent_and_not_zero(self) -> None:
        nothing = sample(in_flight=None, cpu_utilization=None, gpus=(gpu(utilization=None, power=None),), models=(ModelSample("m", "1"),))
        found = page(fleet_view(ready(1, sample=nothing)))
        for name in (
            "tarn_container_load",
            "tarn_cpu_utilization",
            "tarn_gpu_utilization",
            "tarn_gpu_power_watts",
            "tarn_model_request_rate",
        ):
            assert value(found, name) is None
        assert value(found, "tarn_gpu_memory_used") == 40 << 30

    @pytest.mark.parametrize("odd", [math.nan, math.inf, -math.inf])
    def test_no_number_is_unknown(self, odd: float) -> None:
        assert value(page(fleet_view(ready(1, sample=sample(in_flight=odd)))), "tarn_container_load") is None

    def test_a_report_that_is_old_says_only_how_old_it_is(self) -> None:
        found = page(fleet_view(ready(1, sample=sample(at=NOW - 6))))
        assert value(found, "tarn_agent_report_age_seconds") == 6
        assert value(found, "tarn_container_load") is None
        assert value(found, "tarn_gpu_utilization", gpu="0") is None

    def test_an_instance_that_never_reported_has_no_age(self) -> None:
        assert value(page(fleet_view(ready(1, sample=None))), "tarn_agent_report_age_seconds") is None


class TestWhateverAgentsReport:
    def test_no_series_stands_there_twice(self) -> None:
        twice = sample(gpus=(gpu(1), gpu(1)), models=(ModelSample("m", "1", 1.0), ModelSample("m", "1", 2.0)))
        models = (ModelState("m", "LOADING"), ModelState("m", "READY"))
        found = page(fleet_view(ready(1, sample=twice, models=models), ready(1, sample=twice, models=models)))
        assert value(found, "tarn_model_request_rate") == 2.0
        assert value(found, "tarn_model_ready") == 1

    @pytest.mark.parametrize("name", ['a"b', "a\\", "a\nb", "<script>", "\udcff", "é\x00", "{}", "x" * 5000, ""])
    def test_any_name_leaves_the_page_readable(self, name: str) -> None:
        odd = sample(models=(ModelSample(name, "1", 7.0),), gpus=(gpu(uuid=name, name=name),))
        found = page(fleet_view(ready(1, node=name, sample=odd, models=(ModelState(name, "READY"),))))
        assert value(found, "tarn_model_request_rate") == 7.0

    def test_an_ask_without_a_container_has_no_series(self) -> None:
        found = page(fleet_view(ready(1, container_id=None, phase=Phase.REQUESTED)))
        assert not [name for name, labels in found if dict(labels).get("container")]


class TestTheProcesssOwnPart:
    def test_counts_answers_by_route_and_code(self) -> None:
        metrics = Metrics(5.0)
        view = fleet_view(ready(1))
        metrics.count("/status", 200)
        metrics.count("/status", 200)
        metrics.count("other", 404)
        found = parsed(metrics.page(view, NOW))
        assert value(found, "tarn_http_requests_total", path="/status", code="200") == 2
        assert value(found, "tarn_http_requests_total", path="other", code="404") == 1
        assert value(found, "process_resident_memory_bytes")

    def test_counts_on_while_the_view_stands_still(self) -> None:
        metrics, view = Metrics(5.0), fleet_view(ready(1))
        for total in (1, 2, 3):
            metrics.count("/metrics", 200)
            assert value(parsed(metrics.page(view, NOW)), "tarn_http_requests_total", path="/metrics") == total

    def test_follows_the_view_and_the_time(self) -> None:
        metrics, view = Metrics(5.0), fleet_view(ready(1))
        assert value(parsed(metrics.page(view, NOW)), "tarn_agent_report_age_seconds") == 0
        assert value(parsed(metrics.page(view, NOW + 3)), "tarn_agent_report_age_seconds") == 3
        assert value(parsed(metrics.page(replace(view, halted="x"), NOW + 3)), "tarn_halted") == 1


class TestAThousandInstances:
    def test_are_all_there(self) -> None:
        found = page(large_view(1000))
        assert sum(name == "tarn_container_load" for name, _ in found) == 1000
