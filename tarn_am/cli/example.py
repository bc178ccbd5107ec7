"""A request that a person can paste: made from what a served model says of its inputs. `body` is pure."""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from math import prod
from typing import Any

_ELEMENTS = 64
_VALUES = {"BOOL": True, "BYTES": "text", "FP16": 1.0, "FP32": 1.0, "FP64": 1.0}


def body(metadata: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON of an inference with ones in every input; None where an input is too large to paste or of no type that JSON has."""
    inputs = []
    for one in metadata.get("inputs", ()):
        shape = [size if size > 0 else 1 for size in (int(n) for n in one["shape"])]
        kind = str(one["datatype"])
        if prod(shape) > _ELEMENTS or not (kind in _VALUES or kind.startswith(("INT", "UINT"))):
            return None
        inputs.append({"name": one["name"], "shape": shape, "datatype": kind, "data": [_VALUES.get(kind, 1)] * prod(shape)})
    return {"inputs": inputs} if inputs else None


def command(host: str, port: int, model: str, timeout_s: float = 2.0) -> str:
    """A curl command for `model`: an inference where one can be made up, else the question what it takes."""
    name = f"[{host}]" if ":" in host else host
    url = f"http://{name}:{port}/v2/models/{model}"
    try:
        connection = http.client.HTTPConnection(host, port, timeout=timeout_s)
        connection.request("GET", f"/v2/models/{model}")
        made = body(json.loads(connection.getresponse().read(1 << 20)))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        made = None  # the metadata may be closed to strangers (--http-restricted-api)
    return f"curl {url}" if made is None else f"curl {url}/infer -d '{json.dumps(made)}'"
