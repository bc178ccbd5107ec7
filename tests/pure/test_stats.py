"""Triton's metrics as rates: one hot model among ten, restarts in between, gaps, series that are missing, lines that are torn."""

from __future__ import annotations

import random
from dataclasses import dataclass

import pytest

from tarn_agent.core.model import ModelRates, TritonRates
from tarn_agent.core.stats import RateWindow, parse

REAL = """\
# HELP nv_inference_request_success Number of successful inference requests, all batch sizes
# TYPE nv_inference_request_success counter
nv_inference_request_success{model="identity",version="1"} 12
nv_inference_request_failure{model="identity",reason="REJECTED",version="1"} 1
nv_inference_request_failure{model="identity",reason="OTHER",version="1"} 2
nv_inference_request_failure{model="identity",reason="BACKEND",version="1"} 0
nv_inference_count{model="identity",version="1"} 12
nv_inference_exec_count{model="identity",version="1"} 11
nv_inference_request_duration_us{model="identity",version="1"} 9000
nv_inference_queue_duration_us{model="identity",version="1"} 1000
nv_inference_compute_input_duration_us{model="identity",version="1"} 2000
nv_inference_compute_infer_duration_us{model="identity",version="1"} 3000
nv_inference_compute_output_duration_us{model="identity",version="1"} 2500
nv_inference_pending_request_count{model="identity",version="1"} 4
nv_pinned_memory_pool_total_bytes 0
nv_cpu_utilization 0.25
nv_cpu_memory_total_bytes 25281351680
"""


@dataclass
class Served:
    """A model's counters, as Triton would have them: `add` serves requests."""

    name: str
    success: int = 0
    queue_us: int = 0
    infer_us: int = 0
    pending: int = 0
    version: str = "1"

    def add(self, requests: int, queue_s: float, infer_s: float) -> None:
        self.success += requests
        self.queue_us += round(requests * queue_s * 1e6)
        self.infer_us += round(requests * infer_s * 1e6)

    def page(self) -> str:
        labels = f'{{model="{self.name}",version="{self.version}"}}'
        return (
            f"nv_inference_request_success{labels} {self.success}\n"
            f"nv_inference_request_duration_us{labels} {self.queue_us + self.infer_us}\n"
            f"nv_inference_queue_duration_us{labels} {self.queue_us}\n"
            f"nv_inference_compute_infer_duration_us{labels} {self.infer_us}\n"
            f"nv_inference_pending_request_count{labels} {self.pending}\n"
        )


def one(rates: TritonRates) -> ModelRates:
    (model,) = rates.models
    return model


def window(*pages: tuple[float, str], seconds: float = 10.0) -> RateWindow:
    result = RateWindow(seconds)
    for at, page in pages:
        result = result.push(parse(page), at)
    return result


class TestPage:
    def test_a_real_one(self) -> None:
        sample = parse(REAL)
        assert list(sample.models) == [("identity", "1")]
        model = sample.models["identity", "1"]
        assert (model.counters.success, model.counters.failure, model.counters.compute_us, model.pending) == (12, 3, 7500, 4)
        assert sample.cpu_utilization == 0.25

    def test_labels_with_escapes_and_braces(self) -> None:
        page = 'nv_inference_request_success{version="1",model="a \\"b\\" \\\\ {c} }\\n=,"} 7 1700000000000\n'
        assert {key: model.counters.success for key, model in parse(page).models.items()} == {('a "b" \\ {c} }\n=,', "1"): 7}

    @pytest.mark.parametrize(
        "line",
        [
            'nv_inference_request_success{model="m",version="1"',
            'nv_inference_request_success{model="m",version="1"}',
            'nv_inference_request_success{model="m",version="1"} twelve',
            'nv_inference_request_success{model="m",version="1"} NaN',
            'nv_inference_request_success{model="m",version="1"} +Inf',
            'nv_inference_request_success{version="1"} 3',
            "nv_inference_request_success 3",
            'nv_inference_request_success{model="m" version="1"} 3 4 5',
            "nv_cpu_utilization",
            "nv_cpu_utilization{} much",
            "nv_inference_\x00\ud800",
            'nv_inference_request_success{model="' + "x" * 100_000,
            "nv_inference_request_success{" + '"' * 10_000,
        ],
    )
    def test_a_torn_line_is_left_out_and_the_next_is_read(self, line: str) -> None:
        sample = parse(f"{line}\n{REAL}")
        assert sample == parse(REAL)

    def test_any_bytes_at_all(self) -> None:
        dice = random.Random(7)
        for _ in range(300):
            page = list(REAL)
            for _ in range(dice.randrange(1, 30)):
                page[dice.randrange(len(page))] = chr(dice.choice((0, 9, 10, 34, 92, 123, 125, 233, dice.randrange(32, 127))))
            text = "".join(page)[: dice.randrange(len(page))]
            window((0.0, REAL), (1.0, text)).rates(1.0)

    def test_no_page_is_no_models(self) -> None:
        assert parse("").models == {}
        assert parse("<html>404</html>").cpu_utilization is None


