"""`tarn model load|unload|reload INSTANCE MODEL`: one model of one instance."""

from __future__ import annotations

import click

from tarn_am.cli import fleet, render
from tarn_am.cli.client import AmClient
from tarn_am.cli.options import json_option, with_am
from tarn_am.cli.words import Seconds, Word


@click.command(
    "model",
    short_help="Load, unload or reload one model.",
    epilog="\b\nExamples:\n  tarn model reload 2 identity\n  tarn model unload container_1700000000000_0001_01_000002 identity",
)
@with_am
@click.argument("action", type=Word(["load", "unload", "reload"]), metavar="load|unload|reload")
@click.argument("instance")
@click.argument("model")
@click.option(
    "--wait-s",
    envvar="TARN_WAIT_S",
    show_envvar=True,
    type=Seconds(),
    default=600.0,
    metavar="SECONDS",
    show_default=True,
    help="longest wait for the model",
)
@json_option
def command(client: AmClient, action: str, instance: str, model: str, wait_s: float, as_json: bool) -> None:
    """Load, unload or reload MODEL in INSTANCE, and wait until Triton has done it.

    A new version is loaded before the old one leaves, so no request fails. INSTANCE is a container id or its last number.
    """
    container = fleet.resolve(instance, fleet.placed(client.status()))
    answer = client.model(container, action, model, wait_s)
    if as_json:
        render.print_json(answer)
    else:
        click.echo(f"{model} {action}ed in {container}")
