"""`tarn local`: the Application Master in the foreground, with this machine as its cluster.

The terminal gets sentences, `<state-dir>/logs/am.log` the structured log. The API always has a token: the given one, or one
made here that the other verbs find in the state directory. Ctrl-C drains and ends all, a second one hurries; what is KILLed
leaves its instances serving, and the next `tarn local` on the same state directory takes them over.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import sys
from pathlib import Path
from typing import Any

import click

from tarn_am.cli import background
from tarn_am.cli.client import AmClient
from tarn_am.cli.find import TOKEN_FILE, read_token, state_directory
from tarn_am.cli.narrator import Narrator
from tarn_am.cli.options import TOKEN_WARNING, load, merged, of_settings
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.cli.render import Progress
from tarn_am.settings import AmSettings
from tarn_common.endpoint import Rendezvous
from tarn_common.settings import SettingsError

_LOG_LIMIT_BYTES = 32 << 20


@click.command(
    "local",
    short_help="Run an application on this machine.",
    epilog="\b\nExamples:\n  tarn local --model-repository examples/models\n"
    "  tarn local --model-repository hdfs://namenode:8020/models --min-instances 2 --max-instances 4\n"
    "  tarn local --name second --model-repository /srv/models --model resnet --am-port 0",
)
@of_settings(AmSettings)
@click.option(
    "--state-dir", metavar="DIR", help="directory of this application's state and logs  [TARN_STATE_DIR; default <name> below $TARN_HOME]"
)
@click.option("--token", metavar="TEXT", help="the API token itself; seen in the process list, so prefer --token-file")
@click.option("--no-token", is_flag=True, help="no token: whoever reaches the API may read it; orders are taken from this machine alone")
@click.option("--detach", is_flag=True, help="return when the Application Master answers; it runs on, `tarn stop` ends it")
@click.option("--verbose", is_flag=True, help="the Application Master's log on the terminal instead of sentences")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> int:
    """Run an application on this machine: the Application Master in the foreground, real Tritons under it.

    Ctrl-C drains all instances and ends; a second Ctrl-C hurries. If this process is killed, the instances serve on, and
    `tarn local` with the same state directory takes them over.
    """
    given = merged(ctx, given)
    for name in ("am", "application"):
        if name in given:
            raise CommandError(Outcome.USAGE, f"--{name} is of no use here", "`tarn local` is the Application Master")
    settings = load(AmSettings, {**given, "model_repository": _repository(given)})
    try:
        directory = state_directory(settings.name, given.get("state_dir") or os.environ.get("TARN_STATE_DIR", ""))
    except SettingsError as error:
        raise CommandError(Outcome.USAGE, str(error)) from error
    if given["detach"]:
        return background.start(directory)
    return _run(settings, directory, given)


def _repository(given: dict[str, Any]) -> str | None:
    """An existing relative path becomes an absolute one; whatever else is left to the settings and to staging."""
    text: str | None = given.get("model_repository") or os.environ.get("TARN_MODEL_REPOSITORY") or None
    if text is None or "://" in text or text.startswith(("/", "file:")):
        return text
    path = Path(text).expanduser().absolute()
    if not path.is_dir():
        raise CommandError(
            Outcome.USAGE, f"--model-repository={text!r} is no directory ({path})", "give a directory, or hdfs://host:port/path"
        )
    return str(path)


def _run(settings: AmSettings, directory: Path, given: dict[str, Any]) -> int:
    # Here and not at the top, so that `tarn local --help` and a wrong flag answer at once.
    from tarn_am import daemon
    from tarn_am.cluster import triton_wheel
    from tarn_am.cluster.local import LocalCluster
    from tarn_am.ports import ClusterError
    from tarn_am.state import StateDir, StateError

    progress = Progress(sys.stdout)
    try:
        state = StateDir(directory)
        settings, token = _with_token(settings, directory, given)
        _configure_logs(settings, directory, state.application_id, given["verbose"])
        progress.say(f"tarn local: {_plan(settings)}; state and logs in {directory}")
        runtime = triton_wheel.prepare(_cache_directory())
        cluster = LocalCluster(directory, state.application_id, runtime.environ)
        announce = _Announcement(settings, token, progress, given["verbose"], left_over=state.rendezvous() is not None)
        try:
            status = asyncio.run(daemon.run(settings, cluster, state, announce))
        finally:
            announce.end()
    except (StateError, ClusterError, daemon.StartError) as error:
        raise CommandError(Outcome.FAILED, str(error)) from error
    except SettingsError as error:
        raise CommandError(Outcome.USAGE, str(error)) from error
    except OSError as error:
        raise CommandError(
            Outcome.FAILED, f"{error.filename or directory}: {error.strerror}", "make room or rights, or choose another --state-dir"
        ) from error
    progress.say(
        "tarn local: everything has ended" if status == 0 else f"tarn local: ended with {status}; {directory}/logs/am.log says why"
    )
    return Outcome.OK if status == 0 else Outcome.FAILED


def _plan(settings: AmSettings) -> str:
    several = f"{settings.min_instances} to {settings.max_instances} instances" if settings.max_instances > 1 else "1 instance"
    models = f" ({', '.join(settings.models)})" if settings.models else ""
    return f"{several} of {settings.model_repository}{models}"


def _cache_directory() -> Path:
    if given := os.environ.get("TARN_CACHE_DIR"):
        return Path(given).absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "tarn"


def _with_token(settings: AmSettings, directory: Path, given: dict[str, Any]) -> tuple[AmSettings, str | None]:
    """The settings with the file of the API's token, which is made where none was given."""
    path = directory / TOKEN_FILE
    if given["no_token"]:
        if settings.token_file or given.get("token"):
            raise CommandError(Outcome.USAGE, "--no-token contradicts the token that is given (--token, --token-file or TARN_TOKEN_FILE)")
        path.unlink(missing_ok=True)
        return settings, None
    if given.get("token"):
        click.echo(TOKEN_WARNING, err=True)
        path.unlink(missing_ok=True)
        _write_private(path, given["token"])
    elif settings.token_file:
        given_file = Path(settings.token_file).expanduser().absolute()
        return dataclasses.replace(settings, token_file=str(given_file)), read_token(given_file)
    elif not path.exists():
        _write_private(path, secrets.token_urlsafe(24))
    return dataclasses.replace(settings, token_file=str(path)), read_token(path)


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text + "\n")


