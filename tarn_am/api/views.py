"""Pure renderings of a FleetView for programs: `/status`, `/instances` in both forms, `/config`.

`status` is the one structure that `/status`, the dashboard and `tarn status` show: the dataclasses as they are, field names as
keys, enums by value, unknown as null. A number that is none (NaN, infinity) is unknown too, for JSON has no word for it.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from tarn_am.core.model import FleetView, Instance
from tarn_am.settings import AmSettings
from tarn_common.settings import redacted

_HOST = re.compile(r"[A-Za-z0-9._:%-]{1,255}")
_ARGUMENT = re.compile(r"--?[A-Za-z0-9-]+")
# Arguments of tritonserver whose values tell nobody a secret; of every other one it is only said that it is set.
_HARMLESS = re.compile(
    r"--(allow-(http|grpc|metrics|gpu-metrics|cpu-metrics|sagemaker|vertex-ai)|log-(verbose|info|warning|error|format)|id"
    r"|exit-(on-error|timeout-secs)|strict-(readiness|model-config)|disable-auto-complete-config|buffer-manager-thread-count"
    r"|model-load-(thread-count|retry-count)|(http|vertex-ai|sagemaker)-thread-count|http-max-input-size|metrics-interval-ms"
    r"|min-supported-compute-capability|pinned-memory-pool-byte-size|cuda-memory-pool-byte-size|response-cache-byte-size"
    r"|rate-limit|model-namespacing|enable-peer-access|grpc-(infer-allocation-pool-size|infer-thread-count|max-response-pool-size)"
    r"|grpc-keepalive-(time|timeout)|grpc-use-ssl|grpc-use-ssl-mutual)"
)
_USER_INFO = re.compile(r"//[^/@]*@")


def status(view: FleetView) -> dict[str, Any]:
    """The whole view as JSON."""
    plain = _plain(view)
    assert isinstance(plain, dict)
    return plain


def offered(view: FleetView) -> list[Instance]:
    """The READY instances whose address can stand on a line of text."""
    return [i for i in view.ready if i.endpoint and _HOST.fullmatch(i.endpoint.host) and 0 < i.endpoint.http_port < 65536]


def is_complete(view: FleetView) -> bool:
    """False while an instance that an earlier AM launched has not said yet what it is: it may be serving and is not listed."""
    return not any(
        i.container_id is not None and not i.incarnation and not i.phase.is_over and i.asked_at < view.started_at for i in view.instances
    )


def instances_text(view: FleetView) -> bytes:
    """`host:port` of each READY instance's HTTP port, a line each: what the HAProxy script and its Java forerunner read."""
    return "".join(f"{i.endpoint.http}\n" for i in offered(view) if i.endpoint).encode()


def instances_json(view: FleetView) -> dict[str, Any]:
    """The same list with every port, the node and the models that are READY."""
    return {"version": view.listing_version, "complete": is_complete(view), "instances": [_offer(i) for i in offered(view)]}


def _offer(instance: Instance) -> dict[str, Any]:
    endpoint = instance.endpoint
    assert endpoint is not None
    return {
        "container_id": instance.container_id,
        "host": endpoint.host,
        "http_port": endpoint.http_port,
        "grpc_port": endpoint.grpc_port,
        "metrics_port": endpoint.metrics_port,
        "node": instance.node,
        "models": sorted({model.name for model in instance.models if model.state == "READY"}),
        "since": _plain(instance.since_at),
    }


def config(settings: AmSettings) -> dict[str, Any]:
    """The settings in force. Values of tritonserver's environment are left out, and those of arguments not known to be harmless."""
    shown = redacted(settings)
    shown["env"] = [f"{pair.partition('=')[0]}=(set)" for pair in settings.env]
    shown["triton_args"] = [_argument(text) for text in settings.triton_args]
    shown["model_repository"] = _USER_INFO.sub("//(hidden)@", settings.model_repository)
    plain = _plain(shown)
    assert isinstance(plain, dict)
    return plain


def _argument(text: str) -> str:
    name, equals, _ = text.partition("=")
    if not _ARGUMENT.fullmatch(name):
        return "(set)"  # the value of the argument before it, or what nobody can tell
    return text if not equals or _HARMLESS.fullmatch(name) else f"{name}=(set)"


def _plain(value: Any) -> Any:
    convert = _CONVERSIONS.get(type(value))
    if convert is None:
        convert = _CONVERSIONS[type(value)] = _conversion(type(value))
    return convert(value)


def _conversion(kind: type) -> Callable[[Any], Any]:
    """How values of this type become JSON; found once for each type."""
    if dataclasses.is_dataclass(kind):
        names = [field.name for field in dataclasses.fields(kind)]
        return lambda value: {name: _plain(getattr(value, name)) for name in names}
    if issubclass(kind, Enum):
        return lambda value: value.value
    if issubclass(kind, Mapping):
        return lambda value: {str(_plain(key)): _plain(item) for key, item in value.items()}
    if issubclass(kind, tuple | list | frozenset | set):
        return lambda value: [_plain(item) for item in value]
    if issubclass(kind, float):
        return lambda value: value if math.isfinite(value) else None
    return lambda value: value if value is None or isinstance(value, bool | int | str) else str(value)


_CONVERSIONS: dict[type, Callable[[Any], Any]] = {}
