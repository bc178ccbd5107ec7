"""Hangs while it loads, until the file that the environment's TEST_RELEASE names is there."""

from __future__ import annotations

import os
import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        while not os.path.exists(os.environ.get("TEST_RELEASE", "")):
            time.sleep(0.05)

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [pb_utils.InferenceResponse([pb_utils.get_input_tensor_by_name(request, "DELAY")]) for request in requests]
