"""Finding an application, and its Application Master, through the ResourceManager: by id, or by name among the caller's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import TypeVar

from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.submission import conf
from tarn_am.submission.errors import SubmissionError
from tarn_am.submission.resource_manager import Report, ResourceManager
from tarn_common import logs
from tarn_common.hadoop_conf import HadoopConfError
from tarn_common.ids import ApplicationId, IdError, application_id

T = TypeVar("T")
_PATIENCE_S = 5.0


def configured(environ: Mapping[str, str]) -> bool:
    """Whether this machine knows a cluster without being told on the command line."""
    return any(environ.get(name) for name in ("HADOOP_CONF_DIR", "YARN_CONF_DIR"))


def checked_id(text: str) -> ApplicationId:
    """Raises CommandError with exit code 2."""
    try:
        return application_id(text)
    except IdError as error:
        raise CommandError(Outcome.USAGE, str(error), "`tarn list` shows them") from error


def ask(question: Callable[[ResourceManager, str], Awaitable[T]], conf_dir: str = "", patience_s: float = _PATIENCE_S) -> T:
    """One question to the ResourceManager, as this user. Raises CommandError."""

    async def asked() -> T:
        found = conf.read(conf_dir, os.environ)
        user = conf.user(found.conf, os.environ)
        rm = ResourceManager(found.conf, user, patience_s)
        try:
            return await question(rm, user)
        finally:
            await rm.close()

    logs.configure("ERROR")
    try:
        return asyncio.run(asked())
    except (SubmissionError, HadoopConfError) as error:
        raise CommandError(Outcome.UNREACHABLE, str(error)) from error


def one(text: str, conf_dir: str = "") -> Report:
    """The application of that id, or the caller's living one of that name. Raises CommandError where there is none, or several."""
    if text.startswith("application_"):
        name = checked_id(text)
        return ask(lambda rm, _: rm.report(name), conf_dir)
    found = ask(lambda rm, user: rm.applications(name=text, user=user), conf_dir)
    if not found:
        raise CommandError(
            Outcome.UNREACHABLE, f"no application of yours with the name {text!r} lives on the cluster", "`tarn list` shows all"
        )
    if len(found) > 1:
        ids = ", ".join(report.application_id for report in found)
        raise CommandError(Outcome.USAGE, f"{len(found)} applications have the name {text!r}: {ids}", "say which with --application")
    return found[0]


def address(report: Report) -> str:
    """The base URL of its Application Master. Raises CommandError while there is none, and when there is none any more."""
    if report.ended:
        said = " ".join(report.diagnostics.split())[:300]
        raise CommandError(
            Outcome.UNREACHABLE,
            f"{report.application_id} is over: {report.state}, {report.final}" + (f" ({said})" if said else ""),
            "`tarn submit` starts another",
        )
    if report.state != "RUNNING" or not report.url:
        said = " ".join(report.diagnostics.split())[:300]
        raise CommandError(
            Outcome.UNREACHABLE,
            f"the Application Master of {report.application_id} is not up yet: {report.state.lower()}" + (f" ({said})" if said else ""),
            "ask again in a moment",
        )
    return report.url.rstrip("/")
