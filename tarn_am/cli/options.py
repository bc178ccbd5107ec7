"""Command line options made from settings classes, so that a flag, its variable, its help and its checks have one source.

Click hands the texts through; `tarn_common.settings.load` parses them, so that an error names the flag or the variable that
was really used.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
import typing
from collections.abc import Callable
from dataclasses import MISSING
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import click

from tarn_am.cli.client import AmClient
from tarn_am.cli.find import Where, am_client, checked_token
from tarn_am.cli.outcome import CommandError, Outcome
from tarn_am.cli.words import Seconds
from tarn_common import settings as common
from tarn_common.settings import SettingsError

T = TypeVar("T")
Body = Callable[..., Any]

# Second names of fields, for people who know the plural or the singular.
_ALIASES = {"models": ("--model",), "triton_args": ("--triton-arg",)}
TOKEN_WARNING = "tarn: --token shows the token to everyone who can list processes on this machine: use --token-file or TARN_TOKEN_FILE"  # noqa: S105


def of_settings(cls: type[Any], leave_out: tuple[str, ...] = ()) -> Callable[[Body], Body]:
    """A decorator that gives a command one option for each field of `cls`, in the fields' order."""

    def decorate(body: Body) -> Body:
        for field in reversed(dataclasses.fields(cls)):
            if field.name not in leave_out:
                body = _option(field, typing.get_type_hints(cls)[field.name])(body)
        return body

    return decorate


def _option(field: dataclasses.Field[Any], kind: Any) -> Callable[[Body], Body]:
    what = common.about(field)
    several = typing.get_origin(kind) is tuple
    names = ("--" + field.name.replace("_", "-"), *_ALIASES.get(field.name, ()))
    note = f"[{what.env}" + ("" if field.default in (MISSING, "", ()) else f"; default {_shown(field.default)}") + "]"
    return click.option(*names, field.name, multiple=several, metavar=_metavar(field.name, kind, what), help=f"{what.doc}  {note}")


def _shown(value: Any) -> str:
    value = value.value if isinstance(value, Enum) else value
    return f"{value:g}" if isinstance(value, float) else str(value)


def _metavar(name: str, kind: Any, what: common.About) -> str:
    if what.unit == "s":
        return "SECONDS"
    if kind is int:
        return "N"
    if name == "env":
        return "KEY=VALUE"
    return "FILE" if name.endswith("_file") else "DIR" if name.endswith("_dir") else "TEXT"


def load(cls: type[T], given: dict[str, Any]) -> T:
    """`cls` from the texts that click collected, then the environment. Raises CommandError with exit code 2."""
    fields = dataclasses.fields(cls)  # type: ignore[arg-type]
    wanted = {field.name: _joined(field.name, given[field.name]) for field in fields if given.get(field.name) not in (None, ())}
    for field in fields:
        variable = common.about(field).env
        if field.default is MISSING and field.name not in wanted and not os.environ.get(variable):
            flag = "--" + field.name.replace("_", "-")
            raise CommandError(Outcome.USAGE, f"{flag} is not given", f"give it, or {variable}: {common.about(field).doc}")
    try:
        return common.load(cls, os.environ, wanted)
    except SettingsError as error:
        raise CommandError(Outcome.USAGE, str(error)) from error


def _joined(name: str, value: Any) -> Any:
    """`--model a,b --model c` is three names; other repeated options may hold commas."""
    return ",".join(value) if name == "models" and not isinstance(value, str) else value


def connection(body: Body) -> Body:
    """Gives a command the options that say which Application Master it speaks to; values of the group stand where it has none."""
    token = click.option("--token", metavar="TEXT", help="the API token itself; seen in the process list, so prefer --token-file")
    return of_settings(Where)(token(body))


def with_am(body: Body) -> Body:
    """`connection`, and calls the command with an AmClient as its first argument."""

    @functools.wraps(body)
    @click.pass_context
    def call(ctx: click.Context, /, **values: Any) -> Any:
        names = [field.name for field in dataclasses.fields(Where)] + ["token"]
        own = {name: values.pop(name) for name in names}
        return body(client(ctx, own), **values)

    return connection(call)


def client(ctx: click.Context, own: dict[str, Any]) -> AmClient:
    """The client that the command's own options and those of the group mean together."""
    given = merged(ctx, own)
    token = given.pop("token", None)
    if token is not None:
        checked_token(token)
        click.echo(TOKEN_WARNING, err=True)
    try:
        return am_client(load(Where, given), token)
    except SettingsError as error:
        raise CommandError(Outcome.USAGE, str(error)) from error


def merged(ctx: click.Context, own: dict[str, Any]) -> dict[str, Any]:
    """The group's values, overruled by the command's own."""
    before: dict[str, Any] = ctx.obj or {}
    return {**before, **{name: value for name, value in own.items() if value is not None}}


def json_option(body: Body) -> Body:
    return click.option("--json", "as_json", is_flag=True, envvar="TARN_JSON", show_envvar=True, help="print JSON, for programs")(body)


def wait_options(default_s: float, by_default: bool = False) -> Callable[[Body], Body]:
    """`--wait/--no-wait` and the deadline of the wait."""

    def decorate(body: Body) -> Body:
        wait = click.option(
            "--wait/--no-wait",
            envvar="TARN_WAIT",
            show_envvar=True,
            default=by_default,
            help="return when it has happened, with progress" + ("  [default]" if by_default else ""),
        )
        limit = click.option(
            "--wait-s",
            envvar="TARN_WAIT_S",
            show_envvar=True,
            type=Seconds(),
            default=default_s,
            metavar="SECONDS",
            show_default=True,
            help="longest wait; exit code 5 when it passes",
        )
        return wait(limit(body))

    return decorate


def program() -> str:
    """How to call this command again: what the person typed, without the path."""
    return Path(sys.argv[0]).name or "tarn"
