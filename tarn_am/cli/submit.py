"""`tarn submit`: brings an application to YARN, shows how it comes up, and leaves it: it lives on without this command.

Until YARN has accepted it, Ctrl-C takes everything back; afterwards it only ends the watching.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import secrets
import time
from pathlib import Path
from typing import Any

import click

from tarn_am.cli import fleet, render, toml, waiting
from tarn_am.cli.client import AmClient
from tarn_am.cli.find import application_token, read_token
from tarn_am.cli.options import TOKEN_WARNING, load, merged, of_settings
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.cli.render import Progress
from tarn_am.cluster.yarn.settings import YarnSettings
from tarn_am.settings import AmSettings
from tarn_am.submission.settings import SubmitSettings, Wait
from tarn_common import logs
from tarn_common.zk_login import LoginError, parse_login

_OF_THE_ARCHIVE = ("archive", "archive_bytes", "archive_mtime_ms", "archive_visibility")
_ANYWHERE = "0.0.0.0"
_LOOK_S = 0.1
# Flags of the Java TARN whose work is not done here yet: (flag, what it would do, whether the application may run without).
_LATER = (
    ("scale_up", "load above which instances are added", True),
    ("scale_down", "load below which instances are taken away", True),
    ("cooldown", "milliseconds between two such steps", True),
    ("secrets", "credential store with secrets for the models", False),
    ("ranger_service", "Ranger service that authorizes", False),
    ("ranger_app_id", "application id at Ranger", False),
    ("ranger_audit", "whether Ranger audits", False),
)


def _java_flags(body: Any) -> Any:
    for name, what, _ in reversed(_LATER):
        body = click.option("--" + name.replace("_", "-"), name, metavar="TEXT", help=f"{what}; of the Java TARN, not built yet")(body)
    return click.option("--jar", hidden=True)(body)


@click.command(
    "submit",
    short_help="Run an application on YARN.",
    epilog="\b\nExamples:\n  tarn submit --model-repository hdfs:///models --image registry:5000/triton:25.01\n"
    "  tarn submit --config fleet.toml --queue ml --min-instances 4 --wait none\n"
    "  tarn submit --model-repository hdfs:///models --runtime process --gpus 0 --dry-run",
)
@of_settings(AmSettings)
@of_settings(YarnSettings, leave_out=_OF_THE_ARCHIVE)
@of_settings(SubmitSettings)
@_java_flags
@click.option("--config", "config", metavar="FILE", help="options from a TOML file; its keys are the flags' names  [TARN_CONFIG]")
@click.option("--token", metavar="TEXT", help="the API token itself; seen in the process list, so prefer --token-file")
@click.option(
    "--no-token",
    is_flag=True,
    envvar="TARN_NO_TOKEN",
    show_envvar=True,
    help="no token: whoever reaches the API may read it; orders are taken from the AM's node alone",
)
@click.option(
    "--dry-run",
    is_flag=True,
    envvar="TARN_DRY_RUN",
    show_envvar=True,
    help="check everything and print what would be sent; nothing is made",
)
@click.option("--json", "as_json", is_flag=True, envvar="TARN_JSON", show_envvar=True, help="print JSON, for programs")
@click.pass_context
def command(ctx: click.Context, /, **given: Any) -> int:
    """Run an application on YARN: stage it, submit it, and watch it until its instances are ready.

    The application lives on when this command ends, however it ends; `tarn stop` or `tarn kill` end it.
    """
    given = merged(ctx, given)
    wish_settings = _settings(given)
    return _Submission(*wish_settings, given).run()


def _settings(given: dict[str, Any]) -> tuple[AmSettings, YarnSettings, SubmitSettings]:
    _check_java(given)
    classes = (AmSettings, YarnSettings, SubmitSettings)
    from_file = _from_file(given, [field for cls in classes for field in dataclasses.fields(cls) if field.name not in _hidden(cls)])
    try:
        own = load(SubmitSettings, given)
        _join_parallelism(given, own)
        # On a cluster the agents come from other machines, and several masters may share one node.
        given.setdefault("bind", None)
        given["bind"] = given["bind"] or os.environ.get("TARN_AM_BIND") or _ANYWHERE
        given["am_port"] = given.get("am_port") or os.environ.get("TARN_AM_PORT") or "0"
        return load(AmSettings, given), load(YarnSettings, {name: value for name, value in given.items() if name != "archive"}), own
    except CommandError as error:
        flag = str(error).partition("=")[0].removeprefix("--").replace("-", "_")
        if flag in from_file:
            raise CommandError(error.outcome, f"{given['config']}: {error}", error.fix) from error
        raise


def _hidden(cls: type[Any]) -> tuple[str, ...]:
    return _OF_THE_ARCHIVE if cls is YarnSettings else ()


def _from_file(given: dict[str, Any], fields: list[Any]) -> set[str]:
    """Puts what the file says where neither a flag nor a variable does; returns those names."""
    name = given.get("config") or os.environ.get("TARN_CONFIG")
    if not name:
        return set()
    given["config"] = name
    found = toml.read(Path(name), [field.name for field in fields])
    variables = {field.name: field.metadata["about"].env for field in fields}
    taken = {key for key in found if given.get(key) in (None, ()) and not os.environ.get(variables[key])}
    given.update({key: found[key] for key in taken})
    return taken


def _check_java(given: dict[str, Any]) -> None:
    if given.get("jar"):
        raise CommandError(
            Outcome.USAGE, "--jar is of the Java TARN", "TARN is no jar: leave it out, or give --archive (`tarn archive` builds it)"
        )
    for name, what, harmless in _LATER:
        if given.get(name) is None:
            continue
        flag = "--" + name.replace("_", "-")
        if not harmless:
            raise CommandError(Outcome.USAGE, f"{flag} ({what}) is not built yet, and nobody should rely on it in vain", "leave it out")
        click.echo(f"tarn submit: {flag} has no effect yet: `tarn scale` sets the number of instances", err=True)


def _join_parallelism(given: dict[str, Any], own: SubmitSettings) -> None:
    """`--tp 2 --pp 2` is four GPUs an instance."""
    product = own.tp * own.pp
    if product == 1:
        return
    gpus = given.get("gpus") or os.environ.get("TARN_GPUS")
    if gpus and str(gpus) != str(product):
        raise CommandError(Outcome.USAGE, f"--gpus={gpus} contradicts --tp {own.tp} times --pp {own.pp}", f"leave it out: it is {product}")
    given["gpus"] = str(product)


class _Submission:
    """One run of the command."""

    def __init__(self, am: AmSettings, yarn: YarnSettings, own: SubmitSettings, given: dict[str, Any]) -> None:
        self._am, self._yarn, self._own, self._given = am, yarn, own, given
        self._progress = Progress()
        self._deadline = time.monotonic() + own.wait_s

    def run(self) -> int:
        # Here and not at the top, so that `tarn submit --help` and a wrong flag answer at once.
        from tarn_am.archive.parts import ArchiveError
        from tarn_am.submission.errors import SubmissionError

        logs.configure("ERROR")
        try:
            return asyncio.run(self._run())
        except (SubmissionError, ArchiveError) as error:
            raise CommandError(Outcome.FAILED, str(error)) from error
        finally:
            self._progress.clear()

    async def _run(self) -> int:
        from tarn_am.submission import conf
        from tarn_am.submission.plan import Wish, repository
        from tarn_am.submission.submitter import Submitter

        token = self._token()
        found = conf.read(self._own.hadoop_conf_dir, os.environ)
        am = dataclasses.replace(self._am, model_repository=repository(self._am.model_repository, found.conf.default_fs))
        submitter = Submitter(found, Wish(am, self._yarn, self._own, self._secrets(token)), conf.user(found.conf, os.environ))
        try:
            self._progress.show(f"asking the ResourceManager at {submitter.addresses}")
            application_id = await submitter.check()
            archive = await asyncio.to_thread(self._archive)
            if self._given["dry_run"]:
                sent = await submitter.dry(application_id, archive)
                self._progress.clear()
                render.print_json(sent)
                return Outcome.OK
            report = await submitter.submit(application_id, archive, self._progress.show)
            _keep_token(application_id, token)
            self._say(f"{application_id} is accepted in queue {report.queue}")
            await submitter.sweep()
            url = "" if self._own.wait is Wait.NONE else await self._until_up(submitter, application_id)
            return await asyncio.to_thread(self._end, application_id, url, token)
        finally:
            await submitter.close()

    def _archive(self) -> Path | str:
        """The given archive, or one of what is installed here, built once."""
        from tarn_am.archive.build import build, fingerprint

        given = self._own.archive
        if "://" in given:
            return given
        if given:
            path = Path(given).expanduser().absolute()
            if not path.is_file():
                raise CommandError(Outcome.USAGE, f"--archive={given!r} is no file ({path})", "`tarn archive` builds one")
            return path
        path = _cache_directory() / f"tarn-{fingerprint()}.tar.gz"
        if not path.is_file():
            self._progress.show("building the archive of TARN (once)")
            path.parent.mkdir(parents=True, exist_ok=True)
            build(path)
        return path

    def _token(self) -> str | None:
        given, settings = self._given, self._am
        if given["no_token"]:
            if settings.token_file or given.get("token"):
                raise CommandError(
                    Outcome.USAGE, "--no-token contradicts the token that is given (--token, --token-file or TARN_TOKEN_FILE)"
                )
            return None
        if given.get("token"):
            click.echo(TOKEN_WARNING, err=True)
            return str(given["token"])
        return read_token(Path(settings.token_file).expanduser()) if settings.token_file else secrets.token_urlsafe(24)

    def _secrets(self, token: str | None) -> dict[str, bytes]:
        from tarn_am.submission.submitter import API_TOKEN
        from tarn_common.credentials import ZK_DIGEST

        held = {API_TOKEN: token.encode()} if token else {}
        if self._am.zk_auth and not self._am.zk_digest_file:
            raise CommandError(Outcome.USAGE, f"--zk-auth={self._am.zk_auth} needs --zk-digest-file", "give a file with user:password")
        if self._am.zk_digest_file:
            held[ZK_DIGEST] = self._zookeeper_pair(self._am.zk_digest_file).encode()
        return held

    def _zookeeper_pair(self, path: str) -> str:
        """Looked at here, where somebody sees it at once."""
        try:
            return parse_login(read_token(Path(path).expanduser()), self._am.zk_auth).pair
        except LoginError as error:
            raise CommandError(Outcome.USAGE, f"the content of --zk-digest-file={path} {error}", "write one line, user:password") from error

    async def _until_up(self, submitter: Any, application_id: Any) -> str:
        """The base URL of the Application Master's API, once it is registered."""
        while True:
            report = await submitter.rm.report(application_id)
            if report.ended:
                await submitter.remove(application_id)
                raise _ended(report)
            if report.state == "RUNNING" and report.url:
                return str(report.url).rstrip("/")
            first = report.diagnostics.strip().splitlines()[:1]
            self._progress.show(f"{report.state.lower()}, attempt {report.attempt}" + (f": {first[0][:200]}" if first else ""))
            if time.monotonic() > self._deadline:
                raise CommandError(
                    Outcome.TIMED_OUT,
                    f"the Application Master of {application_id} did not come up within {self._own.wait_s:g} s ({report.diagnostics.strip()[:300]})",
                    f"it is still tried; `tarn kill {application_id}` ends it",
                )
            await asyncio.sleep(_LOOK_S)

    def _end(self, application_id: Any, url: str, token: str | None) -> int:
        if url:
            client = AmClient(url, token, 10.0, f"the ResourceManager's report of {application_id}", "`tarn list` shows what YARN says")
            self._say(f"the Application Master answers: {url}/dashboard")
            if self._own.wait is Wait.READY:
                self._watch(client)
        if self._given["as_json"]:
            render.print_json({"application_id": application_id, "http": url or None})
        else:
            click.echo(f"  tarn --application {application_id} status")
        return Outcome.OK

    def _watch(self, client: AmClient) -> None:
        wanted = self._am.min_instances
        status = waiting.until(
            client, lambda found: fleet.settled(found, wanted), max(0.0, self._deadline - time.monotonic()), f"{wanted} READY instances"
        )
        for one in fleet.instances(status):
            self._say(f"instance {fleet.short(one['container_id'])} is READY at {fleet.address(one)}")

    def _say(self, sentence: str) -> None:
        if not self._given["as_json"]:
            self._progress.clear()
            click.echo(sentence)


def _ended(report: Any) -> CommandError:
    said = " ".join(report.diagnostics.split())[:600] or "no reason is given"
    return CommandError(Outcome.FAILED, f"{report.application_id} ended as {report.state} ({report.final}): {said}")


def _cache_directory() -> Path:
    if given := os.environ.get("TARN_CACHE_DIR"):
        return Path(given).absolute() / "archives"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()) / "tarn" / "archives"


def _keep_token(application_id: Any, token: str | None) -> None:
    """Where the other verbs find it."""
    if token is None:
        return
    path = application_token(application_id)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(token + "\n")