class TestOneSample:
    def test_gauges_and_totals_are_known_and_rates_are_not(self) -> None:
        rates = window((5.0, REAL)).rates(5.0)
        assert (rates.known, rates.window_s, rates.in_flight, rates.cpu_utilization) == (True, 0.0, None, 0.25)
        assert one(rates) == ModelRates("identity", "1", pending=4, success_total=12, failure_total=3)


class TestAge:
    def test_nothing_is_known_of_no_sample_or_an_old_one(self) -> None:
        assert RateWindow(10.0).rates(0.0) == TritonRates(known=False)
        assert window((5.0, REAL)).rates(15.1) == TritonRates(known=False)
        assert window((5.0, REAL)).rates(14.9).known


class TestRates:
    def test_of_two_samples(self) -> None:
        model = Served("m")
        before = model.page()
        model.add(40, queue_s=0.05, infer_s=0.2)
        model.pending = 3
        rates = window((0.0, before), (4.0, model.page())).rates(4.0)
        found = one(rates)
        assert (rates.window_s, found.request_rate, found.failure_rate) == (4.0, 10.0, 0.0)
        assert found.queue_time_s == pytest.approx(0.05)
        assert found.compute_time_s == pytest.approx(0.2)
        # 10 requests a second, 0.2 s each: two execute; three wait.
        assert found.in_flight == pytest.approx(3 + 2)

    def test_no_request_in_the_window_leaves_the_means_unknown_and_the_rest_zero(self) -> None:
        page = Served("m", success=9, queue_us=5, infer_us=5).page()
        found = one(window((0.0, page), (4.0, page)).rates(4.0))
        assert (found.request_rate, found.queue_time_s, found.compute_time_s, found.in_flight) == (0.0, None, None, 0.0)

    def test_failures_count_as_finished_and_not_in_the_means(self) -> None:
        later = REAL.replace('"OTHER",version="1"} 2', '"OTHER",version="1"} 12')
        found = one(window((0.0, REAL), (2.0, later)).rates(2.0))
        assert (found.request_rate, found.failure_rate, found.queue_time_s) == (5.0, 5.0, None)

    def test_the_window_moves(self) -> None:
        model, pages = Served("m"), []
        for at in range(0, 60, 2):
            model.add(20 if at < 30 else 2, 0.0, 0.1)
            pages.append((float(at), model.page()))
        moving = window(*pages)
        assert one(moving.rates(58.0)).request_rate == pytest.approx(1.0)
        assert len(moving.samples) <= 7

    def test_a_second_look_at_the_same_moment_takes_the_first_ones_place(self) -> None:
        model = Served("m")
        pages = [(0.0, model.page()), (1.0, model.page())]
        model.add(5, 0.0, 0.1)
        assert one(window(*pages, (1.0, model.page())).rates(1.0)).request_rate == 5.0


class TestTenModelsOneHot:
    def test_each_has_its_own_queue_time(self) -> None:
        models = [Served(f"cold-{number}", success=1000, queue_us=1000, infer_us=1000) for number in range(9)] + [Served("hot")]
        before = "".join(model.page() for model in models)
        for model in models[:9]:
            model.add(1, queue_s=0.001, infer_s=0.01)
        models[9].add(500, queue_s=2.0, infer_s=0.01)
        models[9].pending = 120
        after = "".join(model.page() for model in models)
        rates = window((100.0, before), (110.0, after)).rates(110.0)
        by_name = {model.name: model for model in rates.models}
        assert by_name["hot"].queue_time_s == pytest.approx(2.0, rel=0.01)
        assert by_name["cold-0"].queue_time_s == pytest.approx(0.001, rel=0.01)
        assert rates.in_flight == pytest.approx(120 + 0.5 + 9 * 0.001)


class TestCountersBeginAgain:
    def test_a_restarted_triton_never_gives_a_negative_rate(self) -> None:
        old = Served("m", success=1_000_000, queue_us=10**9, infer_us=10**10)
        new = Served("m")
        new.add(30, 0.1, 0.2)
        found = one(window((0.0, old.page()), (10.0, new.page())).rates(10.0))
        assert found.request_rate == 3.0
        assert found.queue_time_s == pytest.approx(0.1)
        assert found.in_flight == pytest.approx(0.6)

    def test_one_counter_that_fell_tells_of_all(self) -> None:
        """A model that served as many requests after its reload as before it has the same count and a smaller time."""
        old = Served("m", success=10, queue_us=50_000_000, infer_us=50_000_000)
        new = Served("m", success=10, queue_us=1_000_000, infer_us=2_000_000)
        found = one(window((0.0, old.page()), (10.0, new.page())).rates(10.0))
        assert found.request_rate == 1.0
        assert found.queue_time_s == pytest.approx(0.1)

    @pytest.mark.parametrize("restarts_are_seen", [True, False])
    def test_random_histories_count_each_request_once_or_not_at_all(self, restarts_are_seen: bool) -> None:
        """A restart between two samples hides the requests served before it, and those after it up to the old count; no more."""
        dice = random.Random(11)
        for _ in range(200):
            model, served = Served("m"), 0
            result = window((0.0, model.page()), seconds=1000.0)
            for at in range(1, 30):
                if dice.random() < 0.2:
                    model = Served("m")
                    if restarts_are_seen:
                        result = result.push(parse("nv_cpu_utilization 0.5\n"), float(at))
                        continue
                more = dice.randrange(0, 20)
                model.add(more, 0.01, 0.1)
                served += more
                result = result.push(parse(model.page()), float(at))
            result = result.push(parse(model.page()), 30.0)
            found = one(result.rates(30.0)).request_rate
            assert found is not None
            counted = round(found * 30.0)
            assert counted == served if restarts_are_seen else 0 <= counted <= served


