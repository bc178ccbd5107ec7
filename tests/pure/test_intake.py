"""What agents send, made clean: absurd content becomes bounded, unknown or refused, and never an exception of another kind."""

from __future__ import annotations

import math
import random

import pytest

from tarn_am import intake
from tarn_am.core.model import Phase
from tarn_common.ids import ContainerId
from tarn_common.wire import agent_pb2 as pb

CONTAINER = ContainerId("container_1700000000000_0001_01_000002")


def test_control_characters_and_length() -> None:
    assert intake.text("a\x1b[31mred\x00\r\nb\u2028c") == "a [31mred b c"
    long = intake.text("x" * 1_000_000, 100)
    assert (len(long), long[-1]) == (100, "…")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -1.0, 1e300])
def test_an_impossible_number_is_unknown_not_zero(value: float) -> None:
    sample = intake.sample(pb.Stats(in_flight=value, cpu_utilization=value, gpus=[pb.Gpu(uuid="GPU-1", utilization=value)]), 5.0)
    assert (sample.in_flight, sample.cpu_utilization, sample.gpus[0].utilization) == (None, None, None)
    assert sample.received_at == 5.0


def test_a_utilisation_above_one_is_unknown() -> None:
    assert intake.sample(pb.Stats(gpus=[pb.Gpu(uuid="GPU-1", utilization=95.0)]), 0.0).gpus[0].utilization is None


def test_unset_and_zero_are_told_apart() -> None:
    sample = intake.sample(pb.Stats(models=[pb.ModelStats(name="a", pending=0), pb.ModelStats(name="b")]), 0.0)
    assert [model.pending for model in sample.models] == [0, None]


def test_lists_are_bounded_and_nameless_entries_dropped() -> None:
    message = pb.PhaseChange(phase=pb.READY)
    for number in range(5_000):
        message.models.add(name="" if number % 2 else f"m{number}", versions=["1"] * 100)
    report = intake.report(message)
    assert len(report.models) == 500
    assert len(report.models[0].versions) == intake.MAX_VERSIONS


def test_an_unknown_phase_is_malformed() -> None:
    for number in (0, 77, -1):
        with pytest.raises(intake.Malformed, match="phase"):
            intake.report(pb.PhaseChange(phase=number))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "port"),
    [("", 8000), ("node 1", 8000), ("node\n1", 8000), ("a/b", 8000), ("a@b", 8000), ("x" * 300, 8000), ("node1", 0), ("node1", 70000)],
)
def test_an_endpoint_that_cannot_be_is_none(host: str, port: int) -> None:
    assert intake.report(pb.PhaseChange(phase=pb.READY, endpoint=pb.Endpoint(host=host, http_port=port))).endpoint is None


def test_an_endpoint_keeps_its_ports() -> None:
    endpoint = intake.report(
        pb.PhaseChange(phase=pb.READY, endpoint=pb.Endpoint(host="::1", http_port=1, grpc_port=2, metrics_port=3))
    ).endpoint
    assert endpoint is not None
    assert (endpoint.host, endpoint.http_port, endpoint.grpc_port, endpoint.metrics_port) == ("::1", 1, 2, 3)


def test_a_hello_is_the_whole_state() -> None:
    message = pb.Hello(
        protocol=1,
        node="node1",
        incarnation="abc",
        versions={"agent": "1", "triton": "2.51\n"},
        phase=pb.PhaseChange(phase=pb.STAGING, since=5.0, triton_version="2.51\n" * 100),
        staging=pb.StagingProgress(bytes_done=1, bytes_total=1 << 63, started=math.nan),
    )
    hello = intake.hello(CONTAINER, message)
    assert (hello.report.phase, hello.report.since_at) == (Phase.STAGING, 5.0)
    assert hello.report.triton_version.startswith("2.51 2.51")
    assert len(hello.report.triton_version) == 64
    assert hello.versions == {"agent": "1", "triton": "2.51"}
    assert hello.staging is not None
    assert hello.staging.bytes_total == 1 << 53
    assert hello.staging.started_at == 0.0


def test_random_bytes_that_parse_never_raise_anything_else() -> None:
    chance = random.Random(1)
    parsed = 0
    whole = pb.AgentMessage(
        hello=pb.Hello(phase=pb.PhaseChange(phase=pb.READY, models=[pb.Model(name="m")], endpoint=pb.Endpoint(host="h", http_port=1)))
    ).SerializeToString()
    for _ in range(3_000):
        torn = bytearray(whole)
        for _ in range(chance.randint(1, 6)):
            torn[chance.randrange(len(torn))] = chance.randrange(256)
        try:
            message = pb.AgentMessage.FromString(bytes(torn))
        except Exception:  # noqa: BLE001 - protobuf's own refusal is not what this is about
            continue
        parsed += 1
        try:
            intake.hello(CONTAINER, message.hello)
            intake.sample(message.stats, 0.0)
            intake.staging(message.staging)
        except intake.Malformed:
            pass
    assert parsed > 100
