"""Every flag of `tarn` has a variable of the environment, and its help names it."""

from __future__ import annotations

import click
import pytest

from tarn_am.cli.main import group

EXCEPTED = {"--help", "--version", "--token"}
"""A token in the environment would be seen by every child: there is TARN_TOKEN_FILE."""


def is_of_the_java_tarn(flag: click.Option) -> bool:
    """Taken so that an old command line is understood, and told to have no effect."""
    return flag.hidden or "of the Java TARN" in (flag.help or "")


def flags() -> list[tuple[str, click.Option]]:
    context = click.Context(group)
    verbs = {name: group.get_command(context, name) for name in group.list_commands(context)}
    return [
        (f"{name} {parameter.opts[0]}", parameter)
        for name, verb in verbs.items()
        if verb is not None
        for parameter in verb.params
        if isinstance(parameter, click.Option) and not EXCEPTED & set(parameter.opts) and not is_of_the_java_tarn(parameter)
    ]


@pytest.mark.parametrize(("name", "flag"), flags(), ids=lambda value: value if isinstance(value, str) else "")
def test_each_flag_has_its_variable(name: str, flag: click.Option) -> None:
    named = f"{flag.envvar or ''} {flag.help or ''}"
    assert "TARN_" in named or "HADOOP_" in named or "YARN_" in named, f"{name}: {named}"
