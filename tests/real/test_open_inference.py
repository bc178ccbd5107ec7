"""What an instance serves is Triton's own Open Inference Protocol, untouched: NVIDIA's client against the addresses of `/instances`."""

from __future__ import annotations

import queue
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import numpy as np
import pytest
import pytest_asyncio
import tritonclient.grpc as triton_grpc
import tritonclient.http as triton_http

from tests.rigs.house import LocalFleet

pytestmark = [pytest.mark.real, pytest.mark.asyncio(loop_scope="module")]
ANSWER_S = 60.0


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def instance(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[dict[str, Any]]:
    """One READY instance of all example models, as `/instances` tells it."""
    house = LocalFleet(tmp_path_factory.mktemp("oip") / "house", TARN_MODELS="")
    try:
        await house.start()
        await house.ready(1)
        (listed,) = await house.listed()
        yield listed
        await house.stop()
    finally:
        await house.end()


def http_of(instance: dict[str, Any]) -> Any:
    return triton_http.InferenceServerClient(f"{instance['host']}:{instance['http_port']}", network_timeout=ANSWER_S)


def grpc_of(instance: dict[str, Any]) -> Any:
    return triton_grpc.InferenceServerClient(f"{instance['host']}:{instance['grpc_port']}")


def tensor(module: Any, name: str, values: Any, **how: Any) -> Any:
    wanted = module.InferInput(name, list(values.shape), "FP32")
    wanted.set_data_from_numpy(values, **how)
    return wanted


async def test_the_listing_names_the_models(instance: dict[str, Any]) -> None:
    assert instance["models"] == ["add", "identity", "repeat"]


class TestOverHttp:
    @pytest.mark.parametrize("binary", [True, False])
    async def test_tensors_travel_as_bytes_and_as_json(self, instance: dict[str, Any], binary: bool) -> None:
        a, b = np.arange(5, dtype=np.float32), np.ones(5, dtype=np.float32)
        with http_of(instance) as client:
            assert client.is_server_ready()
            answer = client.infer(
                "add",
                [tensor(triton_http, "A", a, binary_data=binary), tensor(triton_http, "B", b, binary_data=binary)],
                outputs=[triton_http.InferRequestedOutput(name, binary_data=binary) for name in ("SUM", "DIFFERENCE")],
            )
        np.testing.assert_array_equal(answer.as_numpy("SUM"), a + b)
        np.testing.assert_array_equal(answer.as_numpy("DIFFERENCE"), a - b)

    async def test_metadata_and_statistics_are_tritons(self, instance: dict[str, Any]) -> None:
        with http_of(instance) as client:
            assert client.get_server_metadata()["name"] == "triton"
            assert client.get_model_metadata("identity")["inputs"][0]["datatype"] == "FP32"
            assert client.get_inference_statistics("identity")["model_stats"][0]["name"] == "identity"

    async def test_who_was_not_given_the_value_cannot_change_what_is_served(self, instance: dict[str, Any]) -> None:
        with http_of(instance) as client, pytest.raises(triton_http.InferenceServerException, match="restricted"):
            client.unload_model("identity")


class TestOverGrpc:
    async def test_a_request_is_answered(self, instance: dict[str, Any]) -> None:
        values = np.array([[1.5, -2.0, 3.25]], dtype=np.float32)
        with grpc_of(instance) as client:
            answer = client.infer("identity", [tensor(triton_grpc, "INPUT", values)], client_timeout=ANSWER_S)
        np.testing.assert_array_equal(answer.as_numpy("OUTPUT"), values)

    async def test_a_stream_brings_each_answer_as_it_comes(self, instance: dict[str, Any]) -> None:
        answers: queue.Queue[tuple[Any, Any]] = queue.Queue()
        values = np.array([1, 2, 3, 4], dtype=np.float32)
        with grpc_of(instance) as client:
            client.start_stream(lambda result, error: answers.put((result, error)))
            client.async_stream_infer("repeat", [tensor(triton_grpc, "INPUT", values)])
            got = []
            for _ in values:
                result, error = answers.get(timeout=ANSWER_S)
                assert error is None
                got.append(float(result.as_numpy("OUTPUT")[0]))
            client.stop_stream()
        assert got == [1.0, 2.0, 3.0, 4.0]


async def test_the_metrics_port_is_tritons(instance: dict[str, Any]) -> None:
    url = f"http://{instance['host']}:{instance['metrics_port']}/metrics"
    async with aiohttp.ClientSession() as session, session.get(url) as answer:
        text = await answer.text()
    assert 'nv_inference_request_success{model="identity"' in text
