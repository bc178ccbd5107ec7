"""`tarn logs [INSTANCE]`: the logs of Triton, the agent and supervisord, through the AM."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Iterator

import click

from tarn_am.cli import fleet
from tarn_am.cli.client import AmClient
from tarn_am.cli.options import json_option, with_am
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.cli.words import Count, Word


@click.command(
    "logs",
    short_help="Show the log of an instance.",
    epilog="\b\nExamples:\n  tarn logs 2\n  tarn logs -f 2 --source agent\n  tarn logs --lines 20        (all instances)",
)
@with_am
@click.argument("instance", required=False)
@click.option("-f", "--follow", is_flag=True, envvar="TARN_FOLLOW", show_envvar=True, help="go on with what is added, until Ctrl-C")
@click.option(
    "--source",
    envvar="TARN_SOURCE",
    show_envvar=True,
    type=Word(["triton", "agent", "supervisord"]),
    default="triton",
    show_default=True,
    help="whose log",
)
@click.option(
    "-n",
    "--lines",
    envvar="TARN_LINES",
    show_envvar=True,
    type=Count("lines", 10_000),
    default=100,
    metavar="N",
    show_default=True,
    help="begin with so many of the last lines",
)
@json_option
def command(client: AmClient, instance: str | None, follow: bool, source: str, lines: int, as_json: bool) -> None:
    """Show the log of INSTANCE (a container id or its last number), or of all instances, each line with its instance's number.

    With --json each line is an object of its own, {"instance": the container id, "line": the text}.
    """
    known = fleet.placed(client.status())
    if instance is not None:
        wanted = [fleet.resolve(instance, known)]
    elif known:
        wanted = known
    else:
        raise CommandError(Outcome.FAILED, "there is no instance yet", "`tarn status` says what the fleet is at")
    if len(wanted) == 1:
        read: Iterator[tuple[str, str]] = ((wanted[0], line) for line in client.log_lines(wanted[0], source, lines, follow))
    else:
        read = _together(client, wanted, source, lines, follow)
    for container, line in read:
        if as_json:
            click.echo(json.dumps({"instance": container, "line": line}))
        else:
            click.echo(line if len(wanted) == 1 else f"{fleet.short(container):>3} | {line}")


def _together(client: AmClient, containers: list[str], source: str, lines: int, follow: bool) -> Iterator[tuple[str, str]]:
    """The lines of several logs as they come, each with its instance."""
    arrived: queue.SimpleQueue[tuple[str, str] | None] = queue.SimpleQueue()
    for container in containers:
        threading.Thread(target=_read, args=(client, container, source, lines, follow, arrived), daemon=True).start()
    open_logs = len(containers)
    while open_logs:
        line = arrived.get()
        if line is None:
            open_logs -= 1
        else:
            yield line


def _read(
    client: AmClient, container: str, source: str, lines: int, follow: bool, arrived: queue.SimpleQueue[tuple[str, str] | None]
) -> None:
    try:
        for line in client.log_lines(container, source, lines, follow):
            arrived.put((container, line))
    except CommandError as error:
        arrived.put((container, f"(tarn: {error.line})"))
    finally:
        arrived.put(None)
