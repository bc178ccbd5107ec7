"""`tarn instances`: where requests may be sent now."""

from __future__ import annotations

import sys
from typing import Any

import click

from tarn_am.cli import render
from tarn_am.cli.client import AmClient
from tarn_am.cli.options import json_option, with_am


@click.command(
    "instances",
    short_help="List the instances that serve.",
    epilog="\b\nExamples:\n  tarn instances\n  tarn instances --addresses\n  tarn instances --json | jq -r '.instances[].http_port'",
)
@with_am
@json_option
@click.option(
    "--addresses",
    is_flag=True,
    envvar="TARN_ADDRESSES",
    show_envvar=True,
    help="print host:port of the HTTP port alone, one a line, as a balancer reads it",
)
def command(client: AmClient, as_json: bool, addresses: bool) -> None:
    """List the instances that are READY, with their addresses and models.

    Only these may be sent requests. `tarn status` shows the others too.
    """
    listing = client.instances()
    if as_json:
        render.print_json(listing)
    elif addresses:
        for one in listing["instances"]:
            click.echo(f"{_host(one['host'])}:{one['http_port']}")
    elif not listing["instances"]:
        click.echo("no instance is READY; `tarn status` says why", err=True)
    else:
        click.echo(render.table(_HEADINGS, [_row(one) for one in listing["instances"]], render.colourful(sys.stdout)))


_HEADINGS = ("INSTANCE", "NODE", "HTTP", "GRPC", "METRICS", "MODELS")


def _row(one: dict[str, Any]) -> tuple[str, ...]:
    ports = (f"{_host(one['host'])}:{one[name]}" for name in ("http_port", "grpc_port", "metrics_port"))
    return (one["container_id"], one["node"] or "-", *ports, ", ".join(one["models"]) or "-")


def _host(host: str) -> str:
    return f"[{host}]" if ":" in host else host
