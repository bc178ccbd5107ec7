"""`tarn archive`: builds the archive that carries TARN to nodes whose Python or machine is not this one's."""

from __future__ import annotations

from pathlib import Path

import click

from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.cli.render import size
from tarn_common import __version__


@click.command(
    "archive",
    short_help="Build the archive that carries TARN to a cluster's nodes.",
    epilog="\b\nExamples:\n  tarn archive\n  tarn archive --python 3.10 --python 3.12 -o tarn.tar.gz\n"
    "  tarn archive --python 3.10,3.11 --machine aarch64 --wheels /srv/wheels\n  tarn submit --archive tarn.tar.gz …",
)
@click.option(
    "--python",
    "pythons",
    envvar="TARN_ARCHIVE_PYTHONS",
    show_envvar=True,
    multiple=True,
    metavar="3.X",
    help="a Python of the nodes; may be repeated  [default: this one]",
)
@click.option(
    "--machine",
    envvar="TARN_ARCHIVE_MACHINE",
    show_envvar=True,
    default="",
    metavar="NAME",
    help="x86_64 or aarch64  [default: this machine's]",
)
@click.option(
    "--wheels",
    envvar="TARN_ARCHIVE_WHEELS",
    show_envvar=True,
    metavar="DIR",
    help="take the packages from this directory of wheels, not from pip's index",
)
@click.option(
    "-o",
    "--output",
    envvar="TARN_ARCHIVE_OUTPUT",
    show_envvar=True,
    metavar="FILE",
    help=f"where it goes  [default: tarn-{__version__}.tar.gz here]",
)
def command(pythons: tuple[str, ...], machine: str, wheels: str | None, output: str | None) -> None:
    """Build the archive that carries TARN and its dependencies to a cluster's nodes.

    Without --python it holds what is installed here. The nodes need a Python 3.10 to 3.13 and nothing else. `tarn submit`
    builds one by itself when none is given.
    """
    # Here and not at the top: `tarn archive --help` need not wait for what reads packages.
    from tarn_am.archive.build import build, checked_python
    from tarn_am.archive.parts import ArchiveError

    wanted = [part.strip() for text in pythons for part in text.split(",") if part.strip()]
    try:
        built = build(
            Path(output or f"tarn-{__version__}.tar.gz").absolute(),
            sorted({checked_python(text) for text in wanted}),
            machine,
            _directory(wheels),
        )
    except ArchiveError as error:
        raise CommandError(Outcome.FAILED, str(error)) from error
    click.echo(f"{built.path}: {size(built.size)}, for Python {', '.join(built.pythons)}")
    click.echo(f"sha256 {built.digest}")


def _directory(text: str | None) -> Path | None:
    if text is None:
        return None
    path = Path(text).absolute()
    if not path.is_dir():
        raise CommandError(Outcome.USAGE, f"--wheels={text!r} is no directory")
    return path
