"""Tells a person at the terminal of `tarn local` what the fleet does, in sentences, as it happens.

A thread that asks the HTTP API like any other client: what it says is what everybody sees, and a slow terminal holds up
nobody.
"""

from __future__ import annotations

import threading
from typing import Any

from tarn_am.cli import example, fleet, waiting
from tarn_am.cli.client import AmClient
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.cli.render import Progress

_QUIET_S = 2.0
"""How late a person may hear of something while all is as wanted; what serves and what does not is told at once."""


class Narrator:
    """Begins with `start`; ends by itself when the API does."""

    def __init__(self, client: AmClient, progress: Progress) -> None:
        self._client, self._progress = client, progress
        self._thread = threading.Thread(target=self._tell, name="narrator", daemon=True)
        self._example_told = False

    def start(self) -> None:
        self._thread.start()

    def join(self, deadline_s: float) -> None:
        self._thread.join(deadline_s)
        self._progress.clear()

    def _tell(self) -> None:
        before: dict[str, Any] | None = None
        try:
            while True:
                status = self._client.status() if before is None else self._next(before)
                for sentence in fleet.news(before, status):
                    self._progress.say(sentence)
                self._show(status)
                before = status
        except CommandError as error:
            if error.outcome is not Outcome.UNREACHABLE:
                self._progress.say(f"(no more news: {error.line})")
        finally:
            self._progress.clear()

    def _next(self, before: dict[str, Any]) -> dict[str, Any]:
        settled = fleet.settled(before, before["counts"]["wanted"]) or before["halted"]
        resting = settled and not before["shutting_down"]
        return waiting.next_status(self._client, before, _QUIET_S) if resting else waiting.next_status(self._client, before)

    def _show(self, status: dict[str, Any]) -> None:
        staging = " · ".join(fleet.progress(one) for one in status["instances"] if one["phase"] == "STAGING" and one["staging"])
        if staging:
            self._progress.show(staging)
        if not self._example_told:
            self._tell_example(status)

    def _tell_example(self, status: dict[str, Any]) -> None:
        for one in status["instances"]:
            # The simplest of the example models first, where it is there.
            names = sorted((m["name"] for m in one["models"] if m["state"] == "READY"), key=lambda name: (name != "identity", name))
            if one["phase"] == "READY" and one["endpoint"] and names:
                self._example_told = True
                self._progress.say(f"  infer:     {example.command(one['endpoint']['host'], one['endpoint']['http_port'], names[0])}")
                return
