"""`tarn scale N`: sets the number of instances."""

from __future__ import annotations

from typing import Any

import click

from tarn_am.cli import fleet, render, waiting
from tarn_am.cli.client import AmClient
from tarn_am.cli.options import json_option, wait_options, with_am
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.cli.words import Count


@click.command(
    "scale", short_help="Set the number of instances.", epilog="\b\nExamples:\n  tarn scale 3\n  tarn scale 1 --wait --wait-s 120"
)
@with_am
@click.argument("instances", type=Count("instances", 10_000), metavar="N")
@wait_options(600.0)
@json_option
def command(client: AmClient, instances: int, wait: bool, wait_s: float, as_json: bool) -> None:
    """Set the number of instances to N, within --min-instances and --max-instances.

    New ones are added until N are READY; the surplus is drained, so no request is lost.
    """
    client.scale(instances)
    status = client.status()
    if wait:
        status = waiting.until(client, lambda now: _done(now, instances), wait_s, f"{instances} READY instances")
    if as_json:
        render.print_json(status)
    else:
        click.echo(_sentence(status, instances))


def _done(status: dict[str, Any], wanted: int) -> bool:
    if status["counts"]["wanted"] != wanted:
        raise CommandError(Outcome.FAILED, f"somebody set the number of instances to {status['counts']['wanted']} meanwhile")
    return fleet.settled(status, wanted)


def _sentence(status: dict[str, Any], wanted: int) -> str:
    ready = status["counts"]["ready"]
    if fleet.settled(status, wanted):
        return f"{ready} of {wanted} instances READY"
    return f"the target is {wanted}; {ready} READY now (`tarn status` shows the rest, --wait waits for it)"
