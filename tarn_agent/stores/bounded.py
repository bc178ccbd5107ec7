"""Blocking calls that may never come back: a dead mount, a frozen NameNode, a library without time-outs.

Such a call cannot be cancelled. It runs in a daemon thread that is left behind when its deadline passes, so that neither the
agent nor the end of the process waits for it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

from tarn_agent.ports import StageError

T = TypeVar("T")


class Outcome:
    """What a call in a daemon thread came to."""

    def __init__(self, call: Callable[[], object], on_end: Callable[[Outcome], None] | None = None) -> None:
        self.value: object = None
        self.error: BaseException | None = None
        self._call, self._on_end = call, on_end
        self._ended = threading.Event()
        threading.Thread(target=self._run, name="staging", daemon=True).start()

    def _run(self) -> None:
        try:
            self.value = self._call()
        except BaseException as error:  # noqa: BLE001  (handed over to whoever waits; a Rust panic is no Exception)
            self.error = error
        self._ended.set()
        if self._on_end is not None:
            self._on_end(self)

    def wait(self, deadline_s: float) -> bool:
        return self._ended.wait(deadline_s)


def bounded(call: Callable[[], T], deadline_s: float, what: str) -> T:
    """The call's result or error; a StageError (retry=True) naming `what` once `deadline_s` has passed."""
    outcome = Outcome(call)
    if not outcome.wait(deadline_s):
        raise StageError(f"{what} did not answer within {deadline_s:g} s", retry=True)
    if outcome.error is not None:
        raise outcome.error
    return outcome.value  # type: ignore[return-value]
