"""Answers one request many times, as a language model answers token by token."""

from __future__ import annotations

import threading
import time
from typing import Any

import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    """Each request streams from a thread of its own, so that a slow one holds no other up; the end of the model waits for all."""

    def initialize(self, args: dict[str, str]) -> None:
        self._streams: list[threading.Thread] = []

    def execute(self, requests: list[pb_utils.InferenceRequest]) -> None:
        self._streams = [stream for stream in self._streams if stream.is_alive()]
        for request in requests:
            values = pb_utils.get_input_tensor_by_name(request, "INPUT").as_numpy()
            interval = pb_utils.get_input_tensor_by_name(request, "INTERVAL")
            interval_s = float(interval.as_numpy()[0]) if interval is not None else 0.0
            stream = threading.Thread(target=self._stream, args=(request.get_response_sender(), values, interval_s))
            stream.start()
            self._streams.append(stream)

    def _stream(self, sender: pb_utils.InferenceResponseSender, values: Any, interval_s: float) -> None:
        for at in range(len(values)):
            if at:
                time.sleep(interval_s)
            sender.send(pb_utils.InferenceResponse([pb_utils.Tensor("OUTPUT", values[at : at + 1])]))
        sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def finalize(self) -> None:
        for stream in self._streams:
            stream.join()
