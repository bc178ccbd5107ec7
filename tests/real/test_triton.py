"""A real tritonserver under a real supervisord, handled as an agent handles it: through `SupervisedTriton`."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import queue
import re
import signal
import socket
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import numpy
import psutil
import pytest
from tritonclient.grpc import InferenceServerClient, InferenceServerException, InferInput, InferResult

from tarn_agent.core.model import Ports
from tarn_agent.core.stats import RateWindow, parse
from tarn_agent.ports import Health, TritonError, TritonProcess
from tarn_agent.triton import SupervisedTriton
from tests.rigs.triton import Container, Containers, exists, infer, launch, repository, supervised
from tests.rigs.wait import eventually

pytestmark = pytest.mark.real


@pytest.fixture
async def container(containers: Containers, tmp_path: Path) -> Container:
    models = repository(tmp_path / "models", "identity", "add", "repeat", "slow", "broken", "stuck")
    started = await containers.start(models)
    await started.up()
    return started


@pytest.fixture
async def triton(container: Container) -> AsyncIterator[SupervisedTriton]:
    control = supervised(container)
    yield control
    await control.close()


async def answering(triton: SupervisedTriton) -> Health:
    """Waits for the first answer: then every model that was asked for has loaded or failed."""
    found: list[Health] = []

    async def look() -> bool:
        found[:] = [await triton.probe(2.0)]
        return found[0].answered

    await eventually(look, "Triton answers")
    return found[0]


def port(triton: SupervisedTriton) -> int:
    remembered = triton.remembered()
    assert remembered is not None
    return remembered.ports.http


def states(health: Health) -> dict[str, str]:
    return {model.name: model.state for model in health.models if model.wanted}


class TestStart:
    async def test_serves_the_wanted_models_and_says_which_failed_and_why(self, container: Container, triton: SupervisedTriton) -> None:
        await triton.start(launch(container, triton, "identity", "broken", "nowhere"))
        health = await answering(triton)
        assert (health.live, health.ready) == (True, False)
        assert states(health) == {"identity": "READY", "broken": "UNAVAILABLE", "nowhere": "UNAVAILABLE"}
        by_name = {model.name: model for model in health.models}
        assert by_name["identity"].versions == ("1",)
        assert re.fullmatch(r"2\.\d+\.\d+\S*", triton.version)
        assert "no weights at /models/weights.bin" in by_name["broken"].reason
        assert by_name["nowhere"].reason == "it is not in the model repository"
        assert (by_name["add"].state, by_name["add"].wanted, by_name["add"].reason) == ("UNAVAILABLE", False, "not loaded")
        status, answer = await asyncio.to_thread(infer, port(triton), "identity", INPUT=[1.5, -2.0])
        assert (status, answer["outputs"][0]["data"]) == (200, [1.5, -2.0])

    async def test_while_it_loads_the_models_are_told_from_its_log(
        self, container: Container, triton: SupervisedTriton, tmp_path: Path
    ) -> None:
        release = tmp_path / "release"
        await triton.start(launch(container, triton, "identity", "stuck", environ=(("TEST_RELEASE", str(release)),)))

        async def loading() -> bool:
            health = await triton.probe(2.0)
            by_name = {model.name: model for model in health.models}
            return not health.answered and by_name["stuck"].state == "LOADING" and by_name["identity"].reason.startswith("loaded")

        await eventually(loading, "one model is loaded, the other hangs")
        release.touch()
        assert states(await answering(triton)) == {"identity": "READY", "stuck": "READY"}

    async def test_a_configuration_that_cannot_be_read_is_told_from_its_log(self, container: Container, triton: SupervisedTriton) -> None:
        models = Path(container.settings.model_repository)
        (models / "add" / "config.pbtxt").write_text("this is no configuration {")
        await triton.start(launch(container, triton, "identity", "add"))

        async def told() -> bool:
            health = await triton.probe(2.0)
            by_name = {model.name: model for model in health.models}
            return health.answered and by_name["add"].reason.startswith("failed to read text proto")

        await eventually(told, "the reason is known")

    async def test_a_server_that_cannot_begin_is_told_from_its_log(self, container: Container, triton: SupervisedTriton) -> None:
        await triton.start(launch(container, triton, "identity", extra_args=("--cache-config=nosuch,size=1",)))

        async def told() -> bool:
            health = await triton.probe(2.0)
            return health.answered and not health.live and "libtritoncache_nosuch.so" in health.error

        await eventually(told, "the reason is known")

    async def test_its_environment_and_its_secrets(self, container: Container, triton: SupervisedTriton) -> None:
        odd = """a "quoted" $HOME `id` 100% 'value'\nof two lines"""
        process = await triton.start(launch(container, triton, environ=(("ODD", odd),)))
        await eventually(lambda: psutil.Process(process.pid).name() == "tritonserver", "it is tritonserver now")
        environ = psutil.Process(process.pid).environ()
        assert (environ["ODD"], environ["PYTHONDONTWRITEBYTECODE"]) == (odd, "1")
        assert environ["CONTAINER_ID"] == container.settings.container_id
        assert not [name for name in environ if name.startswith(("TARN_", "SUPERVISOR_", "HADOOP_TOKEN"))]
        assert stat.S_IMODE((container.run_dir / "triton.json").stat().st_mode) == 0o600

    async def test_a_program_that_is_not_there_is_named(self, containers: Containers, tmp_path: Path) -> None:
        container = await containers.start(repository(tmp_path / "models", "identity"), TARN_TRITON_BIN="/nowhere/tritonserver")
        await container.up()
        triton = supervised(container)
        try:
            # Whether supervisord sees the end at once is a race, and both ways the reason is there.
            try:
                await triton.gone(await triton.start(launch(container, triton)))
                said = " ".join(triton.last_lines(1))
            except TritonError as error:
                said = str(error)
            assert "/nowhere/tritonserver cannot be run: No such file or directory; set TARN_TRITON_BIN" in said
            assert await triton.running() is None
        finally:
            await triton.close()

    async def test_an_argument_that_is_tarns_own_is_refused_by_name(self, container: Container, triton: SupervisedTriton) -> None:
        with pytest.raises(TritonError, match="the argument --http-port cannot be given to tritonserver"):
            await triton.start(launch(container, triton, "identity", extra_args=("--http-port=1",)))
        assert await triton.running() is None


class TestExamples:
    async def test_each_answers_its_own_way(self, container: Container, triton: SupervisedTriton) -> None:
        chosen = launch(container, triton, "identity", "add", "repeat")
        await triton.start(chosen)
        assert states(await answering(triton)) == {"identity": "READY", "add": "READY", "repeat": "READY"}
        status, answer = await asyncio.to_thread(infer, chosen.ports.http, "add", A=[1.0, 2.0], B=[10.0, 20.0])
        assert status == 200
        assert {out["name"]: out["data"] for out in answer["outputs"]} == {"SUM": [11.0, 22.0], "DIFFERENCE": [-9.0, -18.0]}
        status, answer = await asyncio.to_thread(infer, chosen.ports.http, "add", A=[1.0], B=[1.0, 2.0])
        assert (status, "give both the same length" in answer["error"]) == (500, True)
        assert await asyncio.to_thread(_stream, chosen.ports.grpc, [1.0, 2.0, 3.0]) == [1.0, 2.0, 3.0]
        window = RateWindow(60.0)
        for at, requests in ((0.0, 0), (10.0, 4)):
            for _ in range(requests):
                await asyncio.to_thread(infer, chosen.ports.http, "identity", INPUT=[1.0])
            window = window.push(parse(await triton.metrics(5.0)), at)
        rates = {model.name: model for model in window.rates(10.0).models}
        assert (rates["identity"].request_rate, rates["identity"].pending, rates["add"].request_rate) == (0.4, 0, 0.0)
        assert ((rates["add"].success_total or 0) + (rates["add"].failure_total or 0), rates["add"].queue_time_s) == (2, None)


def _stream(grpc_port: int, values: list[float]) -> list[float]:
    """Answers of the decoupled model, in the order in which they came; the last of a request carries no tensor."""
    answers: queue.Queue[InferResult | InferenceServerException] = queue.Queue()
    tensor = InferInput("INPUT", [len(values)], "FP32")
    tensor.set_data_from_numpy(numpy.array(values, dtype=numpy.float32))
    with InferenceServerClient(f"127.0.0.1:{grpc_port}") as client:
        client.start_stream(lambda result, error: answers.put(result or error))
        client.async_stream_infer("repeat", [tensor])
        found = []
        for _ in values:
            answer = answers.get(timeout=60)
            assert isinstance(answer, InferResult), answer
            found += answer.as_numpy("OUTPUT").tolist()
        client.stop_stream()
    return found


class TestRestrictedApis:
    async def test_nobody_else_changes_what_is_served(self, container: Container, triton: SupervisedTriton) -> None:
        chosen = launch(container, triton, "identity")
        await triton.start(chosen)
        await answering(triton)
        reader, writer = await asyncio.open_connection("127.0.0.1", chosen.ports.http)
        writer.write(b"POST /v2/repository/models/identity/unload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        head = await reader.readline()
        writer.close()
        assert b" 403 " in head
        client = InferenceServerClient(f"127.0.0.1:{chosen.ports.grpc}")
        with pytest.raises(InferenceServerException, match="This protocol is restricted"):
            await asyncio.to_thread(client.unload_model, "identity")
        client.close()
        assert states(await triton.probe(5.0)) == {"identity": "READY"}
        assert chosen.restricted_value not in container.log("triton")
        assert chosen.restricted_value not in container.log("supervisord")


class TestUnload:
    async def test_every_request_in_flight_or_queued_is_answered(self, container: Container, triton: SupervisedTriton) -> None:
        await triton.start(launch(container, triton, "slow"))
        await answering(triton)
        requests = [asyncio.create_task(asyncio.to_thread(infer, port(triton), "slow", DELAY=[0.8])) for _ in range(3)]

        async def queued() -> bool:
            page = parse(await triton.metrics(5.0))
            return page.models["slow", "1"].pending == 2

        await eventually(queued, "one request executes and two wait")
        await triton.unload("slow")
        assert states(await triton.probe(5.0)) == {"slow": "UNLOADING"}
        refused, _ = await asyncio.to_thread(infer, port(triton), "slow", DELAY=[0.0])
        assert refused in (400, 404)
        assert [status for status, _ in await asyncio.gather(*requests)] == [200, 200, 200]

        async def unloaded() -> bool:
            return states(await triton.probe(5.0)) == {"slow": "UNAVAILABLE"}

        await eventually(unloaded, "the model is unloaded")
        await triton.load("slow")
        assert states(await triton.probe(5.0)) == {"slow": "READY"}

    async def test_what_cannot_be_loaded_says_why(self, container: Container, triton: SupervisedTriton) -> None:
        await triton.start(launch(container, triton, "identity"))
        await answering(triton)
        with pytest.raises(TritonError, match=r"did not load broken: .*no weights at /models/weights.bin"):
            await triton.load("broken")
        with pytest.raises(TritonError, match="did not load no such/model: "):
            await triton.load("no such/model")
        assert states(await triton.probe(5.0)) == {"identity": "READY"}


class TestStop:
    async def test_open_connections_of_clients_do_not_hold_it_up(self, container: Container, triton: SupervisedTriton) -> None:
        process = await triton.start(launch(container, triton, "identity"))
        await answering(triton)
        idle = [await asyncio.open_connection("127.0.0.1", port(triton)) for _ in range(3)]
        family = psutil.Process(process.pid).children(recursive=True)
        assert family
        began = asyncio.get_running_loop().time()
        await triton.stop(0.5)
        assert asyncio.get_running_loop().time() - began < 10.0  # the exit time-out, which TERM alone would take
        assert not exists(process.pid)
        assert await triton.running() is None
        await triton.stop(0.5)
        for _, writer in idle:
            writer.close()
        await eventually(lambda: not any(exists(one.pid) for one in family), "the models' processes end with it")

    async def test_it_can_be_started_again_on_the_same_ports(self, container: Container, triton: SupervisedTriton) -> None:
        first = launch(container, triton, "identity")
        before = await triton.start(first)
        await answering(triton)
        await triton.stop(0.2)

        def are_free() -> bool:
            # The models' processes inherited its sockets and end a moment after it.
            with contextlib.suppress(TritonError):
                return triton.choose_ports(first.ports) == first.ports
            return False

        await eventually(are_free, "its ports are free again")
        again = replace(first, restricted_value="0123456789abcdef")
        after = await triton.start(again)
        assert after.pid != before.pid
        assert states(await answering(triton)) == {"identity": "READY"}


class TestKilled:
    async def test_its_end_is_seen_and_it_can_be_started_at_once(self, container: Container, triton: SupervisedTriton) -> None:
        chosen = launch(container, triton, "identity")
        process = await triton.start(chosen)
        await answering(triton)
        gone = asyncio.create_task(triton.gone(process))
        os.kill(process.pid, signal.SIGKILL)
        await asyncio.wait_for(gone, 60)
        after = await triton.start(chosen)
        assert after.pid != process.pid
        assert states(await answering(triton)) == {"identity": "READY"}
        # Long over: it returns at once, and does not wait for whoever may have the pid.
        await asyncio.wait_for(triton.gone(process), 60)


class TestHangs:
    async def test_a_probe_ends_with_its_deadline_and_kill_is_heard(self, container: Container, triton: SupervisedTriton) -> None:
        process = await triton.start(launch(container, triton, "identity"))
        await answering(triton)
        os.kill(process.pid, signal.SIGSTOP)
        loop = asyncio.get_running_loop()
        threads = psutil.Process().num_threads()
        for _ in range(5):
            began = loop.time()
            health = await triton.probe(0.2)
            assert not health.answered
            assert "within" in health.error
            assert loop.time() - began < 5.0
        assert psutil.Process().num_threads() == threads
        await triton.stop(0.0)
        assert not exists(process.pid)

    async def test_one_that_comes_back_answers_again(self, container: Container, triton: SupervisedTriton) -> None:
        process = await triton.start(launch(container, triton, "identity"))
        await answering(triton)
        os.kill(process.pid, signal.SIGSTOP)
        assert not (await triton.probe(0.2)).answered
        os.kill(process.pid, signal.SIGCONT)
        assert states(await answering(triton)) == {"identity": "READY"}


class TestAdoption:
    async def test_a_new_agent_finds_the_same_process_and_speaks_to_it(self, container: Container, triton: SupervisedTriton) -> None:
        chosen = launch(container, triton, "identity")
        process = await triton.start(chosen)
        await answering(triton)
        await triton.close()
        successor = supervised(container)
        try:
            found = await successor.running()
            assert found is not None
            assert (found.pid, successor.remembered()) == (process.pid, chosen)
            assert abs(found.started_at - process.started_at) < 1.0
            assert states(await successor.probe(5.0)) == {"identity": "READY"}
            # Started anew, with another launch, is adopted all the same: two servers were worse.
            assert (await successor.start(launch(container, successor, "add"))).pid == process.pid
            assert successor.remembered() == chosen
            await successor.stop(0.2)
        finally:
            await successor.close()
        assert not exists(process.pid)

    async def test_a_launch_that_cannot_be_read_is_no_launch(self, container: Container, triton: SupervisedTriton) -> None:
        for text in ("", "[]", '{"launch": 7}', json.dumps({"launch": {"ports": {"http": "x"}}})):
            (container.run_dir / "triton.json").write_text(text)
            assert triton.remembered() is None
        assert not (await triton.probe(1.0)).answered


class TestContainerEnds:
    async def test_triton_can_be_stopped_while_supervisord_takes_no_orders(self, containers: Containers, tmp_path: Path) -> None:
        script = "import signal, sys; signal.signal(signal.SIGTERM, lambda *_: None); [signal.pause() for _ in range(2)]"
        container = await containers.start(repository(tmp_path / "models", "identity"), ("python3", "-IS", "-c", script))
        await container.up()
        triton = supervised(container)
        process = await triton.start(launch(container, triton, "identity"))
        await answering(triton)
        container.term()

        async def refusing() -> bool:
            return "received SIGTERM" in container.log("supervisord")

        await eventually(refusing, "supervisord shuts down and waits for its agent")
        assert (await running(triton)).pid == process.pid
        with pytest.raises(TritonError, match="shutting down"):
            await triton._spawn()
        await triton.stop(0.2)
        assert not exists(process.pid)
        assert await triton.running() is None
        agent = container.agent_pid()
        assert agent is not None
        os.kill(agent, signal.SIGTERM)
        assert await container.status() == 143
        await triton.close()

    async def test_without_supervisord_the_error_says_so(self, container: Container, triton: SupervisedTriton) -> None:
        container.term()
        await container.status()
        with pytest.raises(TritonError, match="supervisord does not answer on"):
            await triton.running()
        await triton.stop(0.2)


async def running(triton: SupervisedTriton) -> TritonProcess:
    found = await triton.running()
    assert found is not None
    return found


class TestPorts:
    async def test_free_ones_differ_and_a_taken_one_is_named_with_the_fix(self, container: Container, triton: SupervisedTriton) -> None:
        chosen = triton.choose_ports(Ports(0, 0, 0))
        assert len({chosen.http, chosen.grpc, chosen.metrics}) == 3
        assert triton.choose_ports(chosen) == chosen
        with socket.socket() as other:
            other.bind(("127.0.0.1", 0))
            other.listen()
            taken = other.getsockname()[1]
            with pytest.raises(TritonError, match=rf"gRPC port: port {taken} on 127.0.0.1 cannot be had .*ss -ltnp 'sport = :{taken}'"):
                triton.choose_ports(Ports(0, taken, 0))
        with pytest.raises(TritonError, match="metrics port: port"):
            triton.choose_ports(Ports(chosen.http, 0, chosen.http))