class TestGaps:
    def test_a_model_that_appears_began_at_nothing(self) -> None:
        other, late = Served("other"), Served("late")
        first = other.page()
        late.add(20, 0.0, 0.5)
        rates = window((0.0, first), (10.0, other.page() + late.page())).rates(10.0)
        assert {model.name: model.request_rate for model in rates.models} == {"late": 2.0, "other": 0.0}
        assert rates.in_flight == pytest.approx(1.0)

    def test_a_model_that_left_is_not_reported(self) -> None:
        rates = window((0.0, Served("gone").page() + Served("m").page()), (1.0, Served("m").page())).rates(1.0)
        assert [model.name for model in rates.models] == ["m"]

    def test_a_model_that_never_served_has_few_series(self) -> None:
        page = 'nv_inference_pending_request_count{model="fresh",version="1"} 0\n'
        found = one(window((0.0, page), (1.0, page)).rates(1.0))
        assert (found.request_rate, found.queue_time_s, found.pending, found.in_flight) == (0.0, None, 0, 0.0)

    def test_a_long_silence_is_averaged_over(self) -> None:
        model = Served("m")
        first = model.page()
        model.add(100, 0.0, 0.1)
        rates = window((0.0, first), (100.0, model.page())).rates(100.0)
        assert (one(rates).request_rate, rates.window_s) == (1.0, 100.0)

    def test_without_the_queues_gauge_the_time_in_the_queue_stands_for_it(self) -> None:
        model = Served("m")
        before = model.page()
        model.add(10, queue_s=3.0, infer_s=1.0)
        pages = ["\n".join(line for line in page.split("\n") if "pending" not in line) for page in (before, model.page())]
        found = one(window((0.0, pages[0]), (10.0, pages[1])).rates(10.0))
        assert found.pending is None
        assert found.in_flight == pytest.approx(4.0)


class TestLanguageModels:
    def test_vllms_own_gauges_take_the_place_of_the_estimate_at_once(self) -> None:
        page = Served("llama").page() + (
            'vllm:num_requests_running{model="llama",version="1"} 12\nvllm:num_requests_waiting{model="llama",version="1"} 30\n'
        )
        for rates in (window((0.0, page)).rates(0.0), window((0.0, page), (1.0, page)).rates(1.0)):
            assert (one(rates).in_flight, one(rates).pending, rates.in_flight) == (42.0, 30, 42.0)

    def test_gauges_without_a_version_belong_to_the_only_one(self) -> None:
        page = Served("llama").page() + 'vllm:num_requests_running{model_name="llama"} 5\n'
        found = one(window((0.0, page)).rates(0.0))
        assert (found.version, found.in_flight, found.success_total) == ("1", 5.0, 0)

    def test_tensorrt_llms_active_requests_include_those_that_wait(self) -> None:
        kinds = {"active": 9, "waiting": 4, "scheduled": 5, "max": 64, "context": 1}
        page = Served("tensorrt_llm").page() + "".join(
            f'nv_trt_llm_request_metrics{{model="tensorrt_llm",request_type="{kind}",version="1"}} {count}\n'
            for kind, count in kinds.items()
        )
        found = one(window((0.0, page)).rates(0.0))
        assert (found.in_flight, found.pending) == (9.0, 4)

    def test_other_models_beside_keep_their_estimate(self) -> None:
        tokenizer = Served("tokenizer")
        gauge = Served("llama").page() + 'vllm:num_requests_running{model="llama",version="1"} 3\n'
        before = tokenizer.page() + gauge
        tokenizer.add(10, 0.0, 0.5)
        rates = window((0.0, before), (10.0, tokenizer.page() + gauge)).rates(10.0)
        assert {model.name: model.in_flight for model in rates.models} == {"llama": 3.0, "tokenizer": pytest.approx(0.5)}


class TestTotal:
    def test_a_hole_makes_the_sum_unknown(self) -> None:
        page = Served("a").page() + 'vllm:num_requests_running{model="llama",version="1"} 3\n'
        assert window((0.0, page)).rates(0.0).in_flight is None

    def test_no_models_are_no_load(self) -> None:
        assert window((0.0, "nv_cpu_utilization 0.1\n")).rates(0.0).in_flight == 0
