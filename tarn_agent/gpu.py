"""The GPUs of this container, read through NVML by UUID. What NVML does not say is None: unknown, which is never zero.

A machine without NVML, a driver that goes away while we run, a GPU that falls off the bus: each is a reading that says so, and
nothing is raised. NVML is asked and not Triton's metrics, which lack MIG devices and vanish beside another DCGM client.
API: https://docs.nvidia.com/deploy/nvml-api/.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Protocol, TypeVar, cast

import structlog

from tarn_agent.core.model import Gpu, GpuReading

log = structlog.get_logger(__name__)
T = TypeVar("T")

LOOK_AGAIN = 60
"""After NVML could not be had, so many readings pass before it is looked for again."""
_EVENTS_AT_ONCE = 64


class Nvml(Protocol):
    """What is used of the module `pynvml` (package nvidia-ml-py). Every function may raise `NVMLError`."""

    @property
    def NVMLError(self) -> type[Exception]: ...  # noqa: N802  (pynvml's names, here and below)
    @property
    def NVMLError_NoPermission(self) -> type[Exception]: ...  # noqa: N802

    NVML_TEMPERATURE_GPU: int
    NVML_MEMORY_ERROR_TYPE_UNCORRECTED: int
    NVML_VOLATILE_ECC: int
    NVML_DEVICE_MIG_ENABLE: int
    nvmlEventTypeXidCriticalError: int  # noqa: N815

    def nvmlInit(self) -> None: ...  # noqa: N802
    def nvmlShutdown(self) -> None: ...  # noqa: N802
    def nvmlDeviceGetCount(self) -> int: ...  # noqa: N802
    def nvmlDeviceGetHandleByIndex(self, index: int) -> Any: ...  # noqa: N802
    def nvmlDeviceGetUUID(self, handle: Any) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetName(self, handle: Any) -> str | bytes: ...  # noqa: N802
    def nvmlDeviceGetUtilizationRates(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMemoryInfo(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetTemperature(self, handle: Any, sensor: int) -> int: ...  # noqa: N802
    def nvmlDeviceGetPowerUsage(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetTotalEccErrors(self, handle: Any, kind: int, counter: int) -> int: ...  # noqa: N802
    def nvmlDeviceGetMigMode(self, handle: Any) -> Any: ...  # noqa: N802
    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Any) -> int: ...  # noqa: N802
    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Any, index: int) -> Any: ...  # noqa: N802
    def nvmlEventSetCreate(self) -> Any: ...  # noqa: N802
    def nvmlDeviceRegisterEvents(self, handle: Any, kinds: int, events: Any) -> None: ...  # noqa: N802
    def nvmlEventSetWait_v2(self, events: Any, timeout_ms: int) -> Any: ...  # noqa: N802
    def nvmlEventSetFree(self, events: Any) -> None: ...  # noqa: N802


def _pynvml() -> Nvml:
    # Imported on first use: it is a large module, and most test machines have no GPU.
    return cast(Nvml, importlib.import_module("pynvml"))


class NvmlReader:
    """Implements `ports.GpuReader`. Calls must not overlap; `load` gives the NVML module."""

    def __init__(self, load: Callable[[], Nvml] = _pynvml) -> None:
        self._load = load
        self._nvml: Nvml | None = None
        self._missing, self._skip = "", 0
        self._seen: dict[int, Gpu] = {}
        self._xids: dict[str, int] = {}
        self._events: Any = None
        self._handles: dict[object, str] = {}

    def read(self) -> GpuReading:
        nvml = self._ready()
        if nvml is None:
            return GpuReading(False, unknown_reason=self._missing)
        try:
            count = nvml.nvmlDeviceGetCount()
            self._collect_xids(nvml)
            gpus = tuple(gpu for index in range(count) for gpu in self._gpu(nvml, index))
        except nvml.NVMLError as error:
            # The driver was unloaded or is lost: begin anew with the next reading.
            self.close()
            return GpuReading(False, unknown_reason=f"NVML was lost: {error}")
        return GpuReading(True, gpus)

    def close(self) -> None:
        nvml, self._nvml = self._nvml, None
        if nvml is None:
            return
        with contextlib.suppress(nvml.NVMLError):
            if self._events is not None:
                nvml.nvmlEventSetFree(self._events)
        self._events = None
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()

    # --- NVML itself

    def _ready(self) -> Nvml | None:
        if self._nvml is not None:
            return self._nvml
        if self._skip > 0:
            self._skip -= 1
            return None
        self._skip = LOOK_AGAIN
        try:
            nvml = self._load()
        except ImportError as error:
            self._missing = f"NVML cannot be used, install nvidia-ml-py: {error}"
            return None
        try:
            nvml.nvmlInit()
        except nvml.NVMLError as error:
            self._missing = f"no NVML here: {error}"
            return None
        self._nvml, self._skip = nvml, 0
        self._listen(nvml)
        return nvml

    def _listen(self, nvml: Nvml) -> None:
        """For XID errors, which NVML only tells to who listens. Where that is not supported, they stay unknown."""
        self._handles.clear()
        try:
            self._events = nvml.nvmlEventSetCreate()
            count = nvml.nvmlDeviceGetCount()
        except nvml.NVMLError:
            return
        for index in range(count):
            with contextlib.suppress(nvml.NVMLError):
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
                self._handles[_identity(handle)] = _text(nvml.nvmlDeviceGetUUID(handle))
                nvml.nvmlDeviceRegisterEvents(handle, nvml.nvmlEventTypeXidCriticalError, self._events)

    def _collect_xids(self, nvml: Nvml) -> None:
        if self._events is None:
            return
        with contextlib.suppress(nvml.NVMLError):
            # It raises a time-out when there are no more.
            for _ in range(_EVENTS_AT_ONCE):
                event = nvml.nvmlEventSetWait_v2(self._events, 0)
                uuid = self._handles.get(_identity(event.device), "")
                self._xids[uuid] = int(event.eventData)
                log.warning("gpu_xid", uuid=uuid, xid=self._xids[uuid])

    # --- one GPU

    def _gpu(self, nvml: Nvml, index: int) -> Iterator[Gpu]:
        """The GPU or, in its place, its MIG devices: a GPU that is divided can be used in its parts alone."""
        try:
            handle = nvml.nvmlDeviceGetHandleByIndex(index)
            gpu = self._device(nvml, handle)
        except nvml.NVMLError_NoPermission:
            # Another container's: the devices cgroup keeps it from us.
            return
        except nvml.NVMLError as error:
            yield self._lost(index, error)
            return
        self._seen[index] = gpu
        parts = list(self._mig(nvml, handle, gpu)) if self._is_divided(nvml, handle) else []
        yield from parts or [gpu]

    def _lost(self, index: int, error: Exception) -> Gpu:
        """A GPU that was there must not vanish from the reports without a word: all that is known of it is its name."""
        known = self._seen.get(index, Gpu(f"index {index}", f"unknown ({error})"))
        return Gpu(known.uuid, known.name, last_xid=self._xids.get(known.uuid))

    def _device(self, nvml: Nvml, handle: Any) -> Gpu:
        def ask(question: Callable[..., T], *more: int) -> T | None:
            try:
                return question(handle, *more)
            except nvml.NVMLError:
                return None

        uuid = _text(nvml.nvmlDeviceGetUUID(handle))
        rates, memory = ask(nvml.nvmlDeviceGetUtilizationRates), ask(nvml.nvmlDeviceGetMemoryInfo)
        temperature = ask(nvml.nvmlDeviceGetTemperature, nvml.NVML_TEMPERATURE_GPU)
        milliwatts = ask(nvml.nvmlDeviceGetPowerUsage)
        return Gpu(
            uuid=uuid,
            name=_text(ask(nvml.nvmlDeviceGetName) or "unknown"),
            utilization=rates.gpu / 100 if rates is not None else None,
            memory_used=int(memory.used) if memory is not None else None,
            memory_total=int(memory.total) if memory is not None else None,
            temperature=float(temperature) if temperature is not None else None,
            power=milliwatts / 1000 if milliwatts is not None else None,
            ecc_uncorrected=ask(nvml.nvmlDeviceGetTotalEccErrors, nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_VOLATILE_ECC),
            last_xid=self._xids.get(uuid),
        )

    # --- MIG

    def _is_divided(self, nvml: Nvml, handle: Any) -> bool:
        try:
            current, _pending = nvml.nvmlDeviceGetMigMode(handle)
        except nvml.NVMLError:
            return False
        return bool(current == nvml.NVML_DEVICE_MIG_ENABLE)

    def _mig(self, nvml: Nvml, handle: Any, parent: Gpu) -> Iterator[Gpu]:
        try:
            places = nvml.nvmlDeviceGetMaxMigDeviceCount(handle)
        except nvml.NVMLError:
            return
        for index in range(places):
            try:
                part = self._device(nvml, nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, index))
            except nvml.NVMLError:
                # A place without a part, or another container's.
                continue
            # Heat and faults are the whole board's; power would be counted once for each part.
            yield replace(
                part,
                temperature=parent.temperature,
                power=None,
                ecc_uncorrected=parent.ecc_uncorrected,
                last_xid=parent.last_xid,
                mig=True,
                parent_uuid=parent.uuid,
            )


def _identity(handle: Any) -> object:
    """NVML gives the same pointer for the same device, ctypes a new object around it each time."""
    if isinstance(handle, ctypes._Pointer):
        return ctypes.cast(handle, ctypes.c_void_p).value
    return handle


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value
