"""`tarn kill`: ends an application through the ResourceManager, whether or not its Application Master answers."""

from __future__ import annotations

import asyncio
import os
import shutil

import click

from tarn_am.cli.find import application_token
from tarn_am.cli.outcome import CommandError, Outcome


@click.command(
    "kill",
    short_help="End an application on YARN at once.",
    epilog="\b\nExamples:\n  tarn kill application_1700000000000_0001\n  tarn kill resnet-fleet",
)
@click.argument("application")
@click.option("--hadoop-conf-dir", default="", metavar="DIR", help="Hadoop's configuration directory  [HADOOP_CONF_DIR]")
@click.option(
    "--staging-dir",
    envvar="TARN_STAGING_DIR",
    show_envvar=True,
    default=".tarn",
    show_default=True,
    metavar="DIR",
    help="as it was given to `tarn submit`",
)
def command(application: str, hadoop_conf_dir: str, staging_dir: str) -> None:
    """End APPLICATION (an id, or a name of yours) at once: requests in flight are lost. `tarn stop` loses none.

    What was staged for it is deleted, also when it is over already.
    """
    # Here and not at the top, so that --help answers at once.
    from tarn_am.cli import through_yarn
    from tarn_am.submission import conf
    from tarn_am.submission.errors import SubmissionError
    from tarn_am.submission.files import files_of
    from tarn_am.submission.resource_manager import ResourceManager

    report = through_yarn.one(application, hadoop_conf_dir)

    async def end(rm: ResourceManager, user: str) -> None:
        while not report.ended:
            if await rm.kill(report.application_id, f"killed by {user} with tarn kill"):
                break
            await asyncio.sleep(0.1)
        found = conf.read(hadoop_conf_dir, os.environ)
        files, base = files_of(found.conf, staging_dir, user, 5.0)
        try:
            await files.delete(f"{base}/{report.application_id}")
        finally:
            await files.close()

    try:
        through_yarn.ask(end, hadoop_conf_dir)
    except SubmissionError as error:
        raise CommandError(Outcome.FAILED, str(error)) from error
    shutil.rmtree(application_token(report.application_id).parent, ignore_errors=True)
    click.echo(f"{report.application_id} was over already ({report.state})" if report.ended else f"{report.application_id} is killed")