def _configure_logs(settings: AmSettings, directory: Path, application: str, verbose: bool) -> None:
    """JSON into am.log; what an earlier process wrote there is kept, and one file beside it when it has grown large."""
    from tarn_common import logs

    if verbose:
        logs.configure(settings.log_level, application=application)
        return
    (directory / "logs").mkdir(mode=0o700, exist_ok=True)
    path = directory / "logs" / "am.log"
    if path.exists() and path.stat().st_size > _LOG_LIMIT_BYTES:
        path.replace(path.with_suffix(".log.1"))
    # It is open for as long as the process lives.
    logs.configure(settings.log_level, stream=path.open("a", buffering=1), json=True, application=application)


class _Announcement:
    """Called when the Application Master is up: says where, and lets the narrator begin."""

    def __init__(self, settings: AmSettings, token: str | None, progress: Progress, verbose: bool, *, left_over: bool) -> None:
        self._settings, self._token, self._progress = settings, token, progress
        self._verbose, self._left_over = verbose, left_over
        self._narrator: Narrator | None = None

    def __call__(self, at: Rendezvous) -> None:
        say, base = self._progress.say, at.http.rstrip("/")
        if self._left_over:
            say("an Application Master died here; this one takes over what still runs")
        say(f"  dashboard: {base}/dashboard" + (f"  (its token is in {self._settings.token_file})" if self._token else ""))
        say(f"  instances: curl {self._header()}{base}/instances")
        say("  Ctrl-C drains all and ends")
        if not self._verbose:
            self._narrator = Narrator(AmClient(base, self._token), self._progress)
            self._narrator.start()

    def _header(self) -> str:
        """What reads the token without showing it."""
        return f'-H "X-TARN-Token: $(cat {self._settings.token_file})" ' if self._token else ""

    def end(self) -> None:
        if self._narrator is not None:
            self._narrator.join(0.5)
