"""Fails to load, with a reason of its own."""

from __future__ import annotations


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        raise RuntimeError("no weights at /models/weights.bin")
