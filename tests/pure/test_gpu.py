"""Readings of GPUs: what NVML does not say is unknown, what it says is by UUID, and what breaks is told and not raised."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from tarn_agent.gpu import LOOK_AGAIN, NvmlReader


class NvmlGone(Exception):
    """NVML's general error."""


class NoPermission(NvmlGone):
    pass


class NotFound(NvmlGone):
    pass


class TimedOut(NvmlGone):
    pass


@dataclass(eq=False)
class Device:
    """What a device answers; an exception as an answer is raised. A missing one is not supported."""

    uuid: str
    answers: dict[str, Any] = field(default_factory=dict)
    parts: list[Device | Exception] = field(default_factory=list)
    lost: Exception | None = None

    def answer(self, name: str) -> Any:
        if self.lost is not None:
            raise self.lost
        if name not in self.answers:
            raise NvmlGone("Not Supported")
        return self.answers[name]


FULL = {
    "name": "NVIDIA H100",
    "rates": SimpleNamespace(gpu=87, memory=30),
    "memory": SimpleNamespace(used=10 << 30, total=80 << 30),
    "temperature": 61,
    "power": 350_500,
    "ecc": 2,
}


class Machine:
    """An NVML with these devices: implements `tarn_agent.gpu.Nvml`."""

    NVMLError, NVMLError_NoPermission = NvmlGone, NoPermission
    NVML_TEMPERATURE_GPU, NVML_MEMORY_ERROR_TYPE_UNCORRECTED, NVML_VOLATILE_ECC, NVML_DEVICE_MIG_ENABLE = 0, 1, 0, 1
    nvmlEventTypeXidCriticalError = 8  # noqa: N815

    def __init__(self, *devices: Device) -> None:
        self.devices = list(devices)
        self.starts: list[Exception | None] = []
        self.opened = 0
        self.broken: Exception | None = None
        self.xids: list[tuple[Device, int]] = []
        self.listened: list[Device] = []

    def nvmlInit(self) -> None:  # noqa: N802
        error = self.starts.pop(0) if self.starts else None
        if error is not None:
            raise error
        self.opened += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if self.broken is not None:
            raise self.broken
        return len(self.devices)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Device:  # noqa: N802
        device = self.devices[index]
        if device.lost is not None:
            raise device.lost
        return device

    def nvmlDeviceGetUUID(self, handle: Device) -> str:  # noqa: N802
        return handle.uuid

    def nvmlDeviceGetName(self, handle: Device) -> str:  # noqa: N802
        return str(handle.answer("name"))

    def nvmlDeviceGetUtilizationRates(self, handle: Device) -> Any:  # noqa: N802
        return handle.answer("rates")

    def nvmlDeviceGetMemoryInfo(self, handle: Device) -> Any:  # noqa: N802
        return handle.answer("memory")

    def nvmlDeviceGetTemperature(self, handle: Device, sensor: int) -> int:  # noqa: N802
        return int(handle.answer("temperature"))

    def nvmlDeviceGetPowerUsage(self, handle: Device) -> int:  # noqa: N802
        return int(handle.answer("power"))

    def nvmlDeviceGetTotalEccErrors(self, handle: Device, kind: int, counter: int) -> int:  # noqa: N802
        return int(handle.answer("ecc"))

    def nvmlDeviceGetMigMode(self, handle: Device) -> tuple[int, int]:  # noqa: N802
        if not handle.parts and "mig" not in handle.answers:
            raise NvmlGone("Not Supported")
        return (1, 1)

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Device) -> int:  # noqa: N802
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Device, index: int) -> Device:  # noqa: N802
        part = handle.parts[index] if index < len(handle.parts) else NotFound()
        if isinstance(part, Exception):
            raise part
        return part

    def nvmlEventSetCreate(self) -> str:  # noqa: N802
        return "events"

    def nvmlDeviceRegisterEvents(self, handle: Device, kinds: int, events: Any) -> None:  # noqa: N802
        self.listened.append(handle)

    def nvmlEventSetWait_v2(self, events: Any, timeout_ms: int) -> Any:  # noqa: N802
        if not self.xids:
            raise TimedOut("Timeout")
        device, number = self.xids.pop(0)
        return SimpleNamespace(device=device, eventType=8, eventData=number)

    def nvmlEventSetFree(self, events: Any) -> None:  # noqa: N802
        self.listened.clear()


class TestWholeGpu:
    def test_every_value_in_its_unit(self) -> None:
        reading = NvmlReader(lambda: Machine(Device("GPU-1", FULL))).read()
        assert reading.known
        (gpu,) = reading.gpus
        assert (gpu.uuid, gpu.name, gpu.utilization, gpu.power) == ("GPU-1", "NVIDIA H100", 0.87, 350.5)
        assert (gpu.memory_used, gpu.memory_total, gpu.temperature, gpu.ecc_uncorrected) == (10 << 30, 80 << 30, 61.0, 2)
        assert (gpu.last_xid, gpu.mig) == (None, False)

    @pytest.mark.parametrize(
        ("missing", "value"),
        [
            ("rates", "utilization"),
            ("memory", "memory_total"),
            ("temperature", "temperature"),
            ("power", "power"),
            ("ecc", "ecc_uncorrected"),
        ],
    )
    def test_what_is_not_supported_is_unknown_and_the_rest_is_there(self, missing: str, value: str) -> None:
        answers = {name: answer for name, answer in FULL.items() if name != missing}
        (gpu,) = NvmlReader(lambda: Machine(Device("GPU-1", answers))).read().gpus
        assert getattr(gpu, value) is None
        assert [name for name in ("utilization", "temperature", "power") if getattr(gpu, name) is None] in ([value], [])

    def test_zero_is_zero(self) -> None:
        answers = {**FULL, "rates": SimpleNamespace(gpu=0), "power": 0, "ecc": 0, "temperature": 0}
        (gpu,) = NvmlReader(lambda: Machine(Device("GPU-1", answers))).read().gpus
        assert (gpu.utilization, gpu.power, gpu.ecc_uncorrected, gpu.temperature) == (0.0, 0.0, 0, 0.0)


