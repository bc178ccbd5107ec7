"""`tarn config`: the settings that the Application Master runs with."""

from __future__ import annotations

import sys
from typing import Any

import click

from tarn_am.cli import render
from tarn_am.cli.client import AmClient
from tarn_am.cli.options import json_option, with_am


@click.command("config", short_help="Show the settings of the AM.", epilog="\b\nExamples:\n  tarn config\n  tarn config --json")
@with_am
@json_option
def command(client: AmClient, as_json: bool) -> None:
    """Show the settings that the Application Master runs with; secrets are blanked."""
    settings = client.config()
    if as_json:
        render.print_json(settings)
    else:
        click.echo(
            render.table(("SETTING", "VALUE"), [(name, _text(value)) for name, value in settings.items()], render.colourful(sys.stdout))
        )


def _text(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(str(item) for item in value) or "-"
    return "-" if value in ("", None) else str(value)
