"""Answers after the delay that it is asked for (seconds): a request in flight for as long as a test wants."""

from __future__ import annotations

import time

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def execute(self, requests: list[pb_utils.InferenceRequest]) -> list[pb_utils.InferenceResponse]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: pb_utils.InferenceRequest) -> pb_utils.InferenceResponse:
        delay = pb_utils.get_input_tensor_by_name(request, "DELAY").as_numpy()
        time.sleep(float(delay[0]))
        return pb_utils.InferenceResponse([pb_utils.Tensor("DELAY", delay)])