class TestMig:
    def test_its_parts_stand_for_the_gpu(self) -> None:
        part = {"name": "NVIDIA H100 MIG 1g.10gb", "memory": SimpleNamespace(used=1, total=10)}
        gpu = Device("GPU-1", FULL, parts=[Device("MIG-a", part), NotFound(), Device("MIG-b", part), NoPermission()])
        gpus = NvmlReader(lambda: Machine(gpu)).read().gpus
        assert [(gpu.uuid, gpu.mig, gpu.parent_uuid) for gpu in gpus] == [("MIG-a", True, "GPU-1"), ("MIG-b", True, "GPU-1")]
        assert {(gpu.utilization, gpu.power, gpu.temperature, gpu.memory_total) for gpu in gpus} == {(None, None, 61.0, 10)}

    def test_a_gpu_in_mig_mode_without_parts_is_the_gpu(self) -> None:
        gpus = NvmlReader(lambda: Machine(Device("GPU-1", {**FULL, "mig": True}))).read().gpus
        assert [gpu.uuid for gpu in gpus] == ["GPU-1"]


class TestFaults:
    def test_the_last_xid_stays_with_its_gpu(self) -> None:
        machine = Machine(Device("GPU-1", FULL), Device("GPU-2", FULL))
        reader = NvmlReader(lambda: machine)
        reader.read()
        machine.xids = [(machine.devices[1], 48), (machine.devices[1], 79)]
        assert [gpu.last_xid for gpu in reader.read().gpus] == [None, 79]
        assert [gpu.last_xid for gpu in reader.read().gpus] == [None, 79]

    def test_a_gpu_that_fell_off_the_bus_is_named_with_nothing_known(self) -> None:
        machine = Machine(Device("GPU-1", FULL), Device("GPU-2", FULL))
        reader = NvmlReader(lambda: machine)
        reader.read()
        machine.devices[1].lost = NvmlGone("GPU is lost")
        machine.xids = [(machine.devices[1], 79)]
        first, second = reader.read().gpus
        assert first.utilization == 0.87
        assert (second.uuid, second.name, second.last_xid, second.utilization, second.memory_used) == (
            "GPU-2",
            "NVIDIA H100",
            79,
            None,
            None,
        )

    def test_one_that_was_lost_from_the_first_is_named_by_its_index(self) -> None:
        (gpu,) = NvmlReader(lambda: Machine(Device("GPU-1", lost=NvmlGone("GPU is lost")))).read().gpus
        assert gpu.uuid == "index 0"
        assert "GPU is lost" in gpu.name

    def test_another_containers_gpu_is_not_ours(self) -> None:
        machine = Machine(Device("GPU-1", FULL), Device("GPU-2", FULL, lost=NoPermission()))
        assert [gpu.uuid for gpu in NvmlReader(lambda: machine).read().gpus] == ["GPU-1"]


class TestNoNvml:
    def test_is_unknown_with_the_reason_and_looked_for_again_now_and_then(self) -> None:
        machine = Machine(Device("GPU-1", FULL))
        machine.starts = [NvmlGone("NVML Shared Library Not Found")]
        reader = NvmlReader(lambda: machine)
        readings = [reader.read() for _ in range(LOOK_AGAIN + 2)]
        assert [reading.known for reading in readings] == [False] * (LOOK_AGAIN + 1) + [True]
        assert "NVML Shared Library Not Found" in readings[0].unknown_reason
        assert readings[0] == readings[1]

    def test_a_missing_package_names_it(self) -> None:
        def load() -> Machine:
            raise ImportError("No module named 'pynvml'")

        reading = NvmlReader(load).read()
        assert (reading.known, reading.gpus) == (False, ())
        assert "nvidia-ml-py" in reading.unknown_reason

    def test_a_driver_lost_while_we_run_is_told_and_opened_anew(self) -> None:
        machine = Machine(Device("GPU-1", FULL))
        reader = NvmlReader(lambda: machine)
        assert reader.read().known
        machine.broken = NvmlGone("Driver Not Loaded")
        lost = reader.read()
        assert (lost.known, lost.gpus) == (False, ())
        assert "Driver Not Loaded" in lost.unknown_reason
        machine.broken = None
        assert reader.read().known
        reader.close()
        reader.close()
        assert machine.opened == 0

    def test_nvml_without_a_gpu_is_known_to_have_none(self) -> None:
        reading = NvmlReader(lambda: Machine()).read()
        assert (reading.known, reading.gpus) == (True, ())


class TestThisMachine:
    def test_the_real_module_reads_or_says_why_not(self) -> None:
        reader = NvmlReader()
        reading = reader.read()
        assert reading.known or "NVML" in reading.unknown_reason
        assert all(gpu.uuid.startswith(("GPU-", "MIG-")) for gpu in reading.gpus)
        reader.close()
