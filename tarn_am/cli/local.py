"""`tarn local`: the Application Master in the foreground, with this machine as its cluster.

The terminal gets sentences, `<state-dir>/logs/am.log` the structured log. The API always has a token: the given one, or one
made here that the other verbs find in the state directory. Ctrl-C drains and ends all, a second one hurries; what is KILLed
leaves its instances serving, and the next `tarn local` on the same state directory takes them over.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from tarn_am.cli import background
from tarn_am.cli.client import AmClient
from tarn_am.cli.find import checked_token, expanded, read_token, state_directory
from tarn_am.cli.narrator import Narrator
from tarn_am.cli.options import TOKEN_WARNING, load, merged, of_settings
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.cli.render import Progress
from tarn_am.core.launch import LaunchError, user_environment
from tarn_am.settings import AmSettings
from tarn_common.endpoint import Rendezvous
from tarn_common.repository import RepositoryError, check_launched
from tarn_common.settings import SettingsError

if TYPE_CHECKING:
    from tarn_am.state import StateDir

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
@click.option(
    "--no-token",
    is_flag=True,
    envvar="TARN_NO_TOKEN",
    show_envvar=True,
    help="no token: whoever reaches the API may read it; orders are taken from this machine alone",
)
@click.option(
    "--detach",
    is_flag=True,
    envvar="TARN_DETACH",
    show_envvar=True,
    help="return when the Application Master answers; it runs on, `tarn stop` ends it",
)
@click.option(
    "--verbose",
    is_flag=True,
    envvar="TARN_VERBOSE",
    show_envvar=True,
    help="the Application Master's log on the terminal instead of sentences",
)
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
    if settings.max_instances > 1 and (settings.port or settings.grpc_port or settings.metrics_port):
        raise CommandError(
            Outcome.USAGE,
            "one machine gives a fixed --port, --grpc-port or --metrics-port to one instance",
            "add --max-instances 1, or leave it out",
        )
    try:
        user_environment(settings.env, "--env" if given.get("env") else "TARN_ENV")
        directory = state_directory(settings.name, given.get("state_dir") or os.environ.get("TARN_STATE_DIR", ""))
        token = _given_token(settings, given)
    except (SettingsError, LaunchError) as error:
        raise CommandError(Outcome.USAGE, str(error)) from error
    # Before anything is made there: its path travels into every container.
    try:
        check_launched(str(directory.resolve()))
    except RepositoryError as error:
        raise CommandError(Outcome.USAGE, f"--state-dir={str(directory)!r} cannot be used: {error}") from error
    if given["detach"]:
        return background.start(directory)
    return _run(settings, directory, token, given)


def _repository(given: dict[str, Any]) -> str | None:
    """An existing relative path becomes an absolute one; whatever else is left to the settings and to staging."""
    text: str | None = given.get("model_repository") or os.environ.get("TARN_MODEL_REPOSITORY") or None
    if text is None or "://" in text or text.startswith(("/", "file:")):
        return text
    try:
        path = expanded(text, "--model-repository")
    except SettingsError as error:
        raise CommandError(Outcome.USAGE, str(error)) from error
    if not os.path.isdir(path):  # Path.is_dir raises for a name that is too long
        raise CommandError(
            Outcome.USAGE, f"--model-repository={text!r} is no directory ({path})", "give a directory, or hdfs://host:port/path"
        )
    return str(path)


def _run(settings: AmSettings, directory: Path, token: str | None, given: dict[str, Any]) -> int:
    # Here and not at the top, so that `tarn local --help` and a wrong flag answer at once.
    from tarn_am import daemon
    from tarn_am.cluster import triton_wheel
    from tarn_am.cluster.local import LocalCluster
    from tarn_am.ports import ClusterError
    from tarn_am.state import StateDir, StateError

    progress = Progress(sys.stdout)
    os.umask(0o077)  # whatever is written here is this user's alone
    try:
        state = StateDir(directory)
        # Before anything is written there: another Application Master may have it.
        state.lock()
        settings, token = _with_token(settings, state, token, given)
        _configure_logs(settings, directory, state.application_id, given["verbose"])
        progress.say(f"tarn local: {_plan(settings)}; state and logs in {directory}")
        runtime = triton_wheel.prepare(_cache_directory())
        cluster = LocalCluster(directory, state.application_id, runtime.environ)
        announce = _Announcement(state, settings.token_file, token, progress, given["verbose"], left_over=state.rendezvous() is not None)
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
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()).absolute() / "tarn"
    except RuntimeError as error:
        raise SettingsError("this user has no home directory: set TARN_CACHE_DIR") from error


def _given_token(settings: AmSettings, given: dict[str, Any]) -> str | None:
    """The token of --token or a file, checked; None where none was given. Raises CommandError, and SettingsError."""
    if given["no_token"]:
        if settings.token_file or given.get("token") is not None:
            raise CommandError(Outcome.USAGE, "--no-token contradicts the token that is given (--token, --token-file or TARN_TOKEN_FILE)")
        return None
    if given.get("token") is not None:
        token = checked_token(given["token"])
        click.echo(TOKEN_WARNING, err=True)
        return token
    return read_token(expanded(settings.token_file, "--token-file")) if settings.token_file else None


def _with_token(settings: AmSettings, state: StateDir, token: str | None, given: dict[str, Any]) -> tuple[AmSettings, str | None]:
    """The settings with the file of the API's token, which is made where none was given; and the token. The lock must be held."""
    if given["no_token"]:
        state.forget_token()
        return settings, None
    path = state.token_file
    if settings.token_file and given.get("token") is None:
        path = expanded(settings.token_file, "--token-file")
    elif token is not None:
        state.keep_token(token)
    else:
        state.make_token()
    token = token or read_token(path)
    state.write_curl_header(token)
    return dataclasses.replace(settings, token_file=str(path)), token


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

    def __init__(self, state: StateDir, token_file: str, token: str | None, progress: Progress, verbose: bool, *, left_over: bool) -> None:
        self._state, self._token_file, self._token, self._progress = state, token_file, token, progress
        self._verbose, self._left_over = verbose, left_over
        self._narrator: Narrator | None = None

    def __call__(self, at: Rendezvous) -> None:
        say, base = self._progress.say, at.http.rstrip("/")
        if self._left_over:
            say("an Application Master died here; this one takes over what still runs")
        say(f"  dashboard: {base}/dashboard" + (f"  (its token is in {self._token_file})" if self._token else ""))
        say(f"  instances: curl {self._header()}{base}/instances")
        say("  Ctrl-C drains all and ends")
        if not self._verbose:
            self._narrator = Narrator(AmClient(base, self._token), self._progress)
            self._narrator.start()

    def _header(self) -> str:
        """What reads the token without showing it."""
        return f"-H {shlex.quote(f'@{self._state.curl_header_file}')} " if self._token else ""

    def end(self) -> None:
        if self._narrator is not None:
            self._narrator.join(0.5)
