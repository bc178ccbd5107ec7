"""`tarn drain INSTANCE`: takes one instance out without losing a request."""

from __future__ import annotations

from typing import Any

import click

from tarn_am.cli import fleet, render, waiting
from tarn_am.cli.client import AmClient
from tarn_am.cli.options import json_option, wait_options, with_am
from tarn_am.cli.outcome import CommandError, Outcome


@click.command(
    "drain",
    short_help="Take one instance out.",
    epilog="\b\nExamples:\n  tarn drain container_1700000000000_0001_01_000002\n  tarn drain 2 --wait",
)
@with_am
@click.argument("instance")
@wait_options(300.0)
@json_option
def command(client: AmClient, instance: str, wait: bool, wait_s: float, as_json: bool) -> None:
    """Take INSTANCE out: out of discovery, then its requests finish, then it ends. It is replaced, for the target stays.

    INSTANCE is a container id or its last number.
    """
    container = fleet.resolve(instance, fleet.placed(client.status()))
    client.drain(container)
    status = client.status()
    if wait:
        status = waiting.until(client, lambda now: _over(now, container), wait_s, f"the end of {container}")
        _check(fleet.find(status, container), container)
    if as_json:
        render.print_json(fleet.find(status, container))
    else:
        click.echo(f"{container} " + ("has drained" if wait else "drains"))


def _over(status: dict[str, Any], container: str) -> bool:
    record = fleet.find(status, container)
    return record is None or fleet.is_over(record)


def _check(record: fleet.Record | None, container: str) -> None:
    if record is not None and record["phase"] == "FAILED":
        raise CommandError(Outcome.FAILED, f"{container} ended, but not by draining: {record['reason'] or record['reason_code']}")
