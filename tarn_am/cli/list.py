"""`tarn list`: TARN's applications as YARN tells them."""

from __future__ import annotations

import dataclasses
import sys
import time

import click

from tarn_am.cli import render
from tarn_am.cli.options import json_option


@click.command("list", short_help="List the applications on YARN.", epilog="\b\nExamples:\n  tarn list\n  tarn list --all --json")
@click.option("--all", "everything", envvar="TARN_ALL", show_envvar=True, is_flag=True, help="also those that are over")
@click.option("--hadoop-conf-dir", default="", metavar="DIR", help="Hadoop's configuration directory  [HADOOP_CONF_DIR]")
@json_option
def command(everything: bool, hadoop_conf_dir: str, as_json: bool) -> None:
    """List TARN's applications on the cluster that HADOOP_CONF_DIR names, everybody's, the youngest first."""
    # Here and not at the top, so that --help answers at once.
    from tarn_am.cli import through_yarn

    found = through_yarn.ask(lambda rm, _: rm.applications(living=not everything), hadoop_conf_dir)
    if as_json:
        render.print_json([dataclasses.asdict(report) for report in found])
        return
    now = time.time()
    rows = [
        (
            report.application_id,
            report.name,
            report.user,
            report.queue,
            report.state,
            render.age(now - report.started_at),
            report.url or "-",
        )
        for report in found
    ]
    click.echo(render.table(("APPLICATION", "NAME", "USER", "QUEUE", "STATE", "AGE", "ADDRESS"), rows, render.colourful(sys.stdout)))
