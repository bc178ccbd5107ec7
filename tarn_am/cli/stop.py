"""`tarn stop`: drains everything and ends the application."""

from __future__ import annotations

import time

import click

from tarn_am.cli import fleet, render
from tarn_am.cli.client import AmClient
from tarn_am.cli.options import json_option, wait_options, with_am
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.cli.render import Progress

_LOOK_S = 0.2


@click.command("stop", short_help="Drain everything and end.", epilog="\b\nExamples:\n  tarn stop\n  tarn stop --no-wait")
@with_am
@wait_options(300.0, by_default=True)
@json_option
def command(client: AmClient, wait: bool, wait_s: float, as_json: bool) -> None:
    """Drain every instance, so that no request is lost, and end the application."""
    client.stop()
    if wait:
        _until_gone(client, wait_s)
    if as_json:
        render.print_json({"stopping": True, "ended": wait})
        return
    click.echo("the application has ended" if wait else "the application drains and ends")


def _until_gone(client: AmClient, limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    progress = Progress()
    try:
        while True:
            try:
                progress.show(fleet.motion(client.status()) or "nothing runs any more; the Application Master ends")
            except CommandError as error:
                if error.outcome is not Outcome.UNREACHABLE:
                    raise
                if not client.answers():
                    return
            if time.monotonic() > deadline:
                raise CommandError(
                    Outcome.TIMED_OUT, f"the application still runs after {limit_s:g} s", "`tarn status` shows what it waits for"
                )
            time.sleep(_LOOK_S)
    finally:
        progress.clear()
