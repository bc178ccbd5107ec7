"""Waits for the fleet to come to a state, with progress, and within a limit."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tarn_am.cli import fleet
from tarn_am.cli.client import AmClient
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.cli.render import Progress

_LOOK_S = 0.25


def until(client: AmClient, done: Callable[[dict[str, Any]], bool], limit_s: float, what: str) -> dict[str, Any]:
    """The first status for which `done` says yes. Raises CommandError: TIMED_OUT after `limit_s`, FAILED when the AM gave up."""
    deadline = time.monotonic() + limit_s
    progress = Progress()
    status = client.status()
    try:
        while not done(status):
            if status["halted"]:
                raise CommandError(Outcome.FAILED, status["halted"])
            left = deadline - time.monotonic()
            if left <= 0:
                raise CommandError(
                    Outcome.TIMED_OUT,
                    f"{what} did not come within {limit_s:g} s ({fleet.motion(status) or status['verdict']})",
                    "`tarn status` shows how far it is",
                )
            progress.show(fleet.motion(status) or status["verdict"])
            status = next_status(client, status, min(left, _LOOK_S))
        return status
    finally:
        progress.clear()


def next_status(client: AmClient, status: dict[str, Any], wait_s: float = _LOOK_S) -> dict[str, Any]:
    """The status after `status`: at once when the list of READY instances changes, else after `wait_s`."""
    client.instances(status["listing_version"], wait_s)
    return client.status()
